#!/usr/bin/env bash
# ack-archive.sh BINDIR: with ack: archive, SIGKILL the agent and delete its state directory; every acknowledged commit is in the archive.
#
# TIDEMARK_TEST_TRIALS times (25), at random moments under synchronous commits. Each time the archive is copied right then, and the copy
# alone has to have every transaction that any client was told to be committed; three of the copies are restored and their rows compared.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$here/lib.sh"
. "$here/scenario.sh"
[ $# -eq 1 ] || { sed -n '2s/^# //p' "$0"; exit 2; }
trials="${TIDEMARK_TEST_TRIALS:-25}"

is_waited_for() { [ "$(sql "$PG" "SELECT sync_state FROM pg_stat_replication WHERE application_name = 'tidemark' AND state = 'streaming'")" = sync ]; }
nobody_streams() { [ "$(sql "$PG" "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'tidemark'")" = 0 ]; }
acknowledged() { awk 'END { print NR }' "$JOURNAL"; }
more_than() { [ "$(acknowledged)" -gt "$1" ]; }

# start_clients N: each commits one row after the other and notes it once it was told that the commit is done
start_clients() {
    python3 - "$1" "$PSQL" "$DSN" "$JOURNAL" <<'PY' &
import subprocess, sys, threading
count, psql, dsn, journal = int(sys.argv[1]), *sys.argv[2:]
out, lock = open(journal, "a"), threading.Lock()
def client(number):
    # psql prints a row when the whole statement is done, its commit among that.
    with subprocess.Popen([psql, "-X", "-q", "-A", "-t", "-F", " ", "-v", "ON_ERROR_STOP=1", "-d", dsn], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as p:
        while True:
            p.stdin.write(f"INSERT INTO numbered(client) VALUES ({number}) RETURNING id, xmin;\n")
            p.stdin.flush()
            line = p.stdout.readline()
            if not line:
                return
            with lock:
                out.write(line)
                out.flush()
for number in range(count):
    threading.Thread(target=client, args=(number,), daemon=True).start()
threading.Event().wait()
PY
    CLIENTS_PID=$!
    PIDS+=("$CLIENTS_PID")
}

make_work ack-archive
build_tidemark
BIN="$1" PG="$TM_WORK/postgres" ARCHIVE="$TM_WORK/archive" CONFIG="$TM_WORK/tidemark.yaml" JOURNAL="$TM_WORK/journal"
step "Start PostgreSQL, an agent with ack: archive, and take a base"
start_postgres "$BIN" "$PG"
DSN="$(conninfo "$PG")"
PSQL="$(with_program "$BIN" psql)"
sql "$PG" "CREATE TABLE numbered(id bigserial PRIMARY KEY, client int)"
write_config_postgres_only
echo "    ack: archive" >>"$CONFIG"
tidemark_or_die init --config "$CONFIG"
start_agent
wait_for "the log in the archive" 60 list_has_logs main || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
tidemark_or_die backup --config "$CONFIG"
sql "$PG" "ALTER SYSTEM SET synchronous_standby_names = 'tidemark'"
sql "$PG" "SELECT pg_reload_conf()" >/dev/null
wait_for "commits to wait for the agent" 60 is_waited_for
: >"$JOURNAL"
start_clients 3

restore_and_compare() { # restore_and_compare ARCHIVE JOURNAL
    tidemark_or_die restore --archive "file://$1" --latest --into "main=$TM_WORK/restored-main" --recover promote --bindir "$BIN"
    # What the copy of the configuration says of others must not hold the restored server up.
    as_postgres tee -a "$TM_WORK/restored-main/postgresql.auto.conf" <<<"synchronous_standby_names = ''" >/dev/null
    start_restored "$TM_WORK/restored-main"
    sql "$RESTORED" "SELECT id FROM numbered" | sort >"$TM_WORK/rows"
    stop_postgres "$RESTORED" immediate
    rm -rf -- "$RESTORED"
    cut -d' ' -f1 "$2" | sort | comm -23 - "$TM_WORK/rows" >"$TM_WORK/lost"
    [ ! -s "$TM_WORK/lost" ] || die "acknowledged rows are missing from the restored database: $(tr '\n' ' ' <"$TM_WORK/lost")"
    note "restored: all of $(wc -l <"$2") acknowledged rows are there, of $(wc -l <"$TM_WORK/rows")"
}

step "Destroy the agent and its state directory $trials times"
proven=0
before="$(time_now)" began="$before"
for (( n = 1; n <= trials; n++ )); do
    before="$began" began="$(time_now)"
    # Commits are acknowledged again, by an agent that had nothing but the archive.
    wait_for "commits after the agent's start" 60 more_than "$proven" || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
    sleep "$(python3 -c 'import random; print(round(random.uniform(0, 0.4), 4))')"
    agent_alive
    kill_agent KILL
    rm -rf -- "$TM_WORK/state"
    # Objects are never written to again: links keep them as they are now, whatever is added or removed later.
    cp -al -- "$ARCHIVE" "$TM_WORK/copy"
    # What the dead agent had acknowledged reaches the clients before the server lets it go, or a moment later.
    wait_for "the server to let the agent go" 30 nobody_streams
    head -n "$(acknowledged)" "$JOURNAL" >"$TM_WORK/told"
    # A commit that was let go in this trial may have been written in the one before.
    "$TIDEMARK" log --archive "file://$TM_WORK/copy" --limit 100000 --since "$before" --json >"$TM_WORK/log.json" || { cat "$TM_WORK/log.json" >&2; die "tidemark log failed"; }
    python3 - "$TM_WORK/log.json" "$TM_WORK/told" "$proven" <<'PY'
import json, sys
log = json.load(open(sys.argv[1]))
if log["more"]:
    sys.exit("there were more commits than one answer holds")
committed = {event["xid"] for event in log["events"] if event["kind"] == "commit" and "xid" in event}
told = [line.split() for line in open(sys.argv[2])]
lost = [row for row, xid in told[int(sys.argv[3]):] if int(xid) not in committed]
if lost:
    sys.exit(f"{len(lost)} acknowledged commits are not in the archive, rows {' '.join(lost[:20])}")
PY
    told="$(wc -l <"$TM_WORK/told")"
    if [ "$n" = 1 ] || [ "$n" = $((trials / 2)) ] || [ "$n" = "$trials" ]; then restore_and_compare "$TM_WORK/copy" "$TM_WORK/told"; fi
    proven="$told"
    rm -rf -- "$TM_WORK/copy"
    start_agent
done
note "$trials times: all of $proven acknowledged commits were in the archive"

step "Stop everything in order"
wait_for "commits after the agent's start" 60 more_than "$proven"
stop_pid "$CLIENTS_PID" 5 || true
forget_pid "$CLIENTS_PID"
agent_alive
kill_agent TERM
[ -z "$(find "$TM_WORK/state" -name '*.partial')" ] || die "the agent spooled log though its archive is what counts"
tidemark_or_die verify --config "$CONFIG" --contents
step_summary
