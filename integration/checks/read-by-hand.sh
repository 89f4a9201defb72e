#!/usr/bin/env bash
# read-by-hand.sh BINDIR: the block of docs/archive-format.md reads an archive with zstd, tar and PostgreSQL alone.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$here/lib.sh"
. "$here/scenario.sh"
[ $# -eq 1 ] || { sed -n '2s/^# //p' "$0"; exit 2; }

make_work read-by-hand
build_tidemark
step "An archive of both sources, with a base, closed segments and tails"
make_world "$1" 4
tidemark_or_die init --config "$CONFIG"
start_load 2 0.02
start_agent
wait_for "both logs in the archive" 60 list_has_logs main default || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
tidemark_or_die backup --config "$CONFIG"
sql "$PG" "SELECT pg_switch_wal()" >/dev/null
stop_load
rows="$(sql "$PG" "SELECT count(*) FROM pushes")"
T="$(time_now)"
sql "$PG" "CREATE TABLE after_the_load(n int)"
wait_for "the window of main to hold $T" 60 window_covers "$T" main || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
wait_for "the window of default to hold $T" 60 window_covers "$T" default || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
kill_agent TERM
find "$ARCHIVE/log/main" -name '*.tail.zst' | grep -q . || die "the archive has no tail to try"

step "The block of docs/archive-format.md"
awk '/^```sh$/ { on = 1; next } /^```$/ { on = 0 } on' "$TM_ROOT/docs/archive-format.md" >"$TM_WORK/by-hand.sh"
[ -s "$TM_WORK/by-hand.sh" ] || die "the page has no block to execute"
mkdir "$TM_WORK/hand"
(cd "$TM_WORK/hand" && ARCHIVE="$ARCHIVE" bash -euo pipefail "$TM_WORK/by-hand.sh")
if [ "$(id -u)" = 0 ]; then chown -R postgres:postgres "$TM_WORK/hand"; fi

step "Its base verifies, its log starts, its rows are there"
"$(with_program "$BIN" pg_verifybackup)" --no-parse-wal --ignore=recovery.signal --ignore=postgresql.auto.conf "$TM_WORK/hand/data"
entries="$(find "$TM_WORK/hand/log" -name MANIFEST | wc -l)"
listed="$("$TIDEMARK" list --config "$CONFIG" --json | python3 -c 'import json, sys; print(sum(l["records"] for l in json.load(sys.stdin)["logs"] if l["kind"] == "gitaly"))')"
[ "$entries" = "$listed" ] || die "$entries entries unpacked, $listed listed"
find "$TM_WORK/hand/storage" -name HEAD | grep -q . || die "no repository in the storage"
note "$entries entries of Gitaly's log unpacked"
mkdir "$TM_WORK/by-hand-server"
mv "$TM_WORK/hand/data" "$TM_WORK/by-hand-server/data"
RESTORED="$TM_WORK/by-hand-server"
start_postgres "$BIN" "$RESTORED"
wait_for "the server to end its recovery" 60 restored_is_open
[ "$(sql "$RESTORED" "SELECT count(*) FROM pushes")" = "$rows" ] || die "rows are missing"
[ -n "$(sql "$RESTORED" "SELECT to_regclass('after_the_load')")" ] || die "the tail was not replayed"
note "$rows rows, to the last one of the tail"
step_summary
