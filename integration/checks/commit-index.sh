#!/usr/bin/env bash
# commit-index.sh BINDIR: the commit index of archived WAL has every record that pg_waldump finds and no other, with segments of 16, 1 and 64 MB.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$here/lib.sh"
. "$here/scenario.sh"
[ $# -eq 1 ] || { sed -n '2s/^# //p' "$0"; exit 2; }
BIN="$1"

psql_script() { "$PSQL" -X -q -A -t -v ON_ERROR_STOP=1 -d "$DSN" >>"$TM_WORK/psql.log" 2>&1 || { tail -20 "$TM_WORK/psql.log" >&2; return 1; }; }

# work NAME: every kind of end that a transaction can have
work() {
    local name="$1" i
    psql_script <<SQL
CREATE TABLE $name(n int PRIMARY KEY, t text);
INSERT INTO $name SELECT n, md5(n::text) FROM generate_series(1, 500) n;
INSERT INTO $name VALUES (-1);
-- Savepoints kept and rolled back.
BEGIN; INSERT INTO $name VALUES (-2); SAVEPOINT a; INSERT INTO $name VALUES (-3); RELEASE a; SAVEPOINT b; INSERT INTO $name VALUES (-4); ROLLBACK TO b; COMMIT;
BEGIN; INSERT INTO $name VALUES (-5); SAVEPOINT a; INSERT INTO $name VALUES (-6); ROLLBACK;
-- Thousands of subtransactions, in a commit, an abort and a prepared transaction: records of some pages.
DO \$\$ BEGIN FOR i IN 10001..15000 LOOP BEGIN INSERT INTO $name VALUES (i); EXCEPTION WHEN unique_violation THEN NULL; END; END LOOP; END \$\$;
BEGIN; DO \$\$ BEGIN FOR i IN 20001..23000 LOOP BEGIN INSERT INTO $name VALUES (i); EXCEPTION WHEN unique_violation THEN NULL; END; END LOOP; END \$\$; ROLLBACK;
BEGIN; DO \$\$ BEGIN FOR i IN 30001..33000 LOOP BEGIN INSERT INTO $name VALUES (i); EXCEPTION WHEN unique_violation THEN NULL; END; END LOOP; END \$\$;
PREPARE TRANSACTION '$name-subtransactions';
COMMIT PREPARED '$name-subtransactions';
-- Prepared transactions, ended both ways, also with dropped and created relations.
BEGIN; INSERT INTO $name VALUES (-7); PREPARE TRANSACTION '$name-1';
BEGIN; INSERT INTO $name VALUES (-8); PREPARE TRANSACTION '$name-2';
BEGIN; CREATE TABLE ${name}_made(n int); PREPARE TRANSACTION '$name-3';
ROLLBACK PREPARED '$name-2'; COMMIT PREPARED '$name-1'; ROLLBACK PREPARED '$name-3';
CREATE TABLE ${name}_two(n int, t text);
BEGIN; DROP TABLE ${name}_two; PREPARE TRANSACTION '$name-4'; COMMIT PREPARED '$name-4';
-- Many relations dropped at once, some taken back, some truncated.
DO \$\$ BEGIN FOR i IN 1..120 LOOP EXECUTE format('CREATE TABLE ${name}_%s(n int, t text)', i); END LOOP; END \$\$;
BEGIN; DO \$\$ BEGIN FOR i IN 1..100 LOOP EXECUTE format('DROP TABLE ${name}_%s', i); END LOOP; END \$\$; ROLLBACK;
DO \$\$ BEGIN FOR i IN 1..110 LOOP EXECUTE format('DROP TABLE ${name}_%s', i); END LOOP; END \$\$;
BEGIN; CREATE TABLE ${name}_aborted(n int, t text); INSERT INTO ${name}_aborted VALUES (1); ROLLBACK;
TRUNCATE ${name}_111, ${name}_112;
DROP TABLE ${name}_113;
VACUUM FULL ${name}_114;
SELECT pg_create_restore_point('point of $name');
SELECT pg_create_restore_point('Ünïcode, "quoted"; $name');
-- Our own messages and others'.
SELECT pg_logical_emit_message(false, 'tidemark', 'fence $name-1 0123456789abcdef');
SELECT pg_logical_emit_message(true, 'tidemark', 'fence $name-2 ' || repeat('f', 64));
BEGIN; SELECT pg_logical_emit_message(true, 'tidemark', 'fence $name-3 00'); ROLLBACK;
SELECT pg_logical_emit_message(false, 'tidemark', 'fence of nothing');
SELECT pg_logical_emit_message(false, 'tidemark', 'fence ${name}_ 00 ');
SELECT pg_logical_emit_message(false, 'tidemark2', 'fence $name-4 00');
SELECT pg_logical_emit_message(true, 'other', 'fence $name-5 00');
SELECT pg_logical_emit_message(false, 'tidemark', decode('66656e636520ff203030', 'hex'));
-- Records over pages and segments.
SELECT pg_logical_emit_message(false, 'large', repeat('x', 3 << 20));
INSERT INTO $name SELECT 40000 + n, (SELECT string_agg(md5((n * 1000 + m)::text), '') FROM generate_series(1, 3000) m) FROM generate_series(1, 20) n;
SELECT pg_switch_wal();
-- A replication origin has a time of its own, which is not the transaction's.
SELECT pg_replication_origin_create('origin of $name');
SELECT pg_replication_origin_session_setup('origin of $name');
BEGIN; INSERT INTO $name VALUES (-9); SELECT pg_replication_origin_xact_setup('0/AA', '2001-01-01 00:00:00+00'); COMMIT;
SELECT pg_replication_origin_session_reset();
SQL
    # Messages in small steps, so that commits and fences lie over the ends of pages and segments too.
    for (( i = 0; i < 3; i++ )); do
        echo "DO \$\$ BEGIN FOR i IN 1..400 LOOP PERFORM pg_logical_emit_message(false, 'fill', repeat('y', (i * 37 + $i) % 4000)); PERFORM pg_logical_emit_message(false, 'tidemark', 'fence $name-' || $i || '-' || i || ' ' || md5(i::text)); COMMIT; END LOOP; END \$\$;"
    done | psql_script
}

# cross NAME: ends of transactions with records of 16 KB that begin about 4 KB before the end of a segment of 1 MB
cross() {
    local name="$1" bytes=$((1 << 20)) end
    for end in COMMIT ROLLBACK "PREPARE TRANSACTION '$name-cross'" "COMMIT PREPARED '$name-cross'"; do
        case "$end" in
            "COMMIT PREPARED"*) ;;
            *)
                echo "BEGIN;"
                echo "DO \$\$ BEGIN FOR i IN 1..4000 LOOP BEGIN INSERT INTO ${name}_120 VALUES (i); EXCEPTION WHEN unique_violation THEN NULL; END; END LOOP; END \$\$;" ;;
        esac
        # Each page of 8192 bytes takes 8168 of the message.
        echo "SELECT pg_logical_emit_message(false, 'fill', repeat('z', (room * 8168 / 8192)::int)) FROM (SELECT $bytes - 4096 - (pg_current_wal_insert_lsn() - '0/0') % $bytes AS room) AS left_over WHERE room > 0;"
        echo "$end;"
    done | psql_script
}

