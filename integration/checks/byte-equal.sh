#!/usr/bin/env bash
# byte-equal.sh BINDIR: under pgbench, every archived segment equals, byte for byte, the one pg_receivewal wrote beside it.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$here/lib.sh"
. "$here/scenario.sh"
[ $# -eq 1 ] || { sed -n '2s/^# //p' "$0"; exit 2; }

archived_segments() { find "$ARCHIVE/log/main" -name '*.zst' -printf '%f %p\n' 2>/dev/null | grep -E '^[0-9A-F]{24}\.zst ' | sort; }
archived() { archived_segments | grep -q "^$1\.zst "; }
received() { [ -s "$TM_WORK/received/$1" ]; }

make_work byte-equal
build_tidemark
PG="$TM_WORK/postgres" BIN="$1" ARCHIVE="$TM_WORK/archive" CONFIG="$TM_WORK/tidemark.yaml"
step "Start PostgreSQL, the agent and pg_receivewal"
start_postgres "$BIN" "$PG"
DSN="$(conninfo "$PG")"
PGBENCH="$(with_program "$BIN" pgbench)"
write_config_postgres_only
tidemark_or_die init --config "$CONFIG"
mkdir -p "$TM_WORK/received"
sql "$PG" "SELECT pg_create_physical_replication_slot('peer', true)" >/dev/null
"$BIN/pg_receivewal" -D "$TM_WORK/received" -S peer -d "$DSN" >"$TM_WORK/received.log" 2>&1 &
PIDS+=("$!")
start_agent
wait_for "the log in the archive" 60 list_has_logs main || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }

step "pgbench"
"$PGBENCH" -i -q -s 5 "$DSN" >"$TM_WORK/pgbench.log" 2>&1
"$PGBENCH" -n -c 4 -j 2 -T 8 "$DSN" >>"$TM_WORK/pgbench.log" 2>&1
last="$(sql "$PG" "SELECT pg_walfile_name(pg_current_wal_lsn())")"
sql "$PG" "SELECT pg_switch_wal(); CREATE TABLE after_switch(n int)" >/dev/null

step "Wait for segment $last on both sides"
wait_for "segment $last in the archive" 60 archived "$last" || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
wait_for "segment $last of pg_receivewal" 60 received "$last"

step "Compare"
count=0
while read -r name path; do
    segment="${name%.zst}"
    if [[ "$segment" > "$last" ]] || ! received "$segment"; then continue; fi
    zstd -q -dc -- "$path" | cmp - "$TM_WORK/received/$segment" || die "segment $segment differs"
    count=$((count + 1))
done < <(archived_segments)
# No hole: from the first to the last, as many as pg_receivewal has from there on.
first="$(archived_segments | sed -n 1p | cut -c1-24)"
expected=0
for path in "$TM_WORK/received"/*; do
    segment="$(basename "$path")"
    [[ "$segment" =~ ^[0-9A-F]{24}$ ]] || continue
    if [[ "$segment" < "$first" ]] || [[ "$segment" > "$last" ]]; then continue; fi
    expected=$((expected + 1))
done
note "$count segments are equal, $expected expected"
[ "$count" -ge 3 ] && [ "$count" -eq "$expected" ] || die "segments are missing"
kill_agent TERM
step_summary
