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

# What the configuration says of the archive: a directory, or ARCHIVE_URL; encrypted for RECIPIENTS where there are any.
archive_config() {
    local recipient
    [ -n "${ARCHIVE_URL:-}" ] || mkdir -p "$ARCHIVE"
    echo "archive: ${ARCHIVE_URL:-file://$ARCHIVE}"
    [ -n "${RECIPIENTS:-}" ] || return 0
    echo "encrypt:"
    echo "  recipients:"
    for recipient in $RECIPIENTS; do echo "    - $recipient"; done
}

write_config() {
    cat >"$CONFIG" <<YAML
$(archive_config)
state: $TM_WORK/state
tail: 1s
sources:
  - postgres: main
    conninfo: "$DSN"
    slot: tidemark
  - gitaly: default
    storage: $STORAGE
    log: wal
    fence: main
YAML
}

write_config_postgres_only() {
    cat >"$CONFIG" <<YAML
$(archive_config)
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

watermark_covers() { # watermark_covers SOURCE TIME: whether a base can serve it or not
    "$TIDEMARK" window --config "$CONFIG" --json | "$PROVE" watermark "$@"
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

# await_recovery DATA LOG: how the recovery of a server that was started ends. Sets OUTCOME: open, ended, or (after 60 s) endless
await_recovery() {
    local tenths
    for (( tenths = 600; tenths > 0; tenths-- )); do
        # In this order: a server that has ended may have been open before.
        if ! as_postgres test -e "$1/postmaster.pid"; then OUTCOME=ended; else OUTCOME=endless; fi
        if grep -q 'database system is ready to accept connections' "$2"; then OUTCOME=open; fi
        [ "$OUTCOME" = endless ] || return 0
        sleep 0.1
    done
}

# prove_restored TIME|latest STORAGE: journal against rows, rows against commits, every repository with fsck
prove_restored() {
    sql "$RESTORED" "SELECT json_build_object('id', id, 'repository', repository, 'sha', sha) FROM pushes ORDER BY id" >"$TM_WORK/rows.jsonl"
    "$PROVE" restored "$1" "$JOURNAL" "$TM_WORK/rows.jsonl" "$2"
}

tidemark_or_die() { # prints the output only where it failed
    "$TIDEMARK" "$@" >"$TM_WORK/tidemark.out" 2>&1 || {
        local status=$?
        cat "$TM_WORK/tidemark.out" >&2
        die "tidemark $1: exit code $status"
    }
}

# ------------------------------------------------------------------------------------------- refusals

digest() { # digest DIRECTORY: everything in it, names and contents
    if [ -e "$1" ]; then (cd "$1" && find . -type f -print0 | sort -z | xargs -0r sha256sum) | sha256sum; else echo absent; fi
}

# refused STATUS PATTERN COMMAND…: the command ends with STATUS, says PATTERN, and neither $ARCHIVE, $DAMAGED nor $TARGET changes.
# What it said stays in $TM_WORK/refused.out.
refused() {
    local status="$1" pattern="$2" got=0 before after
    shift 2
    before="$(digest "$ARCHIVE") $(digest "$DAMAGED") $(digest "$TARGET")"
    "$@" >"$TM_WORK/refused.out" 2>&1 || got=$?
    after="$(digest "$ARCHIVE") $(digest "$DAMAGED") $(digest "$TARGET")"
    [ "$got" = "$status" ] || { cat "$TM_WORK/refused.out" >&2; die "exit code $got, not $status: $*"; }
    grep -Eq -- "$pattern" "$TM_WORK/refused.out" || { cat "$TM_WORK/refused.out" >&2; die "no word of '$pattern': $*"; }
    [ "$before" = "$after" ] || die "something changed: $*"
    note "$status  $(grep -m1 '^error:\|FAILED' "$TM_WORK/refused.out" | sed 's/^ *//' | cut -c1-150)"
}

flip() { # flip FILE: one bit in its middle
    python3 -c 'import sys; f = open(sys.argv[1], "r+b"); b = bytearray(f.read()); b[len(b) // 2] ^= 4; f.seek(0); f.write(b)' "$1"
}

# --------------------------------------------------------------------------------------- kinds of stores

# use_store KIND: makes KIND the place of the archive: file, s3, gs or azblob, a server on loopback; sets ARCHIVE_URL and the credentials.
use_store() {
    case "$1" in
        file) ARCHIVE_URL="" ;;
        s3) start_moto tidemark-test; ARCHIVE_URL="s3://tidemark-test/world?endpoint=$S3_ENDPOINT" ;;
        gs) start_fake_gcs tidemark-test; ARCHIVE_URL="gs://tidemark-test/world?endpoint=$GCS_ENDPOINT" ;;
        azblob) start_azure_fake tidemark-test; ARCHIVE_URL="azblob://tidemark-test/world?account=devstoreaccount1&endpoint=$AZURE_ENDPOINT" ;;
        *) die "no kind of store: $1" ;;
    esac
    note "archive: ${ARCHIVE_URL:-a directory}"
}

