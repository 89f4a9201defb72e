#!/usr/bin/env bash
# retention.sh BINDIR: an archive with a copy and several bases, while the agent runs under load. A dry run changes nothing; an expiry with a tiny
# window leaves every moment restorable that it promises, what is held, and what a running restore reads; the copy expires too.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$here/lib.sh"
. "$here/scenario.sh"
[ $# -eq 1 ] || { sed -n '2,3s/^# //p' "$0"; exit 2; }

make_work retention
build_tidemark
COPY="$TM_WORK/copy"
TINY="$TM_WORK/tiny.yaml"

bases() { find "$1/bases/$2" -name base.json -printf '%h\n' | xargs -rn1 basename | sort; } # bases ARCHIVE SOURCE: ids of the complete ones
completed() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["completed"])' "$(find "$1/bases/$2/"*"/$3" -name base.json)"; }
has_bases() { [ "$(bases "$1" main | wc -l)" -ge "$2" ] && [ "$(bases "$1" default | wc -l)" -ge "$2" ]; }
uses() { find "$ARCHIVE/uses" -name '*.json' 2>/dev/null | grep -q .; }
# in nanoseconds since 1970, from what a record says
moment_of() { python3 - "$1" <<'PY'
import datetime, sys
value = int(sys.argv[1])
base = datetime.datetime.fromtimestamp(value // 10**9, datetime.timezone.utc)
print(base.strftime("%Y-%m-%dT%H:%M:%S") + ".%09dZ" % (value % 10**9))
PY
}
expect() { grep -Eq -- "$1" "$2" || { cat "$2" >&2; die "no word of '$1'"; }; }
verify_clean() {
    local place
    for place in "$ARCHIVE" "$COPY"; do tidemark_or_die verify --contents --archive "file://$place"; done
    note "tidemark verify --contents finds the primary and the copy whole"
}
# plans_all SOURCE: a restore of SOURCE can be planned for ten times of its window, first and last among them
plans_all() {
    local time times
    times="$("$TIDEMARK" window --config "$CONFIG" --json | python3 -c '
import datetime, json, sys
ranges = next(s for s in json.load(sys.stdin)["sources"] if s["name"] == sys.argv[1])["intervals"]
read = lambda t: datetime.datetime.fromisoformat(t[:26].rstrip("Z") + "+00:00")
for r in ranges:
    a, b = read(r["from"]), read(r["to"])
    # The two clocks of a pair differ, by less than what is left out at the ends.
    edge = min(datetime.timedelta(milliseconds=100), (b - a) / 4)
    for n in range(10): print((a + edge + (b - a - 2 * edge) * n / 9).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))' "$1")"
    [ -n "$times" ] || die "$1 has no window"
    for time in $times; do tidemark_or_die plan --config "$CONFIG" --source "$1" --to-time "$time"; done
    note "$1: $(echo "$times" | wc -l) times of the window can be planned, from $(echo "$times" | head -1) on"
}

step "The world, an archive with a copy, load, three bases"
make_world "$1" 3
sed -i "s|^archive: .*|&\ncopies: [file://$COPY]|" "$CONFIG"
tidemark_or_die init --config "$CONFIG"
start_agent
wait_for "both logs in the archive" 60 list_has_logs main default || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
start_load 1 0.1
for n in 1 2 3; do
    tidemark_or_die backup --config "$CONFIG"
    sql "$PG" "SELECT pg_switch_wal()" >/dev/null
    sleep 1  # names of bases tell the order of those that began in different seconds
done
wait_for "three bases in both places" 300 eval 'has_bases "$ARCHIVE" 3 && has_bases "$COPY" 3' || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
mapfile -t MAIN < <(bases "$ARCHIVE" main)
mapfile -t DEFAULT < <(bases "$ARCHIVE" default)
# From then on the window of two seconds begins after the second bases, and so the first ones are needed no more.
later="$(moment_of $(( $(completed "$ARCHIVE" default "${DEFAULT[1]}") + 3000000000 )))"
wait_for "the window to hold $later" 120 window_covers "$later" || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }

step "Without a policy nothing is expired"
status=0
"$TIDEMARK" expire --apply --config "$CONFIG" >"$TM_WORK/none.out" 2>&1 || status=$?
[ "$status" -eq 2 ] || die "exit code $status without a policy"
expect 'keep: \{ window' "$TM_WORK/none.out"
sed 's|^tail: .*|&\nkeep: { window: 2s, bases: 1 }|' "$CONFIG" >"$TINY"

step "A dry run tells what would go, and changes nothing"
kill -STOP "$AGENT_PID"
before="$(digest "$ARCHIVE") $(digest "$COPY")"
"$TIDEMARK" expire --config "$TINY" >"$TM_WORK/dry.out" || die "expire: exit code $?"
[ "$before" = "$(digest "$ARCHIVE") $(digest "$COPY")" ] || die "the dry run changed something"
kill -CONT "$AGENT_PID"
expect "would go  base ${MAIN[0]}" "$TM_WORK/dry.out"
expect "stays     base ${MAIN[2]}.*the last usable one" "$TM_WORK/dry.out"
expect 'nothing was changed' "$TM_WORK/dry.out"
sed 's/^/  /' "$TM_WORK/dry.out"

