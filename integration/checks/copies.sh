#!/usr/bin/env bash
# copies.sh BINDIR: an archive with two copies. One of them has no room, then is gone for a while: the primary does not notice, and the copy
# catches up. Then the primary loses and damages objects, and is moved away altogether: restores come out right each time and say what came
# from where; nothing is mended in silence.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$here/lib.sh"
. "$here/scenario.sh"
[ $# -eq 1 ] || { sed -n '2,4s/^# //p' "$0"; exit 2; }

make_work copies
build_tidemark
NEAR="$TM_WORK/near"
FAR="$TM_WORK/far"

with_copies() { sed -i "s|^archive: .*|&\ncopies: [file://$NEAR, file://$FAR]|" "$CONFIG"; }
# Seconds by which a copy's watermark of a source lies behind the primary's; fails while it has none.
behind() { # behind COPY SOURCE
    "$TIDEMARK" list --config "$CONFIG" --json | python3 -c '
import json, sys
copy = next(c for c in json.load(sys.stdin)["copies"] if c["archive"] == sys.argv[1])
print(next(l["behindSeconds"] for l in copy["logs"] if l["source"] == sys.argv[2] and "behindSeconds" in l))' "file://$1" "$2"
}
is_level() { # is_level COPY…: within a few seconds, for both sources
    local copy source
    for copy in "$@"; do
        for source in main default; do python3 -c 'import sys; sys.exit(float(sys.argv[1]) > 5)' "$(behind "$copy" "$source")" || return 1; done
    done
}
copied_bases() { [ "$(find "$1/bases" -name base.json | wc -l)" -ge 2 ]; }
# primary_covers SECONDS: the primary is complete to now within so many seconds, copies or not
primary_covers() {
    local t source
    t="$(time_now)"
    for source in main default; do
        wait_for "the primary to be complete to $t for $source" "$1" watermark_of_primary "$source" "$t" || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
    done
}
watermark_of_primary() { "$TIDEMARK" window --archive "file://$ARCHIVE" --json | "$PROVE" watermark "$@"; }

# restore_and_prove NAME WARNING [OPTION…]: what a restore to T gives is right, and it says WARNING (empty: it has nothing to say)
restore_and_prove() {
    local name="$1" warning="$2" status=0
    shift 2
    "$TIDEMARK" restore "$@" --to-time "$T" --into "main=$TM_WORK/$name/main" --into "default=$TM_WORK/$name/default" --bindir "$BIN" \
        >"$TM_WORK/$name.out" 2>"$TM_WORK/$name.err" || status=$?
    [ "$status" -eq 0 ] || { cat "$TM_WORK/$name.out" "$TM_WORK/$name.err" >&2; die "restore $name: exit code $status"; }
    if [ -z "$warning" ]; then
        ! grep -q '^warning: .*came from' "$TM_WORK/$name.err" || { cat "$TM_WORK/$name.err" >&2; die "$name: a whole primary is reported"; }
    else
        grep -Eq "^warning: .*$warning" "$TM_WORK/$name.err" || { cat "$TM_WORK/$name.err" >&2; die "$name: no word of $warning"; }
        note "$(grep -E '^warning: .*(came from|listed in)' "$TM_WORK/$name.err" | cut -c1-200)"
    fi
    start_restored "$TM_WORK/$name/main"
    prove_restored "$T" "$TM_WORK/$name/default"
    stop_postgres "$RESTORED" immediate
    rm -rf "$RESTORED" "$TM_WORK/$name"
}

step "The world; the second copy on a small file system of its own; tidemark init makes the archive and its copies"
make_world "$1" 4
mkdir -p "$FAR"
as_root mount -t tmpfs -o size=150m,mode=0755 tidemark-copies "$FAR"
MOUNTS+=("$FAR")
as_root chown "$(id -u):$(id -g)" "$FAR"
with_copies
tidemark_or_die init --config "$CONFIG"
cmp "$ARCHIVE/tidemark.json" "$FAR/tidemark.json" || die "the copy is another archive"
start_agent
wait_for "both logs in the archive" 60 list_has_logs main default || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
tidemark_or_die backup --config "$CONFIG"
start_load 2 0.02
wait_for "bases in both copies" 60 eval 'copied_bases "$NEAR" && copied_bases "$FAR"' || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
wait_for "both copies to be level" 60 is_level "$NEAR" "$FAR" || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
tidemark_or_die check --config "$CONFIG"
"$TIDEMARK" check --config "$CONFIG" | grep -A8 '^copy ' | sed 's/^/  /'

step "One copy has no room: the primary and the other copy go on"
head -c 400M /dev/zero >"$FAR/filler" 2>/dev/null || true
sql "$PG" "CREATE TABLE bulk AS SELECT n, md5(n::text) FROM generate_series(1, 200000) n"
sql "$PG" "SELECT pg_switch_wal()" >/dev/null
wait_for "the agent to say so" 60 grep -q "error copy file://$FAR: .*No space left" "$TM_WORK/agent.log"
primary_covers 10
wait_for "the other copy to be level" 30 is_level "$NEAR"
! is_level "$FAR" || note "the full copy is level by its last watermark"
agent_alive

step "It has room again, and catches up"
rm "$FAR/filler"
wait_for "the copy to be level" 120 is_level "$FAR" || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }

