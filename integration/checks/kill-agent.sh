#!/usr/bin/env bash
# kill-agent.sh BINDIR: SIGKILL the agent 20 times under load; nothing acknowledged may be missing afterwards.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$here/lib.sh"
. "$here/scenario.sh"
[ $# -eq 1 ] || { sed -n '2s/^# //p' "$0"; exit 2; }
kills="${TIDEMARK_TEST_KILLS:-20}"

make_work kill-agent
build_tidemark
step "Start the world, the agent and a base"
make_world "$1" 6
start_load 3 0.02
tidemark_or_die init --config "$CONFIG"
start_agent
wait_for "both logs in the archive" 60 list_has_logs main default || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
tidemark_or_die backup --config "$CONFIG"

step "Kill the agent $kills times"
for (( n = 1; n <= kills; n++ )); do
    # From 0.05 s, in the middle of its start, to 2 s, in the middle of its work.
    sleep "$(python3 -c 'import random; print(round(random.choice((random.uniform(0.05, 0.4), random.uniform(0.4, 2))), 3))')"
    agent_alive
    kill_agent KILL
    # Segments end while nobody reads: the gap must be closed from the slot.
    if [ $((n % 5)) -eq 0 ]; then sql "$PG" "SELECT pg_switch_wal()" >/dev/null; fi
    start_agent
done

step "Stop the load, wait until the archive has caught up"
stop_load
T="$(time_now)"
# A window ends at a commit; a last commit after T lets it pass T.
sql "$PG" "CREATE TABLE after_the_load(n int)"
"$STANDIN" init "$STORAGE" --repositories 1 --keep >/dev/null
wait_for "the window of both sources together to hold $T" 90 window_covers "$T" || {
    "$TIDEMARK" window --config "$CONFIG" >&2 || true
    tail -20 "$TM_WORK/agent.log" >&2
    exit 1
}
agent_alive

step "tidemark restore --latest"
tidemark_or_die restore --config "$CONFIG" --latest --into "main=$TM_WORK/restored-main" --into "default=$TM_WORK/restored-default" \
    --recover promote --bindir "$BIN"
start_restored "$TM_WORK/restored-main"

step "Prove it"
prove_restored latest "$TM_WORK/restored-default"
kill_agent TERM
step_summary
