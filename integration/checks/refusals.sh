#!/usr/bin/env bash
# refusals.sh BINDIR: what cannot be done is refused with its own error and exit status, and changes nothing.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$here/lib.sh"
. "$here/scenario.sh"
[ $# -eq 1 ] || { sed -n '2s/^# //p' "$0"; exit 2; }

make_work refusals
build_tidemark
# Where the user of PostgreSQL reaches it too; a clone may lie in somebody's home.
cp "$TIDEMARK" "$TM_WORK/tidemark"
TIDEMARK="$TM_WORK/tidemark"

TARGET="$TM_WORK/target"
DAMAGED="$TM_WORK/damaged"
restore() { "$TIDEMARK" restore --bindir "$BIN" "$@"; }
packs() { find "$ARCHIVE/log/default" -name '*.tar.zst' | wc -l; }
has_packs() { [ "$(packs)" -ge "$1" ]; }

step "An archive of both sources, its agent stopped"
make_world "$1" 3
too_early="$(time_now)"
tidemark_or_die init --config "$CONFIG"
start_load 2 0.02
start_agent
wait_for "both logs in the archive" 60 list_has_logs main default || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
tidemark_or_die backup --config "$CONFIG"
# The first may have entries that the base has, which no restore reads; those behind it, and all before the one of the target, are read whole.
enough=$(( $(packs) + 3 ))
for n in 1 2 3 4; do sql "$PG" "CREATE TABLE part_$n(n int); INSERT INTO part_$n VALUES (1); SELECT pg_switch_wal()" >/dev/null; sleep 0.3; done
wait_for "packs behind the base" 60 has_packs "$enough"
T="$(time_now)"
sleep 0.2
stop_load
sql "$PG" "CREATE TABLE after_time(n int)"
wait_for "the window to hold $T" 90 window_covers "$T" || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
kill_agent TERM
# Where the user of PostgreSQL may write.
OPEN="$TM_WORK/open"
mkdir "$OPEN"
if [ "$(id -u)" = 0 ]; then chown postgres "$OPEN"; fi
into_both=(--into "main=$TARGET/main" --into "default=$TARGET/default")

step "No archive"
sed "s#^archive: .*#archive: file://$TM_WORK/nowhere#" "$CONFIG" >"$TM_WORK/nowhere.yaml"
for command in list window "plan --latest" agent backup; do
    # shellcheck disable=SC2086
    refused 1 'no archive at' "$TIDEMARK" $command --config "$TM_WORK/nowhere.yaml"
done
refused 1 'no archive at' "$TIDEMARK" check --config "$TM_WORK/nowhere.yaml"
refused 1 'no archive at' restore --config "$TM_WORK/nowhere.yaml" --latest "${into_both[@]}"
[ ! -e "$TM_WORK/nowhere" ] || die "the missing archive was made"
refused 3 'is an archive already' "$TIDEMARK" init --config "$CONFIG"

step "Wrong archive: another cluster under the same name"
start_postgres "$BIN" "$TM_WORK/other"
sed -e "s#conninfo: .*#conninfo: \"$(conninfo "$TM_WORK/other")\"#" -e "s#^state: .*#state: $TM_WORK/other-state#" -e '/gitaly/,$d' "$CONFIG" >"$TM_WORK/other.yaml"
refused 1 'has the identity' "$TIDEMARK" check --config "$TM_WORK/other.yaml"
refused 3 'has the identity' "$TIDEMARK" backup --config "$TM_WORK/other.yaml"
refused 3 'has the identity' "$TIDEMARK" agent --config "$TM_WORK/other.yaml"
[ "$(sql "$TM_WORK/other" "SELECT count(*) FROM pg_replication_slots")" = 0 ] || die "a slot was made on the other cluster"
stop_postgres "$TM_WORK/other"

step "Unreadable storage"
sed -e "s#^    storage: .*#    storage: $TM_WORK/no-storage#" "$CONFIG" >"$TM_WORK/no-storage.yaml"
refused 1 'not a directory' "$TIDEMARK" check --config "$TM_WORK/no-storage.yaml" --source default
refused 1 'no Gitaly storage' "$TIDEMARK" backup --config "$TM_WORK/no-storage.yaml" --source default
if [ "$(id -u)" = 0 ]; then
    cp -a "$STORAGE" "$TM_WORK/closed"
    chmod 0700 "$TM_WORK/closed"
    mkdir -p "$TM_WORK/closed-state"
    chown postgres "$TM_WORK/closed-state"
    cp -a "$ARCHIVE" "$TM_WORK/closed-archive"
    chown -R postgres "$TM_WORK/closed-archive"
    sed -e "s#^    storage: .*#    storage: $TM_WORK/closed#" -e "s#^state: .*#state: $TM_WORK/closed-state#" \
        -e "s#^archive: .*#archive: file://$TM_WORK/closed-archive#" "$CONFIG" >"$TM_WORK/closed.yaml"
    refused 1 'cannot be read' as_postgres "$TIDEMARK" check --config "$TM_WORK/closed.yaml" --source default
    refused 1 'Permission denied' as_postgres "$TIDEMARK" backup --config "$TM_WORK/closed.yaml" --source default
fi

step "Targets"
mkdir -p "$TARGET/main"
echo precious >"$TARGET/main/file"
refused 3 'is not empty' restore --config "$CONFIG" --latest "${into_both[@]}"
rm -r "$TARGET"
refused 2 'offset|zone' restore --config "$CONFIG" --to-time "2026-11-24 02:53:30" "${into_both[@]}"
refused 3 'before the end of the base.*' restore --config "$CONFIG" --to-time "$too_early" "${into_both[@]}"
grep -q 'nearest later time' "$TM_WORK/refused.out" || die "the nearest time is not named"
refused 3 'complete only up to' restore --config "$CONFIG" --to-time "2199-01-01T00:00:00Z" "${into_both[@]}"
grep -q 'nearest earlier time' "$TM_WORK/refused.out" || die "the nearest time is not named"

# A fresh copy of the archive in $DAMAGED; sets segment and pack: the last but one of the closed segments, and the last pack with entries
# that a plan to $T reads, which is what the archive's own plan says.
fresh() {
    rm -rf "$DAMAGED"
    cp -a "$ARCHIVE" "$DAMAGED"
    segment="$(find "$DAMAGED/log/main" -name '*.zst' ! -name '*.tail.zst' | sort | tail -2 | head -1)"
    pack="$(find "$DAMAGED/log/default" -name "$(basename "$NEEDED")")"
}
hurt() { # hurt KIND FILE
    case "$1" in
        corrupt) flip "$2" ;;
        truncated) truncate -s -100 "$2" ;;
        lost) rm "$2" ;;
        missing) rm "$2" "$2.idx" ;;
        unreadable) chown root "$2"; chmod 0600 "$2" ;;
    esac
}

