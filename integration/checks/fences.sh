#!/usr/bin/env bash
# fences.sh BINDIR: fences from another host with the least role, for two storages; without PostgreSQL; and back.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$here/lib.sh"
. "$here/scenario.sh"
[ $# -eq 1 ] || { sed -n '2s/^# //p' "$0"; exit 2; }

make_work fences
build_tidemark
FENCES="$here/fences"
BIN="$1"
PG="$TM_WORK/postgres"
ARCHIVE="$TM_WORK/archive"
export FENCE_PASSWORD="a-word-that-nobody-prints"
mkdir -p "$ARCHIVE"

step "PostgreSQL, reached over TCP by a role that may log in and nothing else"
start_postgres "$BIN" "$PG" "listen_addresses = '127.0.0.1'" "max_wal_size = '1GB'"
sql "$PG" "CREATE ROLE tidemark_fence LOGIN PASSWORD '$FENCE_PASSWORD'; REVOKE ALL ON DATABASE postgres FROM PUBLIC;
    REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT CONNECT ON DATABASE postgres TO tidemark_fence"
{ echo "host postgres tidemark_fence 127.0.0.1/32 scram-sha-256"; cat "$PG/data/pg_hba.conf"; } >"$TM_WORK/hba"
cat "$TM_WORK/hba" | as_postgres tee "$PG/data/pg_hba.conf" >/dev/null
sql "$PG" "SELECT pg_reload_conf()" >/dev/null

step "Two agents as if on two hosts: one for PostgreSQL, one for two storages"
cat >"$TM_WORK/database.yaml" <<YAML
archive: file://$ARCHIVE
state: $TM_WORK/state-database
sources:
  - postgres: main
    conninfo: "$(conninfo "$PG")"
    slot: tidemark
YAML
{
    echo "archive: file://$ARCHIVE"
    echo "state: $TM_WORK/state-storages"
    echo "sources:"
    for name in first second; do
        "$STANDIN" init "$TM_WORK/$name" --repositories 3 --keep >/dev/null
        cat <<YAML
  - gitaly: $name
    storage: $TM_WORK/$name
    log: wal
    fence: main
    fence_conninfo: "host=127.0.0.1 port=$(cat "$PG.port") user=tidemark_fence password=\${FENCE_PASSWORD}"
    fence_interval: 500ms
YAML
    done
} >"$TM_WORK/storages.yaml"
tidemark_or_die init --config "$TM_WORK/database.yaml"

step "tidemark check: fences work; without rights, without PostgreSQL's name"
check_storages() { "$TIDEMARK" check --config "$1" >"$TM_WORK/check.out" 2>&1; }
check_storages "$TM_WORK/storages.yaml" || { cat "$TM_WORK/check.out" >&2; die "the check failed"; }
[ "$(grep -c "ok .*fences can be written into the log of 'main'" "$TM_WORK/check.out")" = 2 ] || { cat "$TM_WORK/check.out" >&2; die "no word of fences"; }
grep -m1 "clock of 'main'" "$TM_WORK/check.out"
sql "$PG" "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC"
if check_storages "$TM_WORK/storages.yaml"; then die "a role without its rights passed"; fi
grep -q "CREATE ROLE tidemark_fence LOGIN" "$TM_WORK/check.out" || { cat "$TM_WORK/check.out" >&2; die "the remedy names no SQL"; }
sql "$PG" "GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC"
grep -v '^    fence' "$TM_WORK/storages.yaml" >"$TM_WORK/unfenced.yaml"
check_storages "$TM_WORK/unfenced.yaml" || die "the check without fences failed"
[ "$(grep -c "warning .*no fences" "$TM_WORK/check.out")" = 2 ] || die "no warning where fences are not configured"

load() { # load NAME: pushes into one storage until it is stopped
    "$STANDIN" load "$TM_WORK/$1" --seconds 0 --clients 2 --pause 0.05 --keep >"$TM_WORK/load-$1.out" 2>&1 &
    LOADS+=("$!")
    PIDS+=("$!")
}
agent() { # agent NAME: sets AGENT_OF_LAST
    "$TIDEMARK" agent --config "$TM_WORK/$1.yaml" >>"$TM_WORK/$1.log" 2>&1 &
    AGENT_OF_LAST=$!
    PIDS+=("$AGENT_OF_LAST")
}
end() { # end PID: with TERM
    kill -TERM "$1"
    wait "$1" || die "process $1 ended with $?"
    forget_pid "$1"
}
fences_reach() { local name; for name in first second; do [ "$("$FENCES" count "$ARCHIVE" "$name")" -ge "$1" ] || return 1; done; }
entries_reach() { [ "$("$FENCES" entries "$ARCHIVE" first)" -ge "$1" ]; }
show_logs() { tail -20 "$TM_WORK"/*.log >&2; }

step "Load on both storages: fences in the archive"
LOADS=()
agent database
DATABASE_AGENT=$AGENT_OF_LAST
agent storages
STORAGES_AGENT=$AGENT_OF_LAST
load first
load second
wait_for "five fences of each storage" 60 fences_reach 5 || { show_logs; exit 1; }
"$FENCES" list "$ARCHIVE" first | sed -n '1,3s/^/  /p'

step "tidemark check: another cluster behind fence_conninfo"
start_postgres "$BIN" "$TM_WORK/other"
sed "s#fence_conninfo: .*#fence_conninfo: \"$(conninfo "$TM_WORK/other")\"#" "$TM_WORK/storages.yaml" >"$TM_WORK/elsewhere.yaml"
if check_storages "$TM_WORK/elsewhere.yaml"; then die "fences into another cluster passed"; fi
grep -q "FAILED .*fences go to the cluster" "$TM_WORK/check.out" || { cat "$TM_WORK/check.out" >&2; die "no word of the other cluster"; }
stop_postgres "$TM_WORK/other"

step "Every one is in the archived WAL, at its very position"
sql "$PG" "SELECT pg_switch_wal()" >/dev/null
closed() { find "$ARCHIVE/log/main" -name '*.zst' ! -name '*.tail.zst' | grep -q .; }
wait_for "a closed segment" 60 closed || { show_logs; exit 1; }
for name in first second; do
    note "$name: $("$FENCES" markers "$ARCHIVE" "$name" main "$(dirname "$(with_program "$BIN" pg_waldump)")" "$TM_WORK/wal-$name") fences found"
done

step "PostgreSQL stops: entries go on being archived, and the agent says what that means, once"
stop_postgres "$PG"
before="$("$FENCES" entries "$ARCHIVE" first)"
wait_for "40 more entries without PostgreSQL" 30 entries_reach $((before + 40)) || { show_logs; exit 1; }
sleep 6 # over the second attempt
without="$("$FENCES" count "$ARCHIVE" first)"
for name in first second; do
    [ "$(grep -c "$name: no fence could be written" "$TM_WORK/storages.log")" = 1 ] || { show_logs; die "not one warning of $name"; }
done
grep -m1 -o "first: no fence could be written.*" "$TM_WORK/storages.log" | cut -c1-250 | sed 's/^/  /'

step "PostgreSQL is back: so are fences"
as_postgres "$BIN/pg_ctl" -D "$PG/data" -l "$PG/log" -w -t 60 start >/dev/null
wait_for "more fences" 90 fences_reach $((without + 2)) || { show_logs; exit 1; }
for name in first second; do
    [ "$(grep -c "$name: fences are written into the log of 'main' again" "$TM_WORK/storages.log")" = 1 ] || { show_logs; die "$name does not say so"; }
done

step "The end of an agent: a last fence, over everything"
for pid in "${LOADS[@]}"; do end "$pid"; done
note "the loads have ended"
end "$STORAGES_AGENT"
for name in first second; do "$FENCES" covered "$ARCHIVE" "$name" || { show_logs; die "$name ends without a fence"; }; done

step "tidemark backup without an agent writes fences too"
before="$("$FENCES" count "$ARCHIVE" first)"
LOADS=()
load first
tidemark_or_die backup --config "$TM_WORK/storages.yaml"
end "${LOADS[0]}"
[ "$("$FENCES" count "$ARCHIVE" first)" -gt "$before" ] || die "the backup's log has no fence"

step "Packs that hold nothing but a fence are restored over"
agent storages
STORAGES_AGENT=$AGENT_OF_LAST
wait_for "a fence over the rest" 60 "$FENCES" covered "$ARCHIVE" first || { show_logs; exit 1; }
end "$STORAGES_AGENT"
tidemark_or_die restore --config "$TM_WORK/storages.yaml" --latest --into "first=$TM_WORK/restored"
"$STANDIN" list "$TM_WORK/first" | while read -r repository; do
    [ "$(git -c safe.directory='*' --git-dir "$TM_WORK/first/$repository" for-each-ref)" = "$(git -c safe.directory='*' --git-dir "$TM_WORK/restored/$repository" for-each-ref)" ] \
        || die "$repository was restored with other references"
done
end "$DATABASE_AGENT"

step "The password is nowhere"
if grep -raq -- "$FENCE_PASSWORD" "$TM_WORK"/*.log "$TM_WORK"/*.out "$ARCHIVE"; then die "somebody printed it"; fi
step_summary
