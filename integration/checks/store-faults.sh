#!/usr/bin/env bash
# store-faults.sh BINDIR: S3 behind a proxy that drops, delays, truncates, corrupts, answers errors and lies about puts, and a server that is
# gone for a while: nothing that was acknowledged is missing, every kind of failure is named, and damage is found when it is read.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$here/lib.sh"
. "$here/scenario.sh"
[ $# -eq 1 ] || { sed -n '2,3s/^# //p' "$0"; exit 2; }

make_work store-faults
build_tidemark
KINDS=delay,drop,drop-answer,cut-upload,cut-answer,truncate,corrupt-upload,corrupt-answer,error-500,error-503,error-429,lie,lie,lie,lie,stall,garbage

start_proxy() { # in front of moto; faults while $TM_WORK/faults is there
    rm -f "$TM_WORK/proxy.port"
    "$here/fault-proxy" --upstream "${S3_ENDPOINT#http://}" --port-file "$TM_WORK/proxy.port" --seed 6 --rate 0.2 --kinds "$KINDS" \
        --report "$TM_WORK/proxy.json" --control "$TM_WORK/faults" >"$TM_WORK/proxy.log" 2>&1 &
    PIDS+=("$!")
    wait_for "the proxy" 30 test -s "$TM_WORK/proxy.port"
}

said() { grep -q -- "$1" "$TM_WORK/agent.log" || { tail -40 "$TM_WORK/agent.log" >&2; die "the agent's log has no word of '$1'"; }; }
direct() { echo "s3://tidemark-test/world?endpoint=$S3_ENDPOINT"; }

step "The world, its archive in S3 behind a proxy"
use_store s3
start_proxy
ARCHIVE_URL="s3://tidemark-test/world?endpoint=http://127.0.0.1:$(cat "$TM_WORK/proxy.port")&connect-timeout=2s&stall-timeout=3s"
make_world "$1" 4
tidemark_or_die init --config "$CONFIG"

step "Three requests in twenty go wrong, from the agent's start through a base"
touch "$TM_WORK/faults"
start_agent
start_load 2 0.02
wait_for "both logs in the archive" 120 list_has_logs main default || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
attempts=0
until "$TIDEMARK" backup --config "$CONFIG" >"$TM_WORK/backup.out" 2>&1; do
    attempts=$((attempts + 1))
    [ "$attempts" -lt 10 ] || { cat "$TM_WORK/backup.out" >&2; die "no backup in ten attempts"; }
    grep -q '^error: ' "$TM_WORK/backup.out" || { cat "$TM_WORK/backup.out" >&2; die "a backup failed without saying why"; }
done
note "backups that failed before one succeeded: $attempts"
sleep 10
T="$(time_now)"
sleep 1
stop_load
agent_alive
wait_for "the window of both sources together to hold $T" 180 window_covers "$T" || { tail -40 "$TM_WORK/agent.log" >&2; exit 1; }

step "The store is away, then back"
python3 -c 'import os, signal, sys; os.kill(int(sys.argv[1]), signal.SIGSTOP)' "$MOTO_PID"
sql "$PG" "CREATE TABLE while_away(n int)"
A="$(time_now)"
wait_for "the agent to say so" 120 grep -q "error main: .*did not" "$TM_WORK/agent.log"
python3 -c 'import os, signal, sys; os.kill(int(sys.argv[1]), signal.SIGCONT)' "$MOTO_PID"
agent_alive
wait_for "the window of both sources together to hold $A" 180 window_covers "$A" || { tail -40 "$TM_WORK/agent.log" >&2; exit 1; }
kill_agent TERM

step "A restore through the same proxy, and one without it"
for way in through directly; do
    case "$way" in through) archive="$ARCHIVE_URL" ;; *) archive="$(direct)"; rm "$TM_WORK/faults" ;; esac
    tidemark_or_die restore --archive "$archive" --to-time "$T" --into "main=$TM_WORK/$way-main" --into "default=$TM_WORK/$way-default" --bindir "$BIN"
    start_restored "$TM_WORK/$way-main"
    prove_restored "$T" "$TM_WORK/$way-default"
    stop_postgres "$RESTORED"
    rm -rf -- "$RESTORED"
