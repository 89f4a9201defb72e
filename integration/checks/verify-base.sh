#!/usr/bin/env bash
# verify-base.sh BINDIR: a base with a tablespace, restored without recovery; pg_verifybackup accepts it.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$here/lib.sh"
. "$here/scenario.sh"
[ $# -eq 1 ] || { sed -n '2s/^# //p' "$0"; exit 2; }

make_work verify-base
build_tidemark
PG="$TM_WORK/postgres" BIN="$1" ARCHIVE="$TM_WORK/archive" CONFIG="$TM_WORK/tidemark.yaml"
step "Start PostgreSQL with a tablespace"
start_postgres "$BIN" "$PG"
DSN="$(conninfo "$PG")"
mkdir -m 0700 "$TM_WORK/space"
if [ "$(id -u)" = 0 ]; then chown postgres:postgres "$TM_WORK/space"; fi
sql "$PG" "CREATE TABLESPACE space LOCATION '$TM_WORK/space'"
sql "$PG" "CREATE TABLE in_space(n int, t text) TABLESPACE space; INSERT INTO in_space SELECT n, repeat(md5(n::text), 4) FROM generate_series(1, 50000) n"
write_config_postgres_only

step "Agent, base"
tidemark_or_die init --config "$CONFIG"
start_agent
wait_for "the log in the archive" 60 list_has_logs main || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
tidemark_or_die backup --config "$CONFIG" --source main
# The base can be used once the log of its time is archived.
sql "$PG" "CREATE TABLE after_base(n int); SELECT pg_switch_wal()" >/dev/null
T="$(time_now)"
sql "$PG" "CREATE TABLE after_time(n int)" >/dev/null
wait_for "the window to hold $T" 60 window_covers "$T" main || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }

step "Restore without recovery"
tidemark_or_die restore --config "$CONFIG" --latest --into "main=$TM_WORK/restored" --source main --recover none --bindir "$BIN"
[ -e "$TM_WORK/restored/backup_manifest" ] || die "no backup_manifest in the restored directory"
links="$(find "$TM_WORK/restored/pg_tblspc" -mindepth 1 -maxdepth 1 | wc -l)"
[ "$links" -eq 1 ] || die "$links tablespaces in pg_tblspc, not 1"

step "pg_verifybackup"
# The log comes from the archive at recovery, so it is not parsed here. Only the two files that ask for recovery may differ.
"$(with_program "$BIN" pg_verifybackup)" --no-parse-wal --ignore=recovery.signal --ignore=postgresql.auto.conf "$TM_WORK/restored"
kill_agent TERM
step_summary