# use_encryption: two people may open the archive; IDENTITY is the second's file.
use_encryption() {
    local n
    RECIPIENTS=""
    for n in first second; do
        age-keygen -o "$TM_WORK/$n.key" 2>/dev/null
        RECIPIENTS="$RECIPIENTS $(age-keygen -y "$TM_WORK/$n.key")"
    done
    IDENTITY="$TM_WORK/second.key"
    note "encrypted for$RECIPIENTS"
}

# ---------------------------------------------------------------------------------------- the whole of it

# scenario_run BINDIR SECONDS: the whole of it; SECONDS is how long the load runs before and after the base
scenario_run() {
    local seconds="$2" deleted forced before
    step "Start PostgreSQL and the stand-in storage"
    use_store "${TM_STORE:-file}"
    [ -z "${TM_ENCRYPT:-}" ] || use_encryption
    make_world "$1" 8
    step "Load: each row names a commit that was pushed just before"
    start_load 3 0.02
    sleep "$seconds"

    step "tidemark init, check, agent"
    tidemark_or_die init --config "$CONFIG"
    tidemark_or_die check --config "$CONFIG"
    start_agent
    wait_for "both logs in the archive" 60 list_has_logs main default || { tail -20 "$TM_WORK/agent.log" >&2; return 1; }

    step "tidemark backup, while the load runs"
    tidemark_or_die backup --config "$CONFIG"
    [ "$(count_bases)" -ge 2 ] || die "no base of each source in tidemark list"

    step "More load, then the moment T, then three more seconds"
    sleep "$seconds"
    T="$(time_now)"
    before="$(wc -l <"$JOURNAL")"
    note "T = $T, $before rows so far"
    sleep 3

    step "Harm: drop a table, delete a repository, force-push another"
    deleted="$("$STANDIN" list "$STORAGE" | sed -n 1p)"
    forced="$("$STANDIN" list "$STORAGE" | tail -1)"
    sql "$PG" "DROP TABLE precious"
    "$STANDIN" delete-repository "$STORAGE" "$deleted" --keep
    "$STANDIN" force-push "$STORAGE" "$forced" --keep >/dev/null
    [ ! -e "$STORAGE/$deleted" ] || die "the repository is still there"
    note "table precious, $deleted and the history of $forced are gone"
    stop_load
    agent_alive

    step "Wait until the archive covers T"
    wait_for "the window of both sources together to hold $T" 90 window_covers "$T" || {
        "$TIDEMARK" window --config "$CONFIG" >&2 || true
        tail -20 "$TM_WORK/agent.log" >&2
        return 1
    }
    "$TIDEMARK" window --config "$CONFIG" | sed 's/^/  /'

    step "tidemark restore --to-time T"
    # The host that restores has the identity; the agent's has not.
    TIDEMARK_IDENTITY="${IDENTITY:-}" tidemark_or_die restore --config "$CONFIG" --to-time "$T" --into "main=$TM_WORK/restored-main" \
        --into "default=$TM_WORK/restored-default" --recover promote --bindir "$BIN"

    step "Start the restored PostgreSQL"
    start_restored "$TM_WORK/restored-main"

    step "Prove it"
    [ "$(sql "$RESTORED" "SELECT count(*) FROM precious")" = 1000 ] || die "table precious is not whole"
    note "table precious has its 1000 rows"
    [ -e "$TM_WORK/restored-default/$deleted/HEAD" ] || die "the deleted repository is not there"
    note "$deleted is there"
    prove_restored "$T" "$TM_WORK/restored-default"
    kill_agent TERM
}
