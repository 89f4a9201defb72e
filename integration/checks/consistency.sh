#!/usr/bin/env bash
# consistency.sh BINDIR [TIMES]: a real Gitaly's recorded pushes are played while a client inserts a row for each new commit after its
# push was answered. Restores to TIMES random moments (30 with the first PostgreSQL, else 5): no restored row names a missing commit, no
# repository is older than its rows, and each partition equals the recording at the cut that the plan names.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$here/lib.sh"
. "$here/scenario.sh"
[ $# -ge 1 ] || { sed -n '2,4s/^# //p' "$0"; exit 2; }
times="${2:-}"
if [ -z "$times" ]; then if [ "$(pg_major "$1")" = 15 ]; then times=30; else times=5; fi; fi

make_work consistency
build_tidemark
RECORDED="$TM_ROOT/Tests/SourceGitalyTests/Fixtures/recorded"
LIFE="$TM_ROOT/Tests/SourceGitalyTests/Fixtures/load.tar.xz"

step "PostgreSQL, an empty storage and an agent"
BIN="$1" PG="$TM_WORK/postgres" STORAGE="$TM_WORK/storage" ARCHIVE="$TM_WORK/archive" CONFIG="$TM_WORK/tidemark.yaml"
start_postgres "$BIN" "$PG"
DSN="$(conninfo "$PG")"
PSQL="$(with_program "$BIN" psql)"
sql "$PG" "CREATE TABLE pushes(id int PRIMARY KEY, partition text, lsn bigint, repository text, ref text, oid text)"
write_config
tidemark_or_die init --config "$CONFIG"

step "The recording is played; each push is followed by a row"
cat >"$TM_WORK/client" <<'PY'
# client LIFE STORAGE PSQL DSN: plays, and inserts a row for each new commit once its entry was committed; keeps what was played.
import json, subprocess, sys
recorded, life, storage, psql, dsn = sys.argv[1:6]
player = subprocess.Popen([sys.executable, recorded, "play", life, storage, "--speed", "1", "--keep", "--apply-delay", "0.002"], stdout=subprocess.PIPE, text=True)
database = subprocess.Popen([psql, "-X", "-q", "-d", dsn, "-v", "ON_ERROR_STOP=1"], stdin=subprocess.PIPE, text=True)
rows = 0
for line in player.stdout:
    if not line.startswith("{"): continue
    entry = json.loads(line)
    print(line, end="", flush=True)
    for name, oid in entry["refs"]:
        if len(oid) != 40 or set(oid) == {"0"}: continue
        rows += 1
        quote = lambda text: "'" + text.replace("'", "''") + "'"
        database.stdin.write(f"INSERT INTO pushes VALUES ({rows}, {quote(str(entry['partition']))}, {int(entry['lsn'], 36)}, {quote(entry['repository'])}, {quote(name)}, {quote(oid)});\n")
        database.stdin.flush()
database.stdin.close()
assert database.wait() == 0, "the rows could not be inserted"
assert player.wait() == 0, "the player failed"
PY
python3 "$TM_WORK/client" "$RECORDED" "$LIFE" "$STORAGE" "$PSQL" "$DSN" >"$TM_WORK/played" 2>"$TM_WORK/client.err" &
CLIENT=$!
PIDS+=("$CLIENT")
wait_for "the storage" 30 test -s "$STORAGE/.gitaly-metadata"
start_agent
wait_for "both logs in the archive" 60 list_has_logs main default || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
tidemark_or_die backup --config "$CONFIG"
wait "$CLIENT" || { cat "$TM_WORK/client.err" >&2; die "the client failed"; }
forget_pid "$CLIENT"
END="$(time_now)"
wait_for "the window to hold the end" 90 window_covers "$END" || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
agent_alive
kill_agent TERM
if grep -E ' (error|warning) ' "$TM_WORK/agent.log" >&2; then die "the agent complained"; fi
note "$(grep -c '^{' "$TM_WORK/played") entries, $(sql "$PG" 'SELECT count(*) FROM pushes') rows"
stop_postgres "$PG"

step "Restore to $times random times and compare"
# Every plan is asked to be decided by fences: with them there is no "about".
cat >"$TM_WORK/verify" <<'PY'
# verify PLAN ROWS PLAYED STORAGE: rows against cuts and commits; prints the positions for the recording's own comparison.
import json, subprocess, sys
from collections import defaultdict
plan, rows, played, storage = json.load(open(sys.argv[1])), [json.loads(l) for l in open(sys.argv[2]) if l.strip()], sys.argv[3], sys.argv[4]
source = next(s for s in plan["sources"] if s["source"] == "default")
ends = {c["stream"]: int(c["end"], 36) for c in source["cuts"]}
entries = [json.loads(l) for l in open(played) if l.startswith("{")]
wanted = defaultdict(set)
for row in rows:
    if row["lsn"] >= ends.get(row["partition"], 0):
        sys.exit(f"row {row['id']} names entry {row['lsn']} of partition {row['partition']}, which is cut before {ends.get(row['partition'])}")
    wanted[row["repository"]].add(row["oid"])
# What a later entry up to the cut took away again is no loss: repacks drop what nothing refers to, deletions everything.
shrunk = {e["repository"] for e in entries if e["flags"] and int(e["lsn"], 36) < ends.get(e["partition"], 0)}
checked = gone = 0
for repository, oids in wanted.items():
    answer = subprocess.run(["git", "-c", "safe.directory=*", "--git-dir", f"{storage}/{repository}", "cat-file", "--batch-check"],
        input="\n".join(oids) + "\n", capture_output=True, text=True)
    missing = [l.split()[0] for l in answer.stdout.splitlines() if l.endswith("missing")] if answer.returncode == 0 else list(oids)
    checked += len(oids)
    gone += len(missing)
    if missing and repository not in shrunk: sys.exit(f"{repository} lacks {missing[0]}, which a row names")
digits = lambda n: (digits(n // 36) if n >= 36 else "") + "0123456789abcdefghijklmnopqrstuvwxyz"[n % 36]
at = {p: digits(e - 1).rjust(13, "0") for p, e in ends.items() if e > 1}
precision = source.get("precision") or {}
print(",".join(f"{p}:{l}" for p, l in sorted(at.items())))
print(f"{len(rows)} rows, {checked} commits, {gone} gone before the cut, {len(at)} partitions, decided by {precision.get('decidedBy')}, {precision.get('undecided')} undecided", file=sys.stderr)
PY
mapfile -t moments < <("$TIDEMARK" window --config "$CONFIG" --json | python3 -c '
import datetime, json, random, sys
interval = json.load(sys.stdin)["together"]["intervals"][-1]
parse = lambda t: datetime.datetime.fromisoformat(t[:19] + "+00:00").timestamp() + float("0" + t[19:-1] or 0)
first, last = parse(interval["from"]), min(parse(interval["to"]), parse(sys.argv[1]))
seed = random.randrange(1 << 32)
print(f"seed {seed}", file=sys.stderr)
random.seed(seed)
for _ in range(int(sys.argv[2])):
    t = random.uniform(first + 0.001, last - 0.001)
    print(datetime.datetime.fromtimestamp(t, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ"))' "$END" "$times")
[ "${#moments[@]}" = "$times" ] || die "there are only ${#moments[@]} times"
fenced=0
n=0
for moment in "${moments[@]}"; do
    n=$((n + 1))
    "$TIDEMARK" plan --config "$CONFIG" --to-time "$moment" --json >"$TM_WORK/plan.json" || { cat "$TM_WORK/plan.json" >&2; die "no plan for $moment"; }
    tidemark_or_die restore --config "$CONFIG" --to-time "$moment" --into "main=$TM_WORK/out/main" --into "default=$TM_WORK/out/default" --bindir "$BIN"
    start_restored "$TM_WORK/out/main"
    sql "$RESTORED" "SELECT row_to_json(p) FROM pushes p ORDER BY id" >"$TM_WORK/rows"
    stop_postgres "$RESTORED" immediate
    at="$(python3 "$TM_WORK/verify" "$TM_WORK/plan.json" "$TM_WORK/rows" "$TM_WORK/played" "$TM_WORK/out/default" 2>"$TM_WORK/verdict")" \
        || { cat "$TM_WORK/verdict" >&2; die "$moment is not consistent"; }
    python3 "$RECORDED" compare "$LIFE" "$TM_WORK/out/default" --at "$at" >"$TM_WORK/compared" 2>&1 || { tail -20 "$TM_WORK/compared" >&2; die "$moment differs from the recording"; }
    if grep -q 'decided by fences' "$TM_WORK/verdict"; then fenced=$((fenced + 1)); fi
    note "$moment: $(cat "$TM_WORK/verdict")"
    # One repository by itself is the same as in the whole.
    if [ $((n % 5)) = 1 ]; then
        repository="$(cd "$TM_WORK/out/default" && find . -name HEAD -path '*.git/HEAD' | sed 's#^\./##; s#/HEAD$##' | sort | shuf -n 1 --random-source=<(yes))"
        tidemark_or_die restore --config "$CONFIG" --to-time "$moment" --repository "$repository" --into "default=$TM_WORK/out/one"
        diff -r "$TM_WORK/out/default/$repository" "$TM_WORK/out/one/$repository" >"$TM_WORK/differences" || { head -20 "$TM_WORK/differences" >&2; die "$repository alone differs"; }
    fi
    # A stored plan, of which each node carries out its own part, gives the same repositories.
    if [ "$n" = 1 ]; then
        id="$("$TIDEMARK" plan --config "$CONFIG" --to-time "$moment" --save --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["plan"])')"
        tidemark_or_die restore --archive "file://$ARCHIVE" --plan "$id" --into "default=$TM_WORK/out/stored"
        python3 "$RECORDED" compare "$LIFE" "$TM_WORK/out/stored" --at "$at" >"$TM_WORK/compared" 2>&1 || { tail -20 "$TM_WORK/compared" >&2; die "the stored plan differs from the recording"; }
        fence="$(python3 -c 'import json, sys; s = [s for s in json.load(open(sys.argv[1]))["sources"] if s["source"] == "default"][0]; print((s["precision"] or {}).get("fenceBefore", {}).get("id", ""))' "$TM_WORK/plan.json")"
        [ -z "$fence" ] || "$TIDEMARK" plan --config "$CONFIG" --to-fence "$fence" >"$TM_WORK/fence-plan" 2>&1 || { cat "$TM_WORK/fence-plan" >&2; die "no plan to the fence $fence"; }
    fi
    rm -rf "$TM_WORK/out" "$TM_WORK/restored-server"
done
[ $((fenced * 10)) -ge $((times * 8)) ] || die "only $fenced of $times cuts were decided by fences"
note "$times restores, $fenced decided by fences on both sides"
step_summary
