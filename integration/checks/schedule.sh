#!/usr/bin/env bash
# schedule.sh BINDIR: agents take bases by themselves, one at a time in an archive; what cannot be read stops none of them, and is told.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$here/lib.sh"
. "$here/scenario.sh"
[ $# -eq 1 ] || { sed -n '2s/^# //p' "$0"; exit 2; }

make_work schedule
build_tidemark

# lease: the newest record of the lease for bases, in one line; nothing when there is none
lease() {
    local newest
    newest="$(find "$ARCHIVE/leases/base" -name '*.json' 2>/dev/null | sort | tail -1)"
    [ -z "$newest" ] || tr -d '\n' <"$newest"
}
lease_is() { lease | grep -q "\"state\" : \"$1\""; }
held_by() { lease_is held && lease | grep -q "\"process\" : $1,"; }
bases_of() { "$TIDEMARK" list --config "$CONFIG" --json | python3 -c 'import json, sys; print(sum(b["source"] == sys.argv[1] for b in json.load(sys.stdin)["bases"]))' "$1"; }
has_bases() { [ "$(bases_of "$1")" -ge "$2" ]; }
# no_two_at_once: the times of all bases, from beginning to end, do not overlap
no_two_at_once() {
    "$TIDEMARK" list --config "$CONFIG" --json | python3 -c '
import json, sys
bases = sorted((b["started"], b["completed"], b["id"]) for b in json.load(sys.stdin)["bases"])
for a, b in zip(bases, bases[1:]):
    if b[0] < a[1]: sys.exit(f"{a} and {b} were taken at once")
print(f"  {len(bases)} bases, one after the other")'
}
# restart_postgres: it comes back at another port
restart_postgres() {
    start_postgres "$BIN" "$PG"
    DSN="$(conninfo "$PG")"
    write_config
}
# status_of STATUS COMMAND…: runs it, wants that status, keeps what it says in $TM_WORK/said
status_of() {
    local wanted="$1" got=0
    shift
    "$@" >"$TM_WORK/said" 2>&1 || got=$?
    [ "$got" = "$wanted" ] || { cat "$TM_WORK/said" >&2; die "status $got instead of $wanted: $*"; }
}
said() { grep -Eq -- "$1" "$TM_WORK/said" || { cat "$TM_WORK/said" >&2; die "nothing was said of '$1'"; }; }

step "PostgreSQL with page checksums and a table, a storage"
make_world "$1" 4
stop_postgres "$PG"
# From PostgreSQL 18 on clusters have them from the start.
as_postgres "$BIN/pg_controldata" "$PG/data" | grep -q 'checksum version: *[1-9]' || as_postgres "$BIN/pg_checksums" --enable -D "$PG/data" >/dev/null
restart_postgres
tidemark_or_die init --config "$CONFIG"

step "Two agents of one archive, each with its source, take the first bases by themselves, one at a time"
cp "$CONFIG" "$TM_WORK/both.yaml"
{ archive_config; printf 'state: %s/state-1\nbase: { schedule: "@daily" }\nsources:\n' "$TM_WORK"; sed -n '/- postgres/,/slot:/p' "$TM_WORK/both.yaml"; } >"$TM_WORK/one.yaml"
{ archive_config; printf 'state: %s/state-2\nbase: { schedule: "@daily" }\nsources:\n' "$TM_WORK"; printf '  - gitaly: default\n    storage: %s\n' "$STORAGE"; } >"$TM_WORK/two.yaml"
for n in one two; do
    "$TIDEMARK" agent --config "$TM_WORK/$n.yaml" >"$TM_WORK/agent-$n.log" 2>&1 &
    PIDS+=("$!")
    eval "AGENT_$n=$!"
done
for source in main default; do
    wait_for "a base of $source" 300 has_bases "$source" 1 || { tail -20 "$TM_WORK"/agent-*.log >&2; exit 1; }
done
wait_for "the lease to be given back" 30 lease_is released
grep -h "taking a base: there is none yet" "$TM_WORK"/agent-*.log | sed 's/^/  /'
no_two_at_once
# shellcheck disable=SC2154
for pid in "$AGENT_one" "$AGENT_two"; do
    kill -TERM "$pid"
    wait "$pid" || die "an agent ended with status $?"
    forget_pid "$pid"
done

step "A base that is due every minute"
sed -i 's/^tail: 1s/&\nbase: { schedule: "* * * * *" }/' "$CONFIG"
start_agent
wait_for "a second base of each source, on schedule" 400 has_bases main 2 || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
wait_for "a second base of each source, on schedule" 400 has_bases default 2 || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
no_two_at_once
kill_agent TERM
write_config

step "A backup waits for one that is running; --no-wait is refused; a killed one is in nobody's way"
sql "$PG" "CREATE TABLE noise(b bytea); INSERT INTO noise SELECT decode(md5(random()::text) || md5(random()::text), 'hex') FROM generate_series(1, 200000)" >/dev/null
# hold_lease: a backup that was stopped in the middle of its work; sets HOLDER
hold_lease() {
    local attempt
    for attempt in 1 2 3 4 5; do
        "$TIDEMARK" backup --config "$CONFIG" --source main >"$TM_WORK/holder.log" 2>&1 &
        HOLDER=$!
        PIDS+=("$HOLDER")
        wait_for "a backup to have the lease" 60 held_by "$HOLDER" || { cat "$TM_WORK/holder.log" >&2; exit 1; }
        kill -STOP "$HOLDER"
        # It may have been over before it was stopped.
        if held_by "$HOLDER" && [ "$(ps -o stat= -p "$HOLDER" | cut -c1)" = T ]; then return 0; fi
        kill -CONT "$HOLDER" 2>/dev/null || true
        wait "$HOLDER" || true
        forget_pid "$HOLDER"
    done
    die "no backup could be stopped in the middle of its work in $attempt attempts"
}
hold_lease
status_of 3 "$TIDEMARK" backup --config "$CONFIG" --source default --no-wait
said "process $HOLDER\) has been at it since"
note "$(grep -m1 '^error' "$TM_WORK/said")"
kill -KILL "$HOLDER"
wait "$HOLDER" 2>/dev/null || true
forget_pid "$HOLDER"
status_of 0 "$TIDEMARK" backup --config "$CONFIG" --source main
if grep "waiting for .*process $HOLDER" "$TM_WORK/said"; then die "the lease of a process that is gone was waited for"; fi
note "after SIGKILL of its holder on the same machine the next backup did not wait for the lease to end"

step "A page of the table is damaged, a repository and a file cannot be read: the backups end, with status 4"
file="$PG/data/$(sql "$PG" "SELECT pg_relation_filepath('noise')")"
stop_postgres "$PG"
flip "$file"
restart_postgres
lost="$("$STANDIN" list "$STORAGE" | sed -n 1p)"
# The last entry of each partition is replayed over a base that cannot see its effects; it must not be the one that made the repository.
"$STANDIN" force-push "$STORAGE" "$lost" --keep >/dev/null
if [ "$(id -u)" = 0 ]; then
    # Another account from here on: root reads everything.
    cp "$TIDEMARK" "$TM_WORK/tidemark"
    printf '#!/bin/sh\nexec setpriv --reuid=postgres --regid=postgres --clear-groups env HOME=/tmp %s "$@"\n' "$TM_WORK/tidemark" >"$TM_WORK/as-postgres"
    chmod 755 "$TM_WORK/as-postgres"
    TIDEMARK="$TM_WORK/as-postgres"
    mkdir "$TM_WORK/restored"
    chown -R postgres "$STORAGE" "$ARCHIVE" "$TM_WORK/state" "$TM_WORK/restored"
fi
mkdir -p "$TM_WORK/restored"
start_agent
wait_for "the agent to archive" 60 list_has_logs main default
chmod 000 "$STORAGE/$lost"
status_of 4 "$TIDEMARK" backup --config "$CONFIG" --source default
said "warning: default: the directory '$lost' was left out"
status_of 4 "$TIDEMARK" backup --config "$CONFIG" --source main
said "warning: main: PostgreSQL found damaged pages"
chmod 755 "$STORAGE/$lost"
status_of 0 "$TIDEMARK" list --config "$CONFIG"
said "warning: default .*: the directory '$lost' was left out"
said "warning: main .*: PostgreSQL found damaged pages"
said "warning: main .*: checksum verification fail"
"$TIDEMARK" list --config "$CONFIG" --json | python3 -c '
import json, sys
last = {b["source"]: b for b in json.load(sys.stdin)["bases"]}
assert all(last[s]["warnings"] for s in ("main", "default")), last'
note "$(grep -m1 'left out' "$TM_WORK/said" | sed 's/^ *//')"
note "$(grep -m1 'damaged pages' "$TM_WORK/said" | sed 's/^ *//')"

step "The repository goes on being written to; a restore of such bases works, and tells what is missing"
kill_agent TERM
"$STANDIN" load "$STORAGE" --seconds 3 --clients 2 --pause 0.02 --keep --dsn "$DSN" --psql "$PSQL" --journal "$JOURNAL" >"$TM_WORK/load.out"
T="$(time_now)"
sql "$PG" "CREATE TABLE after_time(n int)" >/dev/null
"$STANDIN" init "$STORAGE" --repositories 1 --keep >/dev/null
[ "$(id -u)" != 0 ] || chown -R postgres "$STORAGE"
start_agent
wait_for "the window of both sources to hold $T" 90 window_covers "$T" || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
status_of 4 "$TIDEMARK" restore --config "$CONFIG" --to-time "$T" --into "main=$TM_WORK/restored/main" --into "default=$TM_WORK/restored/default" \
    --recover promote --bindir "$BIN"
said "is not whole: the directory '$lost' was left out"
said "is not whole: PostgreSQL found damaged pages"
[ ! -e "$TM_WORK/restored/default/$lost/HEAD" ] || die "$lost is there"
for repository in $("$STANDIN" list "$STORAGE" | sed 1d | head -3); do
    [ -e "$TM_WORK/restored/default/$repository/HEAD" ] || die "$repository is missing"
    git -C "$TM_WORK/restored/default/$repository" -c safe.directory='*' fsck >/dev/null 2>&1 || die "$repository is not whole"
done
start_restored "$TM_WORK/restored/main"
[ "$(sql "$RESTORED" "SELECT count(*) FROM precious")" = 1000 ] || die "table precious is not whole"
note "$lost is missing and everything else is there; the damaged table is the only one that is"

step "SIGTERM in the middle of a base is quick, and leaves nothing in the way"
kill_agent TERM
hold_lease
kill -TERM "$HOLDER"
begun="$(now_ms)"
kill -CONT "$HOLDER"
status=0
wait "$HOLDER" || status=$?
forget_pid "$HOLDER"
note "it ended with status $status after $(( $(now_ms) - begun )) ms"
[ "$status" = 1 ] || { cat "$TM_WORK/holder.log" >&2; die "it was not interrupted"; }
lease_is released || die "the lease was not given back"
step_summary
