#!/usr/bin/env bash
# stop-fast.sh BINDIR: pg_ctl stop -m fast takes less than two seconds while the agent streams, three times in a row with each ack.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$here/lib.sh"
. "$here/scenario.sh"
[ $# -eq 1 ] || { sed -n '2s/^# //p' "$0"; exit 2; }

streaming() { [ "$(sql "$PG" "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'")" -ge 1 ]; }

make_work stop-fast
build_tidemark
PG="$TM_WORK/postgres" BIN="$1" ARCHIVE="$TM_WORK/archive" CONFIG="$TM_WORK/tidemark.yaml"
step "Start PostgreSQL"
start_postgres "$BIN" "$PG"
DSN="$(conninfo "$PG")"
worst=0
for ack in spool archive; do
    step "Start an agent with ack: $ack"
    write_config_postgres_only
    echo "    ack: $ack" >>"$CONFIG"
    [ "$ack" != spool ] || tidemark_or_die init --config "$CONFIG"
    start_agent
    for n in 1 2 3; do
        step "ack: $ack, stop $n"
        wait_for "the agent to stream" 60 streaming || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
        sql "$PG" "CREATE TABLE $ack$n AS SELECT * FROM generate_series(1, 100000)"
        # Without a checkpoint of its own first, the time would be that of writing dirty buffers.
        sql "$PG" "CHECKPOINT"
        started="$(now_ms)"
        stop_postgres "$PG" fast
        took=$(( $(now_ms) - started ))
        note "stopped in $took ms"
        [ "$took" -le "$worst" ] || worst="$took"
        agent_alive
        # The same port again, so that the agent finds the server: its configuration names it.
        as_postgres "$BIN/pg_ctl" -D "$PG/data" -l "$PG/log" -w -t 60 start >/dev/null
    done
    wait_for "the agent to stream again" 60 streaming || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
    kill_agent TERM
done
[ "$worst" -lt 2000 ] || die "a stop took $worst ms"
step_summary
