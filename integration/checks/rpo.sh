#!/usr/bin/env bash
# rpo.sh BINDIR: pgbench and pushes with the default tail and S3 on loopback; how long commits take to the archive by an independent
# observer, by what the agent recorded, and by the objective: p99 at most 1.5 s.
# TM_RPO_SECONDS: how long, 60 by default. TM_RPO_LIMIT: p99 at most, in seconds, 1.5 by default.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$here/lib.sh"
. "$here/scenario.sh"
[ $# -eq 1 ] || { sed -n '2,4s/^# //p' "$0"; exit 2; }
seconds="${TM_RPO_SECONDS:-60}"
limit="${TM_RPO_LIMIT:-1.5}"
OBSERVER="$TM_HERE/lag-observer"
TOOLS="${TIDEMARK_TEST_TOOLS:-$TM_CACHE/tools/bin}"

make_work rpo
build_tidemark
step "Start PostgreSQL, the stand-in storage, and S3 on loopback"
use_store s3
make_world "$1" 8
PGBENCH="$(with_program "$BIN" pgbench)"
"$PGBENCH" -i -q -s 5 "$DSN" >"$TM_WORK/pgbench.log" 2>&1
sql "$PG" "CREATE TABLE observed(at timestamptz DEFAULT clock_timestamp())"
# The tail is the default one.
sed -i '/^tail:/d' "$CONFIG"
tidemark_or_die init --config "$CONFIG"
# What making the table wrote is archived before anything is measured.
sql "$PG" "CHECKPOINT"
start_agent
wait_for "the first log in the archive" 60 watermark_covers main "$(time_now)" || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
start_load 2 0.05
wait_for "both logs in the archive" 60 list_has_logs main default || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }

step "pgbench, pushes and the observer for $seconds s"
"$PGBENCH" -n -c 4 -j 1 -R 150 -T "$((seconds + 4))" "$DSN" >>"$TM_WORK/pgbench.log" 2>&1 &
bench=$!
PIDS+=("$bench")
"$TOOLS/python" "$OBSERVER" watch --endpoint "$S3_ENDPOINT" --bucket tidemark-test --prefix world --dsn "$DSN" --psql "$PSQL" \
    --storage "$STORAGE" --seconds "$seconds" --out "$TM_WORK/observed.json" || { tail -20 "$TM_WORK/agent.log" >&2; die "the observer failed"; }
wait "$bench" || { tail -20 "$TM_WORK/pgbench.log" >&2; die "pgbench failed"; }
forget_pid "$bench"
stop_load
note "pgbench: $(grep -m1 'tps' "$TM_WORK/pgbench.log")"
agent_alive
# A request that the stand-in for S3 answered with an error once, and that was repeated, is the store's doing; its delay is measured.
if grep -E ' (warning|error) ' "$TM_WORK/agent.log" | grep -v ' repeated: HTTP 5' >&2; then die "the agent complained"; fi
kill_agent TERM

step "What the agent recorded, read from the archive alone"
"$TIDEMARK" rpo --config "$CONFIG" --json >"$TM_WORK/rpo.json"
"$TIDEMARK" rpo --config "$CONFIG" | sed 's/^/  /'
"$OBSERVER" compare "$TM_WORK/observed.json" --limit "$limit" <"$TM_WORK/rpo.json" | sed 's/^/  /'

step "An agent that was away: what it finds then counts from when it was committed, and nothing is counted twice"
sql "$PG" "INSERT INTO observed DEFAULT VALUES"
sleep 7
start_agent
wait_for "the archive to cover the present" 60 watermark_covers main "$(time_now)"
kill_agent TERM
"$TIDEMARK" rpo --config "$CONFIG" --json | python3 -c '
import json, sys
before, after = json.load(open(sys.argv[1])), json.load(sys.stdin)
main = {e["source"]: e for e in after["sources"]}["main"]
was = {e["source"]: e for e in before["sources"]}["main"]
assert was["max"] < 7 <= main["max"] < 60, (was["max"], main["max"])
# Autovacuum may commit something, too.
assert was["commits"] < main["commits"] <= was["commits"] + 50, (was["commits"], main["commits"])
causes = {w["miss"]["cause"] for w in main["worst"]}
assert "agent" in causes, main["worst"]
print("  max %.1f s, %d commits more, causes %s" % (main["max"], main["commits"] - was["commits"], sorted(causes)))
' "$TM_WORK/rpo.json"
step_summary
