#!/usr/bin/env bash
# slot-guard.sh BINDIR: with the archive away, a warning comes, the slot is dropped before it is lost, and the gap is recorded afterwards.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$here/lib.sh"
. "$here/scenario.sh"
[ $# -eq 1 ] || { sed -n '2s/^# //p' "$0"; exit 2; }

streaming() { [ "$(sql "$PG" "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")" -ge 1 ]; }
logged() { grep -q "$1" "$TM_WORK/agent.log"; }
slots() { sql "$PG" "SELECT count(*) FROM pg_replication_slots"; }
write_wal() { # about 4 MB
    sql "$PG" "SELECT pg_logical_emit_message(false, 'load', repeat('x', 4000000))" >/dev/null
}
dropped() {
    write_wal
    local state
    state="$(sql "$PG" "SELECT wal_status FROM pg_replication_slots")"
    [ "$state" != lost ] || die "the slot was lost before the guard dropped it"
    [ -z "$state" ]
}

make_work slot-guard
build_tidemark
PG="$TM_WORK/postgres" BIN="$1" ARCHIVE="$TM_WORK/archive" CONFIG="$TM_WORK/tidemark.yaml"
step "Start PostgreSQL and the agent"
start_postgres "$BIN" "$PG" "max_slot_wal_keep_size = '512MB'" "max_wal_size = '64MB'" "min_wal_size = '32MB'"
DSN="$(conninfo "$PG")"
write_config_postgres_only
printf '    slot_guard: { policy: drop, warn: 2h, drop: 20s }\n' >>"$CONFIG"
tidemark_or_die init --config "$CONFIG"
start_agent
wait_for "the agent to stream" 60 streaming || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
tidemark_or_die backup --config "$CONFIG"

step "The archive is away while the server writes"
# A file in its place, so that nobody makes the directory anew.
mv "$ARCHIVE" "$ARCHIVE.away" && touch "$ARCHIVE"
wait_for "the guard to drop the slot" 300 dropped || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
wait_for "the guard to tell so" 60 logged "Dropped: the slot" || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
grep -q "at the pace of late" "$TM_WORK/agent.log" || die "no warning came"
for _ in $(seq 20); do write_wal; done
sql "$PG" "CHECKPOINT"
sql "$PG" "CHECKPOINT"
[ "$(slots)" = 0 ] || die "the slot was made anew while the archive was away"
agent_alive

step "The archive is back"
rm "$ARCHIVE"
mv "$ARCHIVE.away" "$ARCHIVE"
wait_for "the gap to be recorded" 120 logged "has a hole from" || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
[ "$(slots)" = 1 ] || die "there is no slot"
tidemark_or_die backup --config "$CONFIG"
moment="$(sql "$PG" "CREATE TABLE after_gap (n int)" && sql "$PG" "SELECT to_char(clock_timestamp(), 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")"
wait_for "the window to cover $moment" 60 window_covers "$moment" main
"$TIDEMARK" window --config "$CONFIG" --json >"$TM_WORK/window.json"
grep -qi "gap" "$TM_WORK/window.json" || die "the window shows no gap"
agent_alive
kill_agent TERM
step_summary
