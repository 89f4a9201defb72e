#!/usr/bin/env bash
# notify.sh BINDIR: a webhook, two mail servers and a command hear of a source that stops and comes back; the status server tells too.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$here/lib.sh"
. "$here/scenario.sh"
[ $# -eq 1 ] || { sed -n '2s/^# //p' "$0"; exit 2; }

make_work notify
build_tidemark
[ -n "${TIDEMARK_TEST_TOOLS:-}" ] || install_object_store_tools
PG="$TM_WORK/postgres" BIN="$1" ARCHIVE="$TM_WORK/archive" CONFIG="$TM_WORK/tidemark.yaml" SINK="$TM_WORK/sink"
step "Start PostgreSQL and those who are to be told"
start_postgres "$BIN" "$PG"
DSN="$(conninfo "$PG")"
mkdir "$SINK"
openssl req -x509 -newkey rsa:2048 -nodes -keyout "$SINK/key.pem" -out "$SINK/cert.pem" -days 2 -subj /CN=127.0.0.1 \
    -addext subjectAltName=IP:127.0.0.1 2>/dev/null
mkfifo "$SINK/input"
"${TIDEMARK_TEST_TOOLS:-$TM_CACHE/tools/bin}/python" "$here/notify-sink" "$SINK" <"$SINK/input" >"$SINK/log" 2>&1 &
PIDS+=("$!")
exec {SINK_INPUT}>"$SINK/input"
wait_for "webhook and mail servers" 60 test -e "$SINK/ports" || { cat "$SINK/log" >&2; exit 1; }
read -r HOOK STARTTLS SMTPS <"$SINK/ports"
PORT="$(free_port)" URL=""
cat >"$TM_WORK/tell" <<SH
#!/bin/sh
cat >>"$TM_WORK/told.jsonl"
echo "\$TIDEMARK_EVENT_KIND \$TIDEMARK_EVENT_SOURCE" >>"$TM_WORK/told"
SH
chmod +x "$TM_WORK/tell"
export HOOK_URL="http://127.0.0.1:$HOOK/hook/HOOKSECRET" SMTP_PASSWORD=pa55
write_config_postgres_only
cat >>"$CONFIG" <<YAML
listen: 127.0.0.1:$PORT
rpo: { objective: 2s }
notify:
  - webhook: \${HOOK_URL}
    secret: k
    on: all
  - email: { to: [ops@example.com, dba@example.com], from: tm@example.com, smtp: "smtp://127.0.0.1:$STARTTLS", user: tidemark, password: "\${SMTP_PASSWORD}", ca_file: $SINK/cert.pem }
  - email: { to: ops@example.com, from: tm@example.com, smtp: "smtps://127.0.0.1:$SMTPS", ca_file: $SINK/cert.pem }
    on: [failure, recovered]
  - command: [$TM_WORK/tell]
YAML
URL="http://127.0.0.1:$PORT"
tidemark_or_die init --config "$CONFIG"

http_status() { # http_status PATH WANTED: the body goes to $TM_WORK/answer
    [ "$(curl -s -o "$TM_WORK/answer" -w '%{http_code}' --max-time 10 "$URL$1")" = "$2" ]
}
told() { grep -qx "$1" "$TM_WORK/told"; }
hooked() { grep -q "\"kind\":\"$1\"" "$SINK/webhook.jsonl"; }
mailed() { grep -l "$1" "$SINK"/mail.[0-9]*; }
status_is() { local status=0; "$TIDEMARK" status --config "$CONFIG" >"$TM_WORK/status.out" 2>&1 || status=$?; [ "$status" -eq "$1" ]; }

step "Without an agent"
status_is 1 || die "tidemark status ended with another status than 1"
grep -q "next:" "$TM_WORK/status.out" || die "nobody was told what to do"

step "tidemark notify --test"
# The webhook fails the first request, and the test tells.
status=0
"$TIDEMARK" notify --test --config "$CONFIG" >"$TM_WORK/test.out" || status=$?
[ "$status" -eq 1 ] && [ "$(grep -c '^ok' "$TM_WORK/test.out")" -eq 3 ] && [ "$(grep -c '^FAILED' "$TM_WORK/test.out")" -eq 1 ] || { cat "$TM_WORK/test.out" >&2; die "status $status"; }
tidemark_or_die notify --test --config "$CONFIG"
hooked test || die "the webhook was not told"
mailed "To: ops@example.com," >/dev/null || die "no mail over STARTTLS came"
if grep -q "HOOKSECRET\|pa55" "$TM_WORK/test.out"; then die "a secret was printed"; fi
sed "s/password: \"\${SMTP_PASSWORD}\"/password: wr0ng/" "$CONFIG" >"$TM_WORK/wrong.yaml"
if "$TIDEMARK" notify --test --config "$TM_WORK/wrong.yaml" >"$TM_WORK/test.out"; then die "a wrong password was taken"; fi
if grep -q "wr0ng" "$TM_WORK/test.out"; then die "a secret was printed"; fi
sed "s/ca_file: [^ ]*cert.pem/tls: required/" "$CONFIG" >"$TM_WORK/untrusted.yaml"
if "$TIDEMARK" notify --test --config "$TM_WORK/untrusted.yaml" >"$TM_WORK/test.out"; then die "a certificate that nobody trusts was taken"; fi
[ "$(grep -c '^FAILED' "$TM_WORK/test.out")" -eq 2 ] || { cat "$TM_WORK/test.out" >&2; die "mail went out to a server that nobody trusts"; }

step "An agent that archives"
start_agent
wait_for "the agent to be ready" 60 http_status /readyz 200 || { cat "$TM_WORK/answer" "$TM_WORK/agent.log" >&2; exit 1; }
sql "$PG" "CREATE TABLE t AS SELECT * FROM generate_series(1, 1000)"
http_status /healthz 200
commits_counted() { http_status /metrics 200 && grep -Eq '^tidemark_commits_archived_total\{source="main",kind="postgres"\} [1-9]' "$TM_WORK/answer"; }
wait_for "the metrics to count the commit" 60 commits_counted || { cat "$TM_WORK/answer" >&2; exit 1; }
if command -v promtool >/dev/null 2>&1; then
    promtool check metrics <"$TM_WORK/answer"
    promtool check rules "$TM_ROOT/docs/alerts.yaml" >/dev/null
    note "promtool agrees"
else
    note "no promtool here; the unit tests read the format strictly"
fi
http_status /status 200
python3 - "$TM_WORK/answer" <<'PY'
import json, sys
status = json.load(open(sys.argv[1]))
assert status["ready"] and [s["name"] for s in status["sources"]] == ["main"] and status["sources"][0]["lag"]["commits"] > 0, status
PY
http_status /nothing 404
wait_for "tidemark status to be content" 60 status_is 0 || { cat "$TM_WORK/status.out" >&2; exit 1; }
cat "$TM_WORK/status.out"
# A second agent finds the port taken, and says so.
status=0
"$TIDEMARK" agent --config "$CONFIG" >"$TM_WORK/second.log" 2>&1 || status=$?
[ "$status" -ne 0 ] && grep -q "cannot listen on 127.0.0.1:$PORT" "$TM_WORK/second.log" || { cat "$TM_WORK/second.log" >&2; die "a second agent started"; }

step "PostgreSQL stops"
stop_postgres "$PG" fast
wait_for "readyz to tell" 60 http_status /readyz 503
http_status /healthz 200 || die "an agent whose source is down is healthy all the same"
wait_for "the command to be told" 90 told "failure main" || { cat "$TM_WORK/agent.log" >&2; exit 1; }
wait_for "the webhook to be told" 60 hooked failure
failure_mailed() { [ "$(mailed "^Subject: .*failure" | wc -l)" -eq 2 ]; }
wait_for "both mails" 60 failure_mailed || { cat "$SINK"/mail.* "$TM_WORK/agent.log" >&2; exit 1; }
status_is 4 || { cat "$TM_WORK/status.out" >&2; die "tidemark status did not end with 4"; }
cat "$TM_WORK/status.out"

step "PostgreSQL comes back"
as_postgres "$BIN/pg_ctl" -D "$PG/data" -l "$PG/log" -w -t 60 start >/dev/null
wait_for "recovered" 90 told "recovered main" || { cat "$TM_WORK/agent.log" >&2; exit 1; }
wait_for "the webhook to be told" 60 hooked recovered
wait_for "readyz" 60 http_status /readyz 200
# Told once, however often it was tried.
[ "$(grep -c "^failure main" "$TM_WORK/told")" -eq 1 ] || die "the failure was told more than once"

step "Broken events, secrets, the end"
agent_alive
kill_agent TERM
python3 - "$TM_WORK/told.jsonl" "$SINK/webhook.jsonl" <<'PY'
import json, sys
for name in sys.argv[1:]:
    for line in open(name):
        event = json.loads(line)
        assert {"kind", "time", "message", "host", "archive", "repeats", "left_out"} <= event.keys(), event
PY
if grep -q "HOOKSECRET\|pa55" "$TM_WORK/agent.log"; then die "a secret is in the log"; fi
step_summary