step "The second base of the database is held; a restore of the first one is under way and stopped for a while"
"$TIDEMARK" keep --config "$CONFIG" --source main --base "${MAIN[1]}" --reason 'a check' --json >"$TM_WORK/hold.json"
HOLD="$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["holds"][0]["id"])' "$TM_WORK/hold.json")"
# hold_restore: a restore of the first base that was stopped while it reads; sets RESTORE
hold_restore() {
    local attempt first
    first="$(moment_of $(( $(completed "$ARCHIVE" default "${DEFAULT[0]}") + 1000000 )))"
    for attempt in 1 2 3 4 5; do
        rm -rf "$TM_WORK/old-default"
        "$TIDEMARK" restore --config "$CONFIG" --source default --to-time "$first" --into "default=$TM_WORK/old-default" >"$TM_WORK/old.out" 2>&1 &
        RESTORE=$!
        PIDS+=("$RESTORE")
        until uses || ! kill -0 "$RESTORE" 2>/dev/null; do :; done
        kill -STOP "$RESTORE" 2>/dev/null || true
        # It may have been over before it was stopped.
        if uses && [ "$(ps -o stat= -p "$RESTORE" | cut -c1)" = T ]; then return 0; fi
        kill -CONT "$RESTORE" 2>/dev/null || true
        wait "$RESTORE" || { cat "$TM_WORK/old.out" >&2; die "the restore failed"; }
        forget_pid "$RESTORE"
    done
    die "no restore could be stopped while it reads in $attempt attempts"
}
hold_restore
"$TIDEMARK" keep --list --config "$CONFIG" | sed 's/^/  /'

step "Expire, with a window of two seconds"
"$TIDEMARK" expire --apply --config "$TINY" >"$TM_WORK/applied.out" || { cat "$TM_WORK/applied.out" >&2; die "expire: exit code $?"; }
sed 's/^/  /' "$TM_WORK/applied.out"
expect "stays     base ${MAIN[1]}.*held by $HOLD" "$TM_WORK/applied.out"
expect "stays     base ${DEFAULT[0]}.*in use by the restore" "$TM_WORK/applied.out"
[ "$(bases "$ARCHIVE" main | head -1)" = "${MAIN[1]}" ] || die "the first base is still there, or the held one is gone"
[ "$(bases "$COPY" main | head -1)" = "${MAIN[1]}" ] || die "the copy has another first base than the held one"
bases "$ARCHIVE" default | grep -qx "${DEFAULT[0]}" || die "the base that is read is gone"
bases "$COPY" default | grep -qx "${DEFAULT[0]}" || die "the copy lost the base that is read"
[ -z "$(find "$ARCHIVE/expiry" "$COPY/expiry" -type f)" ] || die "an announcement is left"
agent_alive

step "The restore goes on and ends well"
kill -CONT "$RESTORE"
status=0
wait "$RESTORE" || status=$?
forget_pid "$RESTORE"
[ "$status" -eq 0 ] || { cat "$TM_WORK/old.out" >&2; die "the restore: exit code $status"; }
! uses || die "the restore left its use"
verify_clean
plans_all main
plans_all default

step "The hold is released: now the rest goes too, in the copy as well"
tidemark_or_die keep --config "$CONFIG" --release "$HOLD"
"$TIDEMARK" expire --apply --config "$TINY" --json >"$TM_WORK/second.json"
for place in "$ARCHIVE" "$COPY"; do
    ! bases "$place" main | grep -qx "${MAIN[1]}" || die "the base that was held is still in $place"
    ! bases "$place" default | grep -qx "${DEFAULT[0]}" || die "the base that was read is still in $place"
done
note "left: $(find "$ARCHIVE/log/main" -name '*.zst' | wc -l) pieces of the database's log, $(find "$ARCHIVE/log/default" -name '*.zst' | wc -l) of the repositories'"

step "More load, a new agent; everything comes to rest"
kill_agent TERM
start_agent
tidemark_or_die backup --config "$CONFIG"
T="$(time_now)"
rows="$(wc -l <"$JOURNAL")"
wait_for "rows from after $T" 60 eval '[ "$(wc -l <"$JOURNAL")" -ge $((rows + 5)) ]'
stop_load
wait_for "the window to hold $T" 120 window_covers "$T" || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
tidemark_or_die log --config "$CONFIG" --since -1h
wait_for "the new bases in the copy" 300 eval '[ "$(bases "$COPY" main | tail -1)" = "$(bases "$ARCHIVE" main | tail -1)" ] && [ "$(bases "$COPY" default | tail -1)" = "$(bases "$ARCHIVE" default | tail -1)" ]'
agent_alive
kill_agent TERM
! grep -q ' error ' "$TM_WORK/agent.log" || { grep ' error ' "$TM_WORK/agent.log" >&2; die "the agent met errors"; }
verify_clean
plans_all main
plans_all default

step "What is left is restored and proven"
tidemark_or_die restore --config "$CONFIG" --to-time "$T" --into "main=$TM_WORK/restored-main" --into "default=$TM_WORK/restored-default" --bindir "$BIN"
start_restored "$TM_WORK/restored-main"
prove_restored "$T" "$TM_WORK/restored-default"
step_summary
