# The parts of a scenario: a PostgreSQL and a stand-in storage under load, an agent, harm, a restore, and the proof.
# Source it after lib.sh. Nothing here is Gitaly: integration/gitaly-standin only writes what Gitaly writes.

STANDIN="$TM_HERE/gitaly-standin"
PROVE="$TM_HERE/prove"
AGENT_PID=""
LOAD_PID=""

# make_world BINDIR [REPOSITORIES]: sets PG, STORAGE, ARCHIVE, CONFIG, JOURNAL, DSN, BIN below $TM_WORK
make_world() {
    BIN="$1"
    PG="$TM_WORK/postgres"
    STORAGE="$TM_WORK/storage"
    ARCHIVE="$TM_WORK/archive"
    CONFIG="$TM_WORK/tidemark.yaml"
    JOURNAL="$TM_WORK/journal.jsonl"
    start_postgres "$BIN" "$PG"
    DSN="$(conninfo "$PG")"
    PSQL="$(with_program "$BIN" psql)"
    sql "$PG" "CREATE TABLE precious(id int PRIMARY KEY, word text); INSERT INTO precious SELECT n, md5(n::text) FROM generate_series(1, 1000) n"
    "$STANDIN" init "$STORAGE" --repositories "${2:-8}" --keep >/dev/null
    : >"$JOURNAL"
    write_config
    note "PostgreSQL $(pg_major "$BIN"), socket in $PG, port $(cat "$PG.port")"
    note "storage of a stand-in for Gitaly, $("$STANDIN" list "$STORAGE" | wc -l) repositories, in $STORAGE"
}

write_config() {
    mkdir -p "$ARCHIVE"
    cat >"$CONFIG" <<YAML
archive: file://$ARCHIVE
state: $TM_WORK/state
tail: 1s
sources:
  - postgres: main
    conninfo: "$DSN"
    slot: tidemark
  - gitaly: default
    storage: $STORAGE
    log: wal
YAML
}

write_config_postgres_only() {
    mkdir -p "$ARCHIVE"
    cat >"$CONFIG" <<YAML
archive: file://$ARCHIVE
state: $TM_WORK/state
tail: 1s
sources:
  - postgres: main
    conninfo: "$DSN"
    slot: tidemark
YAML
}

start_load() { # start_load [CLIENTS [PAUSE]]
    "$STANDIN" load "$STORAGE" --seconds 0 --clients "${1:-3}" --pause "${2:-0.02}" --keep \
        --dsn "$DSN" --psql "$PSQL" --journal "$JOURNAL" >"$TM_WORK/load.out" 2>"$TM_WORK/load.err" &
    LOAD_PID=$!
    PIDS+=("$LOAD_PID")
    wait_for "the first pushes" 30 test -s "$JOURNAL"
}

stop_load() {
    kill -TERM "$LOAD_PID"
    local status=0
    wait "$LOAD_PID" || status=$?
    forget_pid "$LOAD_PID"
    LOAD_PID=""
    if [ "$status" -ne 0 ]; then cat "$TM_WORK/load.err" >&2; die "the load failed"; fi
    note "load: $(cat "$TM_WORK/load.out")"
}

forget_pid() {
    local kept=() p
    for p in "${PIDS[@]}"; do [ "$p" = "$1" ] || kept+=("$p"); done
    PIDS=()
    [ ${#kept[@]} -eq 0 ] || PIDS=("${kept[@]}")
}

start_agent() {
    "$TIDEMARK" agent --config "$CONFIG" >>"$TM_WORK/agent.log" 2>&1 &
    AGENT_PID=$!
    PIDS+=("$AGENT_PID")
}

agent_alive() {
    kill -0 "$AGENT_PID" 2>/dev/null && return 0
    tail -20 "$TM_WORK/agent.log" >&2
    die "the agent ended by itself"
}

kill_agent() { # kill_agent SIGNAL
    kill "-$1" "$AGENT_PID" 2>/dev/null || true
    wait "$AGENT_PID" 2>/dev/null || true
    forget_pid "$AGENT_PID"
    AGENT_PID=""
}

list_has_logs() { # list_has_logs SOURCE…
    "$TIDEMARK" list --config "$CONFIG" --json | "$PROVE" logs "$@"
}

window_covers() { # window_covers TIME [together|SOURCE…]
    "$TIDEMARK" window --config "$CONFIG" --json | "$PROVE" window "$@"
}

count_bases() { "$TIDEMARK" list --config "$CONFIG" --json | "$PROVE" bases; }

time_now() { date -u +%Y-%m-%dT%H:%M:%S.%NZ; }

# restart_restored DIR: starts the restored cluster DIR as a server of its own; sets RESTORED
start_restored() {
    RESTORED="$TM_WORK/restored-server"
    mkdir -p "$RESTORED"
    mv -- "$1" "$RESTORED/data"
    if [ "$(id -u)" = 0 ]; then chown -R postgres:postgres "$RESTORED/data"; fi
    chmod 0700 "$RESTORED/data"
    # The restored postgresql.conf includes the settings of the test; start_postgres writes them anew.
    start_postgres "$BIN" "$RESTORED"
    wait_for "the restored server to end its recovery" 60 restored_is_open
}

restored_is_open() { [ "$(sql "$RESTORED" "SELECT pg_is_in_recovery()")" = f ]; }

# prove_restored TIME|latest STORAGE: journal against rows, rows against commits, every repository with fsck
prove_restored() {
    sql "$RESTORED" "SELECT json_build_object('id', id, 'repository', repository, 'sha', sha) FROM pushes ORDER BY id" >"$TM_WORK/rows.jsonl"
    "$PROVE" restored "$1" "$JOURNAL" "$TM_WORK/rows.jsonl" "$2"
}
