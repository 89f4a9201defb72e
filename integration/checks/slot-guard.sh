#!/usr/bin/env bash
# slot-guard.sh BINDIR: with the archive away, a warning comes, the slot is dropped before it is lost, and the gap is recorded afterwards.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$here/lib.sh"
. "$here/scenario.sh"
[ $# -eq 1 ] || { sed -n '2s/^# //p' "$0"; exit 2; }

streaming() { [ "$(sql "$PG" "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")" -ge 1 ]; }
logged() { grep -q "$1" "$TM_WORK/agent.log"; }
slots() { sql "$PG" "SELECT count(*) FROM pg_replication_slots"; }
attempts() { grep -c "Trying again" "$TM_WORK/agent.log" || true; }
more_attempts() { [ "$(attempts)" -gt "$1" ]; }
line_of() { grep -n -m1 "$1" "$TM_WORK/agent.log" | cut -d: -f1; }
write_wal() { sql "$PG" "SELECT pg_logical_emit_message(false, 'load', repeat('x', $1))" >/dev/null; }
dropped() { # 0.6 MB a second, until the slot is gone or its room is
    local row behind
    behind=$(( ($(now_ms) - BEGUN) * 600 - WRITTEN ))
    [ "$behind" -le 8000000 ] || behind=8000000
    if [ "$behind" -gt 0 ]; then
        write_wal "$behind"
        WRITTEN=$((WRITTEN + behind))
    fi
    row="$(sql "$PG" "SELECT wal_status, safe_wal_size FROM pg_replication_slots")"
    [ -n "$row" ] || return 0
    LEFT="${row#*|}"
    case "$row" in lost* | unreserved*) SPENT="$row" ;; esac
    [ -n "$SPENT" ]
}

make_work slot-guard
build_tidemark
PG="$TM_WORK/postgres" BIN="$1" ARCHIVE="$TM_WORK/archive" CONFIG="$TM_WORK/tidemark.yaml"
step "Start PostgreSQL and the agent"
# Small segments, so that little has to be written.
TM_INITDB="--wal-segsize=1" start_postgres "$BIN" "$PG" "max_slot_wal_keep_size = '32MB'" "max_wal_size = '8MB'" "min_wal_size = '2MB'"
DSN="$(conninfo "$PG")"
write_config_postgres_only
printf '    slot_guard: { policy: drop, warn: 2h, drop: 8s }\n' >>"$CONFIG"
tidemark_or_die init --config "$CONFIG"
start_agent
wait_for "the agent to stream" 60 streaming || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
tidemark_or_die backup --config "$CONFIG"

step "The archive is away while the server writes"
# A file in its place, so that nobody makes the directory anew.
mv "$ARCHIVE" "$ARCHIVE.away" && touch "$ARCHIVE"
BEGUN="$(now_ms)" WRITTEN=0 LEFT=0 SPENT=""
wait_for "the guard to drop the slot" 300 dropped || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
[ -z "$SPENT" ] || { tail -20 "$TM_WORK/agent.log" >&2; die "the room was used up before the guard dropped the slot: $SPENT"; }
note "dropped with $((LEFT >> 10)) KiB of room left"
wait_for "the guard to tell so" 60 logged "Dropped: the slot" || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
logged "at the pace of late" || { tail -20 "$TM_WORK/agent.log" >&2; die "no warning came"; }
[ "$(line_of "at the pace of late")" -lt "$(line_of "Dropped: the slot")" ] || die "the warning came after the drop"
write_wal 8000000
sql "$PG" "CHECKPOINT"
sql "$PG" "CHECKPOINT"
seen="$(attempts)"
wait_for "the agent to try the archive once more" 60 more_attempts "$seen" || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
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
gaps="$(python3 -c 'import json, sys; print(sum(len(s["gaps"]) for s in json.load(open(sys.argv[1]))["sources"]))' "$TM_WORK/window.json")"
[ "$gaps" = 1 ] || die "the window shows $gaps gaps, not one"
[ "$(grep -c "has a hole from" "$TM_WORK/agent.log")" = 1 ] || die "the gap was recorded more than once"
agent_alive
kill_agent TERM
step_summary