done
tidemark_or_die verify --archive "$(direct)" --contents
note "verify --contents: nothing is missing, nothing is damaged"

step "What the proxy did, and that each was named"
python3 - "$TM_WORK/proxy.json" "$KINDS" <<'PY'
import json, sys
done = json.load(open(sys.argv[1]))
print("  " + ", ".join(f"{k} {done.get(k, 0)}" for k in sys.argv[2].split(",")))
missing = [k for k in sys.argv[2].split(",") if not done.get(k)]
sys.exit(f"error: the proxy never did: {missing}" if missing else 0)
PY
said "requests repeated"
for words in "it is not there" "arrived damaged\|is put into .* again"; do said "$words"; done

step "Damage at rest"
"${TIDEMARK_TEST_TOOLS:-$TM_CACHE/tools/bin}/python3" - "$S3_ENDPOINT" <<'PY'
import boto3, sys
s3 = boto3.client("s3", endpoint_url=sys.argv[1], region_name="us-east-1")
keys = [o["Key"] for p in s3.get_paginator("list_objects_v2").paginate(Bucket="tidemark-test", Prefix="world/bases/main/") for o in p.get("Contents", [])]
key = next(k for k in keys if "part-" in k)
body = bytearray(s3.get_object(Bucket="tidemark-test", Key=key)["Body"].read())
body[len(body) // 2] ^= 4
s3.put_object(Bucket="tidemark-test", Key=key, Body=bytes(body))
PY
status=0
"$TIDEMARK" verify --archive "$(direct)" --contents >"$TM_WORK/verify.out" 2>&1 || status=$?
[ "$status" -ne 0 ] && grep -q "SHA-256 is not the recorded one" "$TM_WORK/verify.out" || { cat "$TM_WORK/verify.out" >&2; die "verify did not find the damage"; }
status=0
"$TIDEMARK" restore --archive "$(direct)" --to-time "$T" --into "main=$TM_WORK/damaged" --source main --bindir "$BIN" >"$TM_WORK/restore.out" 2>&1 || status=$?
[ "$status" -ne 0 ] && [ ! -e "$TM_WORK/damaged" ] && grep -q "SHA-256 is not the recorded one" "$TM_WORK/restore.out" || { cat "$TM_WORK/restore.out" >&2; die "the restore did not refuse"; }
note "verify and restore name it, and nothing was restored"
step "The bucket is emptied under a working agent"
ARCHIVE_URL="$(direct)"
write_config
: >"$TM_WORK/agent.log"
start_agent
start_load 2 0.02
wait_for "the agent to be at work" 60 grep -q "info main: archiving" "$TM_WORK/agent.log"
"${TIDEMARK_TEST_TOOLS:-$TM_CACHE/tools/bin}/python3" - "$S3_ENDPOINT" <<'PY'
import boto3, sys
boto3.resource("s3", endpoint_url=sys.argv[1], region_name="us-east-1").Bucket("tidemark-test").objects.filter(Prefix="world/").delete()
PY
gone() { grep -q "error main: The archive .* is gone from" "$TM_WORK/agent.log" && grep -q "error default: The archive .* is gone from" "$TM_WORK/agent.log"; }
wait_for "the agent to say of both sources that the archive is gone" 120 gone || { cat "$TM_WORK/agent.log" >&2; exit 1; }
slot_position() { sql "$PG" "SELECT restart_lsn FROM pg_replication_slots WHERE slot_name = 'tidemark'"; }
entries() { find "$STORAGE/+gitaly/partitions" -name MANIFEST -path '*/wal/*' | wc -l; }
before="$(slot_position) $(entries)"
sleep 5
stop_load
[ "$(slot_position)" = "${before% *}" ] || die "the slot went on though nothing was archived"
[ "$(entries)" -ge "${before#* }" ] || die "entries were pruned though nothing was archived"
note "nothing was acknowledged after that"
kill_agent TERM
step_summary
