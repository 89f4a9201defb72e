#!/usr/bin/env bash
# timeline.sh BINDIR: under load somebody drops a table and deletes a repository. The moment is found with nothing but tidemark log,
# and what it prints is given to tidemark restore as it is: before the drop both are there, before the deletion only the repository.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$here/lib.sh"
. "$here/scenario.sh"
[ $# -eq 1 ] || { sed -n '2,3s/^# //p' "$0"; exit 2; }

make_work timeline
build_tidemark

losses() { # losses KIND FIELD: of the only loss of that kind
    python3 - "$TM_WORK/log.json" "$1" "$2" <<'PY'
import json, sys
path, kind, field = sys.argv[1:]
events = [e for e in json.load(open(path))["events"] if e["kind"] == kind]
if len(events) != 1:
    sys.exit(f"error: {len(events)} losses of the kind {kind}: {events}")
print(events[0][field])
PY
}

in_the_log() { "$TIDEMARK" log --config "$CONFIG" --drops --json >"$TM_WORK/log.json" && losses commit target && losses delete target; }

step "A world under load, an agent, a base of each"
make_world "$1" 8
start_load 3 0.02
tidemark_or_die init --config "$CONFIG"
start_agent
wait_for "both logs in the archive" 60 list_has_logs main default || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
tidemark_or_die backup --config "$CONFIG"
sleep 2

step "Around noon somebody drops something"
deleted="$("$STANDIN" list "$STORAGE" | sed -n 1p)"
sql "$PG" "DROP TABLE precious"
sleep 1
"$STANDIN" delete-repository "$STORAGE" "$deleted" --keep
sleep 1
stop_load
agent_alive
wait_for "both losses in tidemark log" 60 in_the_log
wait_for "the window to hold the end" 60 window_covers "$(time_now)"
kill_agent TERM

step "Find the moment"
in_the_log >/dev/null
"$TIDEMARK" log --config "$CONFIG" --drops
[ "$(losses delete subject)" = "$deleted" ] || die "tidemark log names another repository than $deleted"
before_drop="$(losses commit target)"
before_delete="$(losses delete target)"
note "before the drop: $before_drop"
note "before the deletion: $before_delete"
"$TIDEMARK" log --config "$CONFIG" --drops | grep -q "DROP: transaction" || die "the text does not show the drop"
"$TIDEMARK" log --config "$CONFIG" --repository "$deleted" --limit 100000 | grep -q "DELETE: repository $deleted" || die "the repository's own events lack its deletion"
"$TIDEMARK" log --config "$CONFIG" --xid "$(losses commit xid)" | grep -q "DROP: transaction" || die "the transaction is not found by its id"
if "$TIDEMARK" log --config "$CONFIG" --drops --until "$(losses commit time)" --json | grep -q '"delete"'; then die "the deletion shows up before it happened"; fi

step "tidemark restore $before_drop"
# Word by word, as an administrator pastes it.
# shellcheck disable=SC2086
tidemark_or_die restore --config "$CONFIG" $before_drop --into "main=$TM_WORK/drop-main" --into "default=$TM_WORK/drop-default" --bindir "$BIN"
start_restored "$TM_WORK/drop-main"
[ "$(sql "$RESTORED" "SELECT count(*) FROM precious")" = 1000 ] || die "the table is not whole"
[ -e "$TM_WORK/drop-default/$deleted/HEAD" ] || die "the repository is not there"
prove_restored "$(losses commit time)" "$TM_WORK/drop-default"
note "the table and the repository are there"
stop_postgres "$RESTORED"
rm -rf -- "$RESTORED"

step "tidemark restore $before_delete"
# shellcheck disable=SC2086
tidemark_or_die restore --config "$CONFIG" $before_delete --into "main=$TM_WORK/delete-main" --into "default=$TM_WORK/delete-default" --bindir "$BIN"
start_restored "$TM_WORK/delete-main"
[ "$(sql "$RESTORED" "SELECT to_regclass('precious') IS NULL")" = t ] || die "the table came back, though it was dropped before"
[ -e "$TM_WORK/delete-default/$deleted/HEAD" ] || die "the repository is not there"
# The time before a deletion is that of the fence or entry before it, milliseconds earlier: what came in between is not in the restore.
case "$before_delete" in --to-time\ *) proven="${before_delete#--to-time }" ;; *) proven="$(losses delete time)" ;; esac
prove_restored "$proven" "$TM_WORK/delete-default"
note "the repository is there, the table, dropped before it, is not"
step_summary