reached() { "$here/commit-index" reached "$ARCHIVE" main "$1"; }

caught_up() { # waits until everything is archived
    local end
    end="$(sql "$PG" "SELECT pg_current_wal_flush_lsn()")"
    wait_for "the archive to reach $end" 60 reached "$end" || { tail -20 "$TM_WORK/agent.log" >&2; return 1; }
}

verify() { # verify STATUS WORDS…: the exit status that tidemark verify must have
    local want="$1" status=0; shift
    "$TIDEMARK" verify --archive "file://$ARCHIVE" "$@" >"$TM_WORK/verify.out" 2>&1 || status=$?
    [ "$status" -eq "$want" ] || { cat "$TM_WORK/verify.out" >&2; die "tidemark verify $*: exit code $status instead of $want"; }
}

run() { # run MEGABYTES [setting…]
    local size="$1"; shift
    step "Segments of $size MB: start"
    PG="$TM_WORK/postgres-$size" ARCHIVE="$TM_WORK/archive-$size" CONFIG="$TM_WORK/tidemark-$size.yaml"
    TM_INITDB="--wal-segsize=$size" start_postgres "$BIN" "$PG" "max_prepared_transactions = 20" "$@"
    DSN="$(conninfo "$PG")"
    write_config_postgres_only
    sed -i "s|^state: .*|state: $TM_WORK/state-$size|" "$CONFIG"
    tidemark_or_die init --config "$CONFIG"
    start_agent
    wait_for "the log in the archive" 60 list_has_logs main || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }

    step "Segments of $size MB: load, with the agent killed and started again"
    "$PGBENCH" -i -q -s 1 "$DSN" >"$TM_WORK/pgbench.log" 2>&1
    "$PGBENCH" -n -c 3 -j 1 -T 3 "$DSN" >>"$TM_WORK/pgbench.log" 2>&1 &
    local bench=$!
    PIDS+=("$bench")
    work one
    [ "$size" -gt 1 ] || cross one
    agent_alive
    # What the archive ends with now is the first half of a record, and its second half in a tail.
    caught_up
    kill_agent KILL
    start_agent
    work two
    [ "$size" -gt 1 ] || cross two
    kill_agent TERM
    start_agent
    wait "$bench" || { tail -20 "$TM_WORK/pgbench.log" >&2; die "pgbench failed"; }
    forget_pid "$bench"
    caught_up

    step "Segments of $size MB: another timeline"
    stop_postgres "$PG"
    as_postgres touch "$PG/data/standby.signal"
    start_postgres "$BIN" "$PG" "max_prepared_transactions = 20" "$@"
    as_postgres "$BIN/pg_ctl" -D "$PG/data" -w promote >/dev/null
    kill_agent TERM
    DSN="$(conninfo "$PG")"
    sed -i "s|conninfo: .*|conninfo: \"$DSN\"|" "$CONFIG"
    start_agent
    work three
    caught_up
    kill_agent TERM

    step "Segments of $size MB: pg_waldump and the index, record by record"
    "$here/commit-index" compare "$ARCHIVE" main "$WALDUMP" "$TM_WORK/unpacked-$size" | sed 's/^/  /'
    rm -rf -- "$TM_WORK/unpacked-$size"
    verify 0 --contents --reindex
    sed 's/^/  /' "$TM_WORK/verify.out"
    stop_postgres "$PG" immediate
}