fresh_plan="$("$TIDEMARK" plan --archive "file://$ARCHIVE" --source default --to-time "$T" --save --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["plan"])')"
NEEDED="$(zstd -dcq "$ARCHIVE/plans/$fresh_plan/default.zst" | grep -aoE '[0-9A-F]{16}\.tar\.zst' | sort | tail -2 | head -1)"
[ -n "$NEEDED" ] || die "the plan needs no pack"

step "Damaged segments and packs"
for kind in corrupt truncated lost missing; do
    case "$kind" in corrupt|truncated) status=1 words='is damaged|bytes' ;; *) status=3 words='has a hole' ;; esac
    fresh; hurt "$kind" "$segment"
    refused "$status" "$words" restore --archive "file://$DAMAGED" --to-time "$T" --into "main=$TARGET/main"
    fresh; hurt "$kind" "$pack"
    refused "$status" "$words" restore --archive "file://$DAMAGED" --to-time "$T" --into "default=$TARGET/default"
done
if [ "$(id -u)" = 0 ]; then
    fresh; chown -R postgres "$DAMAGED"; hurt unreadable "$segment"
    refused 1 'Permission denied' as_postgres "$TIDEMARK" restore --archive "file://$DAMAGED" --to-time "$T" --into "main=$OPEN/main" --bindir "$BIN"
    [ -z "$(ls -A "$OPEN")" ] || die "the target was made"
fi
[ ! -e "$TARGET" ] || [ -z "$(ls -A "$TARGET")" ] || die "something stayed behind: $(ls -A "$TARGET")"

step "A server that recovers by itself never opens short of its target"
for kind in corrupt missing unreadable; do
    [ "$kind" != unreadable ] || [ "$(id -u)" = 0 ] || continue
    fresh
    if [ "$(id -u)" = 0 ]; then chown -R postgres "$DAMAGED"; fi
    prepared="$OPEN/prepared-$kind"
    tidemark_or_die restore --archive "file://$DAMAGED" --to-time "$T" --into "main=$prepared" --recover none
    # What the base itself brought must not hide the damage.
    [ ! -e "$prepared/pg_wal/$(basename "$segment" .zst)" ] || die "the damaged segment is part of the base"
    hurt "$kind" "$segment"
    # Whether it comes up or not: what counts is how its recovery ends.
    as_postgres "$BIN/pg_ctl" -D "$prepared" -l "$prepared.log" -w -t 60 \
        -o "-c listen_addresses='' -c unix_socket_directories='$PG' -c port=$(free_port) -c hot_standby=off" start >/dev/null 2>&1 || true
    await_recovery "$prepared" "$prepared.log"
    [ "$OUTCOME" = ended ] || {
        as_postgres "$BIN/pg_ctl" -D "$prepared" -m immediate stop >/dev/null 2>&1
        tail -20 "$prepared.log" >&2
        die "$kind: the server's recovery is $OUTCOME, short of its target"
    }
    state="$(as_postgres "$BIN/pg_controldata" "$prepared" 2>/dev/null | sed -n 's/^Database cluster state: *//p')"
    [ "$state" = "in archive recovery" ] || { tail -20 "$prepared.log" >&2; die "$kind: the cluster is '$state'"; }
    grep -q FATAL "$prepared.log" || die "$kind: no FATAL in the server's log"
    note "$kind: $(grep -m1 FATAL "$prepared.log" | sed 's/.*FATAL/FATAL/')"
done
step_summary
