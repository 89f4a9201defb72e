#!/usr/bin/env bash
# setup.sh BINDIR: on a fresh cluster nothing is done but what `tidemark check --print-setup` prints: then check, an agent, fences, a backup
# and a restore work as that role. SIGHUP: what is safe takes effect, what is not is named, a broken file changes nothing. systemd's protocol.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$here/lib.sh"
. "$here/scenario.sh"
[ $# -eq 1 ] || { sed -n '2,3s/^# //p' "$0"; exit 2; }

make_work setup
build_tidemark
BIN="$1"
PG="$TM_WORK/postgres" STORAGE="$TM_WORK/storage" ARCHIVE="$TM_WORK/archive" CONFIG="$TM_WORK/tidemark.yaml"

step "A fresh cluster that lets nobody in but its superuser, and a storage"
start_postgres "$BIN" "$PG"
"$STANDIN" init "$STORAGE" --repositories 2 --keep >/dev/null
me="$(id -un)"
printf 'local all %s trust\n' "$(sql "$PG" 'SELECT current_user')" | as_postgres tee "$PG/data/pg_hba.conf" >/dev/null
sql "$PG" "SELECT pg_reload_conf()" >/dev/null
listen="127.0.0.1:$(free_port)"
cat >"$CONFIG" <<YAML
archive: file://$ARCHIVE
state: $TM_WORK/state
listen: $listen
sources:
  - postgres: main
    conninfo: "host=$PG port=$(cat "$PG.port") user=tidemark dbname=postgres"
    slot: tidemark
  - gitaly: default
    storage: $STORAGE
    log: wal
    fence: main
YAML
cp "$CONFIG" "$TM_WORK/first.yaml"

step "Without the setup, check fails and says so"
mkdir -p "$ARCHIVE"
tidemark_or_die init --config "$CONFIG"
status=0
"$TIDEMARK" check --config "$CONFIG" --source main --json >"$TM_WORK/before.json" || status=$?
[ "$status" = 1 ] || die "check ended with $status before anything was set up"
python3 -c 'import json, sys
found = json.load(open(sys.argv[1]))
assert all(f["level"] != "failure" for f in found["archive"] + found["agent"]), found
assert any(f["level"] == "failure" and "pg_hba.conf" in f["message"] + f["remedy"] for f in found["main"]), found' "$TM_WORK/before.json"

step "What it prints, with the server stopped as well as running"
stop_postgres "$PG" fast
"$TIDEMARK" check --print-setup --user "$me" --config "$CONFIG" >"$TM_WORK/stopped.txt"
start_postgres_again() { as_postgres "$BIN/pg_ctl" -D "$PG/data" -l "$PG/log" -w start >/dev/null; }
start_postgres_again
"$TIDEMARK" check --print-setup --user "$me" --config "$CONFIG" >"$TM_WORK/running.txt"
cmp "$TM_WORK/stopped.txt" "$TM_WORK/running.txt" || die "the setup depends on the server"
cat "$TM_WORK/running.txt"
"$TIDEMARK" check --print-setup --user "$me" --config "$CONFIG" --json >"$TM_WORK/setup.json"
part() { # part KIND FILE: the lines of all such steps
    python3 -c 'import json, sys
for step in json.load(open(sys.argv[1])):
    if step["kind"] == sys.argv[2] and step.get("file", "") == sys.argv[3]: print("\n".join(step["lines"]))' "$TM_WORK/setup.json" "$1" "$2"
}

step "It is done, to the letter"
part sql "" >"$TM_WORK/setup.sql"
while IFS= read -r statement; do sql "$PG" "$statement" >/dev/null; done <"$TM_WORK/setup.sql"
{ part file pg_hba.conf; as_postgres cat "$PG/data/pg_hba.conf"; } >"$TM_WORK/hba"
as_postgres tee "$PG/data/pg_hba.conf" <"$TM_WORK/hba" >/dev/null
part file pg_ident.conf | as_postgres tee -a "$PG/data/pg_ident.conf" >/dev/null
part file postgresql.conf | as_postgres tee -a "$PG/data/postgresql.conf" >/dev/null
as_postgres "$BIN/pg_ctl" -D "$PG/data" -l "$PG/log" -w restart -m fast >/dev/null
note "role: $(sql "$PG" "SELECT rolname || ', superuser ' || rolsuper || ', replication ' || rolreplication || ', member of ' || (SELECT count(*) FROM pg_auth_members WHERE member = r.oid) FROM pg_roles r WHERE rolname = 'tidemark'")"
[ "$(sql "$PG" "SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolbypassrls FROM pg_roles WHERE rolname = 'tidemark'")" = f ] || die "the role may more than it needs"
"$TIDEMARK" check --config "$CONFIG" --json >"$TM_WORK/after.json" || { cat "$TM_WORK/after.json" >&2; die "check is not content with what was printed"; }
python3 - "$TM_WORK/after.json" <<'PY'
import json, sys
all = json.load(open(sys.argv[1]))
text = [f["message"] for f in all["main"] + all["default"]]
for wanted in ["is reached over the replication protocol", "of which others use 0", "max_replication_slots is",
               "is created when the agent starts", "clock and this host's agree", "fences can be written into the log of 'main'"]:
    assert any(wanted in t for t in text), (wanted, text)
assert all["agent"], "the host was not looked at"
for source in all.values():
    for f in source: assert f["level"] != "failure" and (f["level"] == "ok" or f["remedy"]), f
PY

step "An agent as that role, started as systemd starts it"
python3 - "$TM_WORK/notify" "$TM_WORK/notified" <<'PY' &
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
with open(sys.argv[2], "w") as out:
    while True:
        print(s.recv(4096).decode().replace("\n", " | "), file=out, flush=True)
PY
PIDS+=("$!")
wait_for "the service manager's socket" 30 test -S "$TM_WORK/notify"
NOTIFY_SOCKET="$TM_WORK/notify" WATCHDOG_USEC=2000000 start_agent
wait_for "READY" 60 grep -q "READY=1 | WATCHDOG=1 | STATUS=" "$TM_WORK/notified" || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
beats() { [ "$(grep -c WATCHDOG=1 "$TM_WORK/notified")" -ge "$1" ]; }
wait_for "four beats of the watchdog" 60 beats 4
sql "$PG" "CREATE TABLE t(n int); INSERT INTO t VALUES (1)" >/dev/null
"$STANDIN" load "$STORAGE" --seconds 1 --clients 1 --keep >/dev/null
wait_for "both logs in the archive" 60 list_has_logs main default || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
tidemark_or_die backup --config "$CONFIG"
tidemark_or_die check --config "$CONFIG"
T="$(time_now)"
sql "$PG" "INSERT INTO t VALUES (2)" >/dev/null
wait_for "the window to hold $T" 90 window_covers "$T" || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }

