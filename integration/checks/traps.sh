#!/usr/bin/env bash
# traps.sh BINDIR: where PostgreSQL's own recovery goes wrong in silence or ends FATAL, on the same base and log Tidemark does not.
#
# Each trap is sprung first: PostgreSQL recovers by itself what zstd and tar read out of the archive. What must not happen does happen
# there, or the check has nothing to show. Then Tidemark is given the same archive and the same target.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$here/lib.sh"
. "$here/scenario.sh"
[ $# -eq 1 ] || { sed -n '2s/^# //p' "$0"; exit 2; }

make_work traps
build_tidemark
# Where the user of PostgreSQL reaches it too; a clone may lie in somebody's home.
cp "$TIDEMARK" "$TM_WORK/tidemark"
TIDEMARK="$TM_WORK/tidemark"
TARGET="$TM_WORK/target"
DAMAGED="$TM_WORK/damaged"
BIN="$1"
PG="$TM_WORK/postgres"
ARCHIVE="$TM_WORK/archive"
CONFIG="$TM_WORK/tidemark.yaml"
broken=0

# expect WHAT COMMAND…: goes on after a failure, so that one run tells all of them.
expect() {
    local what="$1"
    shift
    if ( "$@" ); then return 0; fi
    printf 'FAILED: %s\n' "$what" >&2
    broken=$((broken + 1))
}
is() { [ "$1" = "$2" ] || die "it is '$1', not '$2'"; }

# A time as RFC 3339 in UTC, to PostgreSQL's microsecond.
server_time() { sql "$PG" "SELECT to_char(($1) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"; }
server_now() { server_time "clock_timestamp()"; }

# ------------------------------------------------------------------------------------ without the guard

# base_folder NUMBER: the archive's bases of main, 1 is the oldest
base_folder() { find "$ARCHIVE/bases/main" -name base.json | sort | sed -n "$1p" | xargs dirname; }

# read_log ARCHIVE DIR [short]: all files of the log into DIR with zstd alone; short: an open segment is left as short as it is
read_log() {
    local f name segment first
    rm -rf "$2"
    mkdir "$2"
    for f in "$1"/log/main/*/*/*/*.zst; do
        name="$(basename "$f")"
        segment="${name%%.*}"
        case "$name" in
            *.tail.zst)
                [ ! -e "${f%"$name"}$segment.zst" ] || continue
                first="${name#*.}"
                first="${first%%-*}"
                zstd -dcq "$f" | dd of="$2/$segment" bs=1M seek=$((0x$first % 16777216)) oflag=seek_bytes conv=notrunc status=none
                [ "${3:-}" = short ] || truncate -s 16777216 "$2/$segment" ;;
            *) zstd -dcq "$f" >"$2/$segment" ;;
        esac
    done
    for f in "$1"/branches/main/*/*.history; do [ ! -e "$f" ] || cp "$f" "$2/"; done
    chmod -R a+rX "$2"
}

# alone BASE LOG [SETTING…]: PostgreSQL recovers base number BASE by itself, with `cp` from LOG, in $ALONE. Sets OUTCOME: open or ended.
attempts=0
alone() {
    attempts=$((attempts + 1))
    ALONE="$TM_WORK/alone-$attempts"
    mkdir -p "$ALONE/data"
    chmod 0700 "$ALONE/data"
    cat "$(base_folder "$1")"/part-*.tar.zst | zstd -dcq | tar -x -C "$ALONE/data"
    touch "$ALONE/data/recovery.signal"
    if [ "$(id -u)" = 0 ]; then chown -R postgres:postgres "$ALONE"; fi
    local settings=("${@:3}")
    # PostgreSQL does not take a Z there.
    settings=("${settings[@]/%Z\'/+00\'}")
    start_postgres "$BIN" "$ALONE" "restore_command = 'cp $2/%f %p'" "recovery_target_action = promote" "hot_standby = off" "fsync = off" \
        ${settings[@]+"${settings[@]}"} 2>/dev/null || true
    await_recovery "$ALONE/data" "$ALONE/log"
    [ "$OUTCOME" != endless ] || { tail -20 "$ALONE/log" >&2; die "its recovery does not end"; }
}

alone_ends() { # alone_ends PATTERN [WHAT]: it ended FATAL with these words
    [ "$OUTCOME" = ended ] || { tail -20 "$ALONE/log" >&2; die "nothing to show: PostgreSQL opened by itself"; }
    grep -Eq "FATAL: .*$1" "$ALONE/log" || { tail -20 "$ALONE/log" >&2; die "nothing to show: no FATAL with '$1'"; }
    note "${2:-without the guard}: $(grep -Em1 "FATAL: .*$1" "$ALONE/log" | sed 's/.*FATAL/FATAL/')"
}

alone_opens() { # alone_opens STATEMENT RESULT: it opened, and this is what it holds
    [ "$OUTCOME" = open ] || { tail -20 "$ALONE/log" >&2; die "nothing to show: PostgreSQL did not open by itself"; }
    local got
    got="$(sql "$ALONE" "$1")"
    [ "$got" = "$2" ] || die "nothing to show: '$got' instead of '$2': $1"
    note "without the guard: promoted, $1: $got"
    stop_postgres "$ALONE" immediate
}

# --------------------------------------------------------------------------------------- with Tidemark

restore() { "$TIDEMARK" restore --bindir "$BIN" --into "main=$TARGET" "$@"; }
# unreachable ARCHIVE TIME PATTERN [earlier|later…] [-- OPTION…]: refused, saying PATTERN and naming the nearest times that can be reached
unreachable() {
    local archive="$1" time="$2" pattern="$3"
    shift 3
    local words=()
    while [ $# -gt 0 ] && [ "$1" != -- ]; do words+=("$1"); shift; done
    [ $# -eq 0 ] || shift
    rm -rf "$TARGET"
    refused 3 "$pattern" restore --archive "file://$archive" --to-time "$time" "$@"
    local word
    for word in ${words[@]+"${words[@]}"}; do names "$word" "$archive" "$time" "$@"; done
}

# restored_holds ARCHIVE STATEMENT RESULT OPTION…: the restore succeeds, and the opened server answers so
restored_holds() {
    local server got archive="$1" statement="$2" result="$3"
    server="$(mktemp -d "$TM_WORK/server-XXXXXX")"
    chmod 0755 "$server"
    tidemark_or_die restore --bindir "$BIN" --into "main=$server/data" --archive "file://$archive" "${@:4}"
    start_postgres "$BIN" "$server" "hot_standby = off" "fsync = off"
    got="$(sql "$server" "$statement")"
    stop_postgres "$server" immediate
    [ "$got" = "$result" ] || die "'$got' instead of '$result': $statement"
    note "with Tidemark: restored, $statement: $got"
}

# names earlier|later ARCHIVE TIME [OPTION…]: the refusal names the nearest such time; it is one, and it can be reached itself
names() {
    local word="$1" archive="$2" target="$3" named
    named="$(grep -Eo "nearest $word time is [0-9][0-9T:.-]*Z" "$TM_WORK/refused.out" | sed 's/.* //')"
    [ -n "$named" ] || { cat "$TM_WORK/refused.out" >&2; die "the refusal does not name the nearest $word time"; }
    python3 - "$word" "$named" "$target" <<'PY' || die "the nearest $word time is $named, which is none for $target"
import sys
def number(text):
    whole, _, fraction = text.rstrip("Z").partition(".")
    return whole, fraction.ljust(9, "0")
word, named, target = sys.argv[1:]
sys.exit(not (number(named) < number(target) if word == "earlier" else number(named) > number(target)))
PY
    "$TIDEMARK" plan --archive "file://$archive" --to-time "$named" "${@:4}" >"$TM_WORK/named.out" 2>&1 \
        || { cat "$TM_WORK/named.out" >&2; die "the nearest $word time, $named, cannot be reached"; }
    note "the nearest $word time is $named, and can be reached"
}

# with_wal_fetch BASE ARCHIVE: PostgreSQL recovers by itself, without a target, with wal-fetch
with_wal_fetch() {
    # The user of PostgreSQL must be able to read it, or any segment fails.
    chmod -R a+rX "$2"
    alone "$1" "$TM_WORK/log" "restore_command = '$TIDEMARK wal-fetch --archive file://$2 --source main %f %p'"
}

# wal_fetch ARCHIVE FILE STATUS [BYTES]
wal_fetch() {
    local got=0
    rm -f "$TM_WORK/fetched"
    "$TIDEMARK" wal-fetch --archive "file://$1" --source main "$2" "$TM_WORK/fetched" >"$TM_WORK/fetch.out" 2>&1 || got=$?
    [ "$got" = "$3" ] || { cat "$TM_WORK/fetch.out" >&2; die "wal-fetch $2: exit code $got, not $3"; }
    if [ "$3" = 0 ]; then is "$(stat -c %s "$TM_WORK/fetched")" "$4"; elif [ -e "$TM_WORK/fetched" ]; then die "wal-fetch left a file"; fi
    note "with Tidemark: wal-fetch $2 ends with status $got"
}

# The agent, and its log from here on; a backup right after must not be first to hold the lock.
agent() {
    : >"$TM_WORK/agent.log"
    start_agent
    wait_for "the agent to archive" 60 grep -q 'main: archiving' "$TM_WORK/agent.log" || { cat "$TM_WORK/agent.log" >&2; exit 1; }
}
window_covers_now() { wait_for "the window to hold $1" 60 window_covers "$1" main || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }; }
numbers() { sql "$PG" "INSERT INTO numbers SELECT $1 FROM generate_series(1, 100)"; }
next_segment() { sql "$PG" "SELECT pg_switch_wal()" >/dev/null; }
segment_of_next_row() { sql "$PG" "SELECT pg_walfile_name(pg_current_wal_insert_lsn())"; }

# -------------------------------------------------------------------------------------------- the history

step "One history: a table that is dropped before the base, rows in five segments, a dropped table, idle time"
# Nothing commits but what this check does: no autovacuum; and WAL goes when a checkpoint says so.
start_postgres "$BIN" "$PG" "track_commit_timestamp = on" "autovacuum = off" "checkpoint_timeout = '1h'" "wal_keep_size = 0"
DSN="$(conninfo "$PG")"
write_config_postgres_only
tidemark_or_die init --config "$CONFIG"
agent
wait_for "the log in the archive" 60 list_has_logs main || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
sql "$PG" "CREATE TABLE numbers(n int); CREATE TABLE treasure AS SELECT n FROM generate_series(1, 1000) n; CREATE TABLE early AS SELECT 1 AS n"
before_drop="$(server_now)"
sql "$PG" "DROP TABLE early"
tidemark_or_die backup --config "$CONFIG"
next_segment
for n in 1 2 3 4 5; do
    [ "$n" != 3 ] || middle="$(segment_of_next_row)"
    numbers "$n"
    after[n]="$(server_now)"
    next_segment
done
xid="$(sql "$PG" "BEGIN; SELECT pg_current_xact_id(); DROP TABLE treasure; COMMIT" | head -1)"
dropped="$(server_time "pg_xact_commit_timestamp('$xid'::xid)")"
just_before="$(server_time "pg_xact_commit_timestamp('$xid'::xid) - interval '1 microsecond'")"
numbers 6
idle="$(server_now)"
window_covers_now "$idle"
kill_agent TERM
read_log "$ARCHIVE" "$TM_WORK/log"
note "$(find "$TM_WORK/log" -type f | wc -l) segments; the table was dropped at $dropped, and the database is idle since before $idle"

step "A target in idle time after the last commit"
alone 1 "$TM_WORK/log" "recovery_target_time = '$idle'"
alone_ends 'recovery ended before configured recovery target was reached'
expect "restore to idle time" restored_holds "$ARCHIVE" "SELECT count(*) FROM numbers" 600 --to-time "$idle"

step "A target before the end of the base, and no commit in between"
alone 1 "$TM_WORK/log" "recovery_target_time = '$before_drop'"
alone_opens "SELECT to_regclass('early') IS NOT NULL" f
expect "refusal before the base" unreachable "$ARCHIVE" "$before_drop" 'before the end of the base' later

step "A target beyond what is archived"
alone 1 "$TM_WORK/log" "recovery_target_time = '2199-01-01T00:00:00Z'"
alone_ends 'recovery ended before configured recovery target was reached'
expect "refusal beyond the archive" unreachable "$ARCHIVE" 2199-01-01T00:00:00Z 'complete only up to' earlier

step "One microsecond before a DROP TABLE, and at its very time"
is "$(sql "$PG" "SELECT to_regclass('treasure') IS NULL")" t
expect "just before" restored_holds "$ARCHIVE" "SELECT (SELECT count(*) FROM treasure), (SELECT count(*) FROM numbers)" "1000|500" --to-time "$just_before"
expect "at its time" restored_holds "$ARCHIVE" "SELECT to_regclass('treasure') IS NULL, (SELECT count(*) FROM numbers)" "t|500" --to-time "$dropped"

step "A file of the log that is short"
tail_object="$(find "$ARCHIVE/log/main" -name '*.tail.zst' | sort | tail -1)"
[ -n "$tail_object" ] || die "the archive has no tail"
open_segment="$(basename "$tail_object")"
open_segment="${open_segment%%.*}"
read_log "$ARCHIVE" "$TM_WORK/short-log" short
[ "$(stat -c %s "$TM_WORK/short-log/$open_segment")" -lt 16777216 ] || die "the open segment is not short"
alone 1 "$TM_WORK/short-log"
alone_ends 'has wrong size'
expect "the open segment is filled" wal_fetch "$ARCHIVE" "$open_segment" 0 16777216
# What fills it is nothing: the rows of the tail were there when idle time was restored, above.
cp -a "$ARCHIVE" "$DAMAGED"
truncate -s -20 "$DAMAGED/${tail_object#"$ARCHIVE/"}"
expect "a cut tail" wal_fetch "$DAMAGED" "$open_segment" 128
rm -rf "$TARGET"
expect "a cut tail" refused 1 'is damaged|bytes' restore --archive "file://$DAMAGED" --to-time "$idle"

step "A restore_command that ends with 1 for whatever went wrong"
rm -rf "$DAMAGED"
cp -a "$ARCHIVE" "$DAMAGED"
damaged="$(find "$DAMAGED/log/main" -name "$middle.zst")"
flip "$damaged"
chmod -R a+rX "$DAMAGED"
folder="$(dirname "$(dirname "$damaged")")"
fetch="restore_command = 'zstd -dcq $folder/*/%f.zst >%p'"
alone 1 "$TM_WORK/log" "$fetch"
alone_opens "SELECT count(*) FROM numbers" 200
alone 1 "$TM_WORK/log" "$fetch" "recovery_target_time = '${after[5]}'"
alone_ends 'recovery ended before configured recovery target was reached'
expect "storage error" wal_fetch "$DAMAGED" "$middle" 128
expect "really missing" wal_fetch "$DAMAGED" 00000001000000FF00000001 1
expect "really missing" wal_fetch "$DAMAGED" 00000002.history 1
with_wal_fetch 1 "$DAMAGED"
expect "the server stops" alone_ends "restore.*$middle.*exit code 128" "with Tidemark's wal-fetch"
rm -rf "$TARGET"
expect "the restore fails" refused 1 'is damaged' restore --archive "file://$DAMAGED" --to-time "${after[5]}"

step "A second base, then a segment in the middle is gone"
agent
tidemark_or_die backup --config "$CONFIG"
numbers 7
newest="$(server_now)"
numbers 8
proven="$(server_now)"
window_covers_now "$proven"
kill_agent TERM
rm -rf "$DAMAGED"
cp -a "$ARCHIVE" "$DAMAGED"
find "$DAMAGED/log/main" -name "$middle.zst*" -delete
read_log "$DAMAGED" "$TM_WORK/log"
[ ! -e "$TM_WORK/log/$middle" ] || die "the segment is still there"
alone 1 "$TM_WORK/log"
alone_opens "SELECT count(*) FROM numbers" 200
for n in 3 4 5; do
    # The third lies in the hole itself: its commit is what is missing, and no other one is in between.
    expect "refusal of a time behind the hole ($n)" unreachable "$DAMAGED" "${after[n]}" hole earlier later
done
expect "before the hole" restored_holds "$DAMAGED" "SELECT count(*), max(n) FROM numbers" "100|1" --to-time "${after[1]}"
# A server that recovers by itself reads ahead of its target, into the hole; without a target it must not end there.
chmod -R a+rX "$DAMAGED"
prepared="$TM_WORK/prepared"
mkdir "$prepared"
tidemark_or_die restore --archive "file://$DAMAGED" --to-time "${after[1]}" --into "main=$prepared/data" --recover none
start_postgres "$BIN" "$prepared" "hot_standby = off" "fsync = off"
await_recovery "$prepared/data" "$prepared/log"
expect "a server that recovers by itself before the hole" is "$OUTCOME $(sql "$prepared" "SELECT count(*), max(n) FROM numbers")" "open 100|1"
stop_postgres "$prepared" immediate
expect "the hole" wal_fetch "$DAMAGED" "$middle" 128
with_wal_fetch 1 "$DAMAGED"
expect "a server without a target stops at the hole" alone_ends "restore.*$middle.*exit code 128" "with Tidemark's wal-fetch"
expect "from the base behind the hole" restored_holds "$DAMAGED" "SELECT count(*), max(n) FROM numbers" "700|7" --to-time "$newest"

step "The slot is lost, and the server removes WAL that nobody archived"
sql "$PG" "SELECT pg_drop_replication_slot('tidemark')" >/dev/null
# The agent has the beginning of this segment, and the server lost it before the agent had its end.
before_gap="$(segment_of_next_row)"
first_lost="$(segment_of_next_row)"
numbers 9
next_segment
numbers 10
lost="$(server_now)"
next_segment
numbers 11
still_lost="$(server_now)"
# A checkpoint removes what lies before the checkpoint before it.
for n in 1 2 3; do sql "$PG" "CHECKPOINT"; next_segment; done
[ "$(sql "$PG" "SELECT count(*) FROM pg_ls_waldir() WHERE name = '$first_lost'")" = 0 ] || die "the server still has $first_lost"
agent
gap_in_window() { "$TIDEMARK" window --config "$CONFIG" | grep -Eq '^ *(gap|hole): .*no longer had the WAL'; }
wait_for "the gap in tidemark window" 60 gap_in_window || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
"$TIDEMARK" window --config "$CONFIG" | sed 's/^/  /'
find "$ARCHIVE/gaps/main" -name '*.json' | grep -q . || die "the archive has no record of the gap"
grep -q 'has a hole from' "$TM_WORK/agent.log" || die "the agent did not report the gap"
numbers 12
behind_gap="$(server_now)"
wait_for "the watermark to pass $behind_gap" 60 watermark_covers main "$behind_gap"
for t in "$lost" "$behind_gap"; do
    expect "refusal of $t, no base behind the gap yet" unreachable "$ARCHIVE" "$t" hole earlier
done
tidemark_or_die backup --config "$CONFIG"
numbers 13
again="$(server_now)"
window_covers_now "$again"
kill_agent TERM
read_log "$ARCHIVE" "$TM_WORK/log"
alone 2 "$TM_WORK/log"
alone_opens "SELECT count(*), max(n) FROM numbers" "800|8"
with_wal_fetch 2 "$ARCHIVE"
expect "a server without a target stops at the gap" alone_ends "restore.*$before_gap.*exit code 128" "with Tidemark's wal-fetch"
for t in "$lost" "$still_lost" "$behind_gap"; do
    expect "refusal of $t in the gap" unreachable "$ARCHIVE" "$t" hole earlier later
done
expect "behind the new base" restored_holds "$ARCHIVE" "SELECT count(*), max(n) FROM numbers" "1300|13" --to-time "$again"
# Idle time that was in the window before the gap opened stays in it: that nothing was committed until then had been proven.
expect "idle time before the gap" restored_holds "$ARCHIVE" "SELECT count(*), max(n) FROM numbers" "800|8" --to-time "$proven"
expect "before the gap" restored_holds "$ARCHIVE" "SELECT count(*), max(n) FROM numbers" "700|7" --to-time "$newest"

step "Two branches: the server goes on after $again, and so does another one that is promoted from there"
agent
numbers 100
abandoned="$(server_now)"
numbers 101
window_covers_now "$(server_now)"
kill_agent TERM
stop_postgres "$PG"
promoted="$TM_WORK/promoted"
mkdir "$promoted"
tidemark_or_die restore --config "$CONFIG" --bindir "$BIN" --into "main=$promoted/data" --to-time "$again"
PG="$promoted"
start_postgres "$BIN" "$PG" "track_commit_timestamp = on" "autovacuum = off"
DSN="$(conninfo "$PG")"
write_config_postgres_only
agent
numbers 200
on_new_branch="$(server_now)"
window_covers_now "$on_new_branch"
kill_agent TERM
stop_postgres "$PG"
read_log "$ARCHIVE" "$TM_WORK/log"
[ -e "$TM_WORK/log/00000002.history" ] || die "the archive has no history of the second branch"
alone 3 "$TM_WORK/log" "recovery_target_time = '$abandoned'"
alone_opens "SELECT count(*), max(n) FROM numbers" "1300|13"
note "the rows that were there at $abandoned are left out in silence: they are on timeline 1"
expect "refusal of a time that only the abandoned branch has" unreachable "$ARCHIVE" "$abandoned" 'timeline|branch' earlier later
expect "the new branch" restored_holds "$ARCHIVE" "SELECT count(*), max(n) FROM numbers" "1400|200" --to-time "$on_new_branch"
expect "the new branch up to its end" restored_holds "$ARCHIVE" "SELECT count(*), max(n) FROM numbers" "1400|200" --latest
expect "before they part" restored_holds "$ARCHIVE" "SELECT count(*), max(n) FROM numbers" "1300|13" --to-time "$again"
if "$TIDEMARK" plan --help | grep -q -- --timeline; then
    # The branch that begins must be none that the archive has.
    expect "the abandoned branch" restored_holds "$ARCHIVE" \
        "SELECT count(*), max(n), (SELECT timeline_id FROM pg_control_checkpoint()) FROM numbers" "1400|100|3" --to-time "$abandoned" --timeline 1
    expect "the abandoned branch up to its end" restored_holds "$ARCHIVE" "SELECT count(*), max(n) FROM numbers" "1500|101" --latest --timeline 1
    expect "no such branch" unreachable "$ARCHIVE" "$again" 'timeline|branch' -- --timeline 7
    expect "a time that the abandoned branch does not have" unreachable "$ARCHIVE" "$on_new_branch" 'complete only up to' earlier -- --timeline 1
fi

step_summary
[ "$broken" -eq 0 ] || die "$broken expectations failed"