step "The other copy's directory is gone for a while; the agent is stopped and started meanwhile"
mv "$NEAR" "$TM_WORK/moved"
wait_for "the agent to say so" 60 grep -q "error copy file://$NEAR: " "$TM_WORK/agent.log"
primary_covers 10
begun="$(now_ms)"
kill_agent TERM
[ $(( $(now_ms) - begun )) -lt 12000 ] || die "the agent took $(( $(now_ms) - begun )) ms to stop"
start_agent
wait_for "the agent to refuse to fill an empty place" 60 grep -q "The copy at file://$NEAR was there before" "$TM_WORK/agent.log"
primary_covers 10
[ ! -e "$NEAR" ] || die "the place of the copy was made anew"
mv "$TM_WORK/moved" "$NEAR"
wait_for "the copy to be level" 120 is_level "$NEAR" || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }

step "A moment T, more load, then everything comes to rest"
T="$(time_now)"
sleep 2
stop_load
wait_for "the window to hold $T" 60 window_covers "$T"
primary_covers 10
wait_for "both copies to be level" 60 is_level "$NEAR" "$FAR"
agent_alive
kill_agent TERM
tidemark_or_die verify --contents --archive "file://$NEAR"
tidemark_or_die verify --contents --archive "file://$FAR"
note "tidemark verify --contents finds both copies whole"

step "A whole primary: nothing comes from a copy"
restore_and_prove whole "" --config "$CONFIG"

step "The primary loses and damages objects"
part="$(find "$ARCHIVE/bases/main" -name 'part-*' | sort | head -1)"
flip "$part"
rm "$(find "$ARCHIVE/bases/default" -name 'index.zst' | head -1)"
segment="$(find "$ARCHIVE/log/main" -name '*.zst' ! -name '*.tail.zst' | sort | tail -1)"
rm "$segment"
pack="$(find "$ARCHIVE/log/default" -name '*.tar.zst' | sort | tail -1)"
rm "$pack.idx"
before="$(digest "$ARCHIVE")"
restore_and_prove harmed "objects came from file://$NEAR" --config "$CONFIG"
grep -q "SHA-256" "$TM_WORK/harmed.err" || { cat "$TM_WORK/harmed.err" >&2; die "the damage is not named"; }
[ "$(digest "$ARCHIVE")" = "$before" ] || die "something was mended in silence"
status=0
"$TIDEMARK" verify --contents --config "$CONFIG" >"$TM_WORK/verify.out" 2>&1 || status=$?
[ "$status" -eq 4 ] || { cat "$TM_WORK/verify.out" >&2; die "verify of a harmed primary: exit code $status"; }
"$TIDEMARK" plan --config "$CONFIG" --to-time "$T" --json 2>/dev/null | python3 -c 'import json, sys; sys.exit(not json.load(sys.stdin)["fallbacks"])' \
    || die "no fallbacks in the plan's JSON"

step "The same objects are damaged in the first copy as well: the second serves, with places named on the command line"
flip "$NEAR/${part#"$ARCHIVE"/}"
restore_and_prove twice "came from file://$FAR" --archive "file://$ARCHIVE" --archive "file://$NEAR" --archive "file://$FAR"

step "It is damaged everywhere: a clear error, and nothing is left behind"
flip "$FAR/${part#"$ARCHIVE"/}"
status=0
"$TIDEMARK" restore --config "$CONFIG" --to-time "$T" --into "main=$TM_WORK/nowhere" --source main --bindir "$BIN" >"$TM_WORK/nowhere.out" 2>&1 || status=$?
[ "$status" -eq 1 ] || { cat "$TM_WORK/nowhere.out" >&2; die "exit code $status"; }
grep -q "^error: .*${part##*/}.*is damaged.*The copies were tried too: file://$NEAR: .*file://$FAR: " "$TM_WORK/nowhere.out" \
    || { cat "$TM_WORK/nowhere.out" >&2; die "the error does not name all places"; }
[ ! -e "$TM_WORK/nowhere" ] || die "something stayed behind"
note "$(grep '^error:' "$TM_WORK/nowhere.out" | cut -c1-200)"

step "The primary is moved away altogether"
flip "$NEAR/${part#"$ARCHIVE"/}"
mv "$ARCHIVE" "$TM_WORK/gone"
restore_and_prove away "came from file://$NEAR.*There is no archive at file://$ARCHIVE" --config "$CONFIG"
"$TIDEMARK" wal-fetch --archive "file://$ARCHIVE" --archive "file://$NEAR" --source main "$(basename "$segment" .zst)" "$TM_WORK/fetched" 2>/dev/null \
    || die "wal-fetch from the copy failed"
[ ! -e "$ARCHIVE" ] || die "the primary was made anew"

step "Mended by hand as docs/copies.md says: the primary is whole again"
mv "$TM_WORK/gone" "$ARCHIVE"
rm "$part"
cp -rn "$NEAR/log" "$NEAR/bases" "$ARCHIVE/"
tidemark_or_die verify --contents --archive "file://$ARCHIVE"
restore_and_prove mended "" --archive "file://$ARCHIVE"
step_summary