step "SIGHUP: what is safe takes effect, what is not is named"
logged() { grep -qE -- "$1" "$TM_WORK/agent.log"; }
{ cat "$TM_WORK/first.yaml"; printf 'rpo: { objective: 7s }\ntail: 3s\nlog: json\n'; } >"$CONFIG"
kill -HUP "$AGENT_PID"
wait_for "the reload" 30 logged '"message":"the configuration was read again; now in force: rpo, log"'
wait_for "the warning" 30 logged 'what changed of tail needs a restart'
wait_for "RELOADING" 30 grep -qE '^RELOADING=1 \| MONOTONIC_USEC=[0-9]+$' "$TM_WORK/notified"

step "SIGHUP with a broken file: its line is told, and all goes on"
{ cat "$TM_WORK/first.yaml"; printf 'rpo: { objective: 7s }\ntail: 3s\nlog: json\nkep: { window: 1d }\n'; } >"$CONFIG"
line="$(grep -n '^kep' "$CONFIG" | cut -d: -f1)"
kill -HUP "$AGENT_PID"
wait_for "the error" 30 logged "tidemark.yaml:$line:1: .*no key 'kep'.*stays what it was"
agent_alive
sql "$PG" "INSERT INTO t VALUES (3)" >/dev/null
T="$(time_now)"
sql "$PG" "INSERT INTO t VALUES (4)" >/dev/null
cp "$TM_WORK/first.yaml" "$CONFIG"
wait_for "the window to hold $T" 90 window_covers "$T" || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
python3 - "$TM_WORK/agent.log" <<'PY'
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1]) if line.startswith("{")]
assert lines and all({"time", "level", "message"} <= set(l) for l in lines)
PY
kill_agent TERM
grep -q '^STOPPING=1' "$TM_WORK/notified" || die "the service manager was not told of the end"

step "A restore of what that role archived"
tidemark_or_die restore --config "$CONFIG" --to-time "$T" --into "main=$TM_WORK/restored/main" --into "default=$TM_WORK/restored/default" --recover none
[ -s "$TM_WORK/restored/main/PG_VERSION" ] || die "nothing was restored"

step "Units and manifests"
venv="$TM_CACHE/manifests"
if ! [ -e "$venv/.complete" ]; then
    as_root mkdir -p "$TM_CACHE"
    rm -rf -- "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check kubernetes-validate
    touch "$venv/.complete"
fi
TIDEMARK_PASSWORD=x TIDEMARK_FENCE_PASSWORD=x "$venv/bin/python" "$here/checks/setup-files.py" "$TM_ROOT" "$TIDEMARK" "$TM_WORK"
if command -v systemd-analyze >/dev/null; then
    mkdir "$TM_WORK/units"
    cp "$TM_ROOT"/docs/install/*.service "$TM_ROOT"/docs/install/*.timer "$TM_WORK/units"
    # The program is not installed here.
    sed -i 's#/usr/local/bin/tidemark#/bin/true#' "$TM_WORK"/units/*.service
    for unit in "$TM_WORK"/units/*; do
        systemd-analyze verify --man=no "$unit" 2>"$TM_WORK/verify.txt" || { cat "$TM_WORK/verify.txt" >&2; die "$unit is refused"; }
        grep -F "$(basename "$unit")" "$TM_WORK/verify.txt" && die "$unit is complained about"
    done
    for unit in "$TM_WORK"/units/*.service; do
        note "$(systemd-analyze security --offline=true --threshold=20 "$unit" | tail -1)"
    done
fi
step_summary