make_work commit-index
build_tidemark
PSQL="$(with_program "$BIN" psql)"
PGBENCH="$(with_program "$BIN" pgbench)"
# It reads the WAL of its own version only.
WALDUMP="$(with_program "$BIN" pg_waldump)" && [ "$(pg_major "$BIN")" = "$("$WALDUMP" --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/')" ] \
    || die "no pg_waldump of version $(pg_major "$BIN")"
run 16
run 64
run 1 "wal_level = logical"

step "An index that is lost or damaged is made anew, damaged content is told"
mapfile -t pieces < <(find "$ARCHIVE/log/main" -name '*.zst' ! -name '*.tail.zst' | sort)
one="${pieces[1]}" two="${pieces[2]}" three="${pieces[3]}"
cp -- "$one.idx" "$TM_WORK/one.idx"
cp -- "$two.idx" "$TM_WORK/two.idx"
rm -- "$one.idx"
printf 'nonsense' >"$two.idx"
verify 4
verify 4 --reindex
grep -c '^ *repaired ' "$TM_WORK/verify.out" | grep -qx 2 || { cat "$TM_WORK/verify.out" >&2; die "not both indexes were repaired"; }
cmp "$one.idx" "$TM_WORK/one.idx" && cmp "$two.idx" "$TM_WORK/two.idx" || die "an index was not made as it was"
verify 0 --contents --reindex
python3 - "$three" <<'PY'
import sys
with open(sys.argv[1], "r+b") as f:
    f.seek(100)
    byte = f.read(1)[0]
    f.seek(100)
    f.write(bytes([byte ^ 1]))
PY
verify 0
verify 4 --contents
grep -q "content-damaged" "$TM_WORK/verify.out" || die "damaged content was not named"
rm -- "$one" "$one.idx"
verify 4
grep -q " hole: " "$TM_WORK/verify.out" || die "a hole was not named"
note "$(grep -E '^ *PROBLEM .*hole' "$TM_WORK/verify.out" | sed 's/^ *//')"
step_summary
