#!/usr/bin/env bash
# recordings.sh BINDIR: what a real Gitaly wrote is played again in real time, with bases and an agent beside it; restores to the end
# and to moments in between are compared, path by path, with what that Gitaly had. PostgreSQL has no part in it.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$here/lib.sh"
. "$here/scenario.sh"
[ $# -eq 1 ] || { sed -n '2,3s/^# //p' "$0"; exit 2; }

make_work recordings
build_tidemark
FIXTURES="$TM_ROOT/Tests/SourceGitalyTests/Fixtures"

moments() { # moments CLEARANCE PLAYED BASE…: times from the first base on, each with its positions, CLEARANCE seconds off any commit
    python3 - "$@" <<'PY'
import datetime, json, random, sys
clearance = float(sys.argv[1]) * 1e9
played = [json.loads(line) for line in open(sys.argv[2]) if line.startswith("{")]
def nanoseconds(text):
    whole, _, rest = text.rstrip("Z").partition(".")
    return int(datetime.datetime.fromisoformat(whole + "+00:00").timestamp()) * 10**9 + int((rest + "0" * 9)[:9])
first, last = min(map(nanoseconds, sys.argv[3:])), max(e["ctime_ns"] for e in played)
assert first < last, "no base was complete before the last entry"
for _ in range(3):
    time = random.randint(first, last)
    while any(abs(e["ctime_ns"] - time) < clearance for e in played): time = random.randint(first, last)
    at, over = {}, set()
    for e in played:
        if e["ctime_ns"] > time: over.add(e["partition"])
        if e["partition"] not in over: at[e["partition"]] = e["lsn"]
    stamp = datetime.datetime.fromtimestamp(time // 10**9, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    print(f"{stamp}.{time % 10**9:09d}Z", ",".join(f"{p}:{l}" for p, l in at.items()))
PY
}

play() { # play LIFE wal|spool PRUNE
    local life="$1" log="$2" dir="$TM_WORK/$1-$2-$3" player bases time at clearance n=0
    local played=(python3 "$FIXTURES/recorded" play "$FIXTURES/$life.tar.xz" "$dir/storage" --speed 1 --apply-delay 0.005)
    CONFIG="$dir/tidemark.yaml"
    mkdir -p "$dir/spool"
    {
        printf 'archive: file://%s/archive\nstate: %s/state\nsources:\n  - gitaly: default\n    storage: %s/storage\n    log: %s\n    prune: %s\n' \
            "$dir" "$dir" "$dir" "$log" "$3"
        if [ "$log" = spool ]; then printf '    spool: %s/spool\n' "$dir"; fi
    } >"$CONFIG"
    if [ "$log" = spool ]; then played+=(--spool "$dir/spool"); else played+=(--keep); fi
    tidemark_or_die init --config "$CONFIG"
    "${played[@]}" >"$dir/played" 2>"$dir/player.err" &
    player=$!
    PIDS+=("$player")
    wait_for "the storage" 30 test -s "$dir/storage/.gitaly-metadata"
    start_agent
    sleep 3
    tidemark_or_die backup --config "$CONFIG"
    tidemark_or_die backup --config "$CONFIG"
    wait "$player" || { cat "$dir/player.err" >&2; die "the player failed"; }
    forget_pid "$player"
    wait_for "the end in the window" 60 window_covers "$(time_now)" default
    agent_alive
    kill_agent TERM
    if grep -E ' (error|warning) ' "$TM_WORK/agent.log" >&2; then die "the agent complained"; fi
    mapfile -t bases < <("$TIDEMARK" list --config "$CONFIG" --json | python3 -c 'import json, sys; [print(b["completed"]) for b in json.load(sys.stdin)["bases"]]')
    # A tar is published some milliseconds after its commit, and has no other time of this run.
    if [ "$log" = spool ]; then clearance=0.1; else clearance=0; fi
    moments "$clearance" "$dir/played" "${bases[@]}" >"$dir/moments"
    tidemark_or_die restore --config "$CONFIG" --latest --into "default=$dir/latest"
    python3 "$FIXTURES/recorded" compare "$FIXTURES/$life.tar.xz" "$dir/latest" || die "the end differs"
    while read -r time at; do
        n=$((n + 1))
        tidemark_or_die restore --config "$CONFIG" --to-time "$time" --into "default=$dir/restored-$n"
        python3 "$FIXTURES/recorded" compare "$FIXTURES/$life.tar.xz" "$dir/restored-$n" --at "$at" || die "$time differs"
    done <"$dir/moments"
    note "$life, log: $log, prune: $3: $(grep -c '^{' "$dir/played") entries, ${#bases[@]} bases, the end and $n moments are exact"
}

step "tour, the log pruned by us"
play tour wal true
step "reftable, the log kept"
play reftable wal false
step "tour, the native archiver's spool"
play tour spool true
step_summary
