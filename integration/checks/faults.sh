#!/usr/bin/env bash
# faults.sh BINDIR: the archive's disk full, then the server killed, both under load; the agent goes on by itself and nothing is lost.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$here/lib.sh"
. "$here/scenario.sh"
[ $# -eq 1 ] || { sed -n '2s/^# //p' "$0"; exit 2; }

make_work faults
build_tidemark
step "The world, the archive on a small file system of its own"
make_world "$1" 4
as_root mount -t tmpfs -o size=96m,mode=0755 tidemark-faults "$ARCHIVE"
MOUNTS+=("$ARCHIVE")
as_root chown "$(id -u):$(id -g)" "$ARCHIVE"
tidemark_or_die init --config "$CONFIG"
start_agent
wait_for "both logs in the archive" 60 list_has_logs main default || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
tidemark_or_die backup --config "$CONFIG"

step "The disk is full while the load runs"
head -c 200M /dev/zero >"$ARCHIVE/filler" 2>/dev/null || true
start_load 2 0.02
both_said() { grep -q "error main: .*No space left" "$TM_WORK/agent.log" && grep -q "error default: .*No space left" "$TM_WORK/agent.log"; }
wait_for "the agent to say so of both sources" 60 both_said
status=0
"$TIDEMARK" backup --config "$CONFIG" >"$TM_WORK/backup.out" 2>&1 || status=$?
[ "$status" -eq 1 ] || { cat "$TM_WORK/backup.out" >&2; die "backup on a full disk: exit code $status"; }
grep -q 'No space left' "$TM_WORK/backup.out" || { cat "$TM_WORK/backup.out" >&2; die "backup does not say why"; }
agent_alive
stop_load

step "There is room again"
rm "$ARCHIVE/filler"
T="$(time_now)"
sql "$PG" "CREATE TABLE after_full(n int)"
wait_for "the window of both sources together to hold $T" 120 window_covers "$T" || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
agent_alive

step "The server dies and comes back"
sql "$PG" "CREATE TABLE before_crash(n int); INSERT INTO before_crash SELECT generate_series(1, 100000)"
stop_postgres "$PG" immediate
wait_for "the agent to notice" 60 grep -q "error main: Could not .* PostgreSQL" "$TM_WORK/agent.log"
start_postgres "$BIN" "$PG"
# The port is a new one, as after a failover to another address.
DSN="$(conninfo "$PG")"
write_config
kill_agent TERM
start_agent
T="$(time_now)"
sql "$PG" "CREATE TABLE after_crash(n int)"
wait_for "the window of both sources together to hold $T" 120 window_covers "$T" || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }

step "Restore, prove it"
tidemark_or_die restore --config "$CONFIG" --latest --into "main=$TM_WORK/restored-main" --into "default=$TM_WORK/restored-default" --bindir "$BIN"
start_restored "$TM_WORK/restored-main"
[ "$(sql "$RESTORED" "SELECT count(*) FROM before_crash")" = 100000 ] || die "rows of before the crash are missing"
prove_restored latest "$TM_WORK/restored-default"
kill_agent TERM
step_summary
