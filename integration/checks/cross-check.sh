#!/usr/bin/env bash
# cross-check.sh BINDIR: after a restore every commit that rows name is looked up; a lost one gives status 4 and is named; one that
# was pushed after the cut is brought by rolling its partition forward; repositories without a row are moved aside.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$here/lib.sh"
. "$here/scenario.sh"
[ $# -eq 1 ] || { sed -n '2s/^# //p' "$0"; exit 2; }

# judge FILE EXPRESSION: the expression, over the first cross-check c of a restore's JSON, is true
judge() {
    python3 - "$1" "$2" <<'PY'
import json, sys
result = json.load(open(sys.argv[1]))
c = result["crossChecks"][0]
if not eval(sys.argv[2]):
    print(json.dumps(c, indent=1), file=sys.stderr)
    sys.exit(f"not so: {sys.argv[2]}")
PY
}

# restore_to TIME NAME STATUS [option…]: both sources into NAME-main and NAME-default; JSON into NAME.json
restore_to() {
    local time="$1" name="$2" expected="$3" status=0
    shift 3
    "$TIDEMARK" restore --config "$CONFIG" --to-time "$time" --into "main=$TM_WORK/$name-main" --into "default=$TM_WORK/$name-default" \
        --bindir "$BIN" --json "$@" >"$TM_WORK/$name.json" 2>"$TM_WORK/$name.err" || status=$?
    [ "$status" -eq "$expected" ] || { cat "$TM_WORK/$name.json" "$TM_WORK/$name.err" >&2; die "status $status instead of $expected"; }
    no_server_in "$name"
}

no_server_in() { if as_root test -e "$TM_WORK/$1-main/postmaster.pid"; then die "a server was left behind in $1-main"; fi; }


make_work cross-check
build_tidemark
step "A world with tables like GitLab's, filled from the load's own rows by a trigger"
make_world "$1" 8
cat >>"$CONFIG" <<'YAML'
checks:
  - name: pushes
    source: main
    query: SELECT 'default' AS storage, repository AS path, sha AS object, at FROM pushes
YAML
sql "$PG" "
CREATE TABLE shards(id int PRIMARY KEY, name varchar);
CREATE TABLE projects(id bigint PRIMARY KEY, repository_storage varchar NOT NULL DEFAULT 'default', path text);
CREATE TABLE project_repositories(project_id bigint, shard_id int, disk_path varchar);
CREATE TABLE p_ci_pipelines(id bigserial, project_id bigint, sha varchar, before_sha varchar, source_sha bytea, created_at timestamp) PARTITION BY RANGE (project_id);
CREATE TABLE ci_pipelines PARTITION OF p_ci_pipelines DEFAULT;
CREATE TABLE merge_requests(id bigserial PRIMARY KEY, target_project_id bigint, squash_commit_sha bytea, created_at timestamp, updated_at timestamp);
CREATE TABLE pushes(id bigserial PRIMARY KEY, repository text NOT NULL, sha text NOT NULL, at timestamptz NOT NULL);
INSERT INTO shards VALUES (1, 'default');
CREATE FUNCTION name_commit() RETURNS trigger LANGUAGE plpgsql AS \$\$
DECLARE project bigint;
BEGIN
    SELECT id INTO project FROM projects WHERE path = NEW.repository;
    INSERT INTO p_ci_pipelines(project_id, sha, before_sha, source_sha, created_at)
        VALUES (project, NEW.sha, repeat('0', 40), decode(NEW.sha, 'hex'), NEW.at AT TIME ZONE 'UTC');
    INSERT INTO merge_requests(target_project_id, squash_commit_sha, created_at, updated_at)
        VALUES (project, decode(NEW.sha, 'hex'), NEW.at AT TIME ZONE 'UTC', NEW.at AT TIME ZONE 'UTC');
    RETURN NEW;
END \$\$;
CREATE TRIGGER name_commit AFTER INSERT ON pushes FOR EACH ROW EXECUTE FUNCTION name_commit()"
# The stand-in numbers its projects from 1, and hashes the number as GitLab does.
for n in 1 2 3 4 5 6 7 8; do
    digest="$(printf %s "$n" | sha256sum | cut -c1-64)"
    sql "$PG" "INSERT INTO projects(id, path) VALUES ($n, '@hashed/${digest:0:2}/${digest:2:2}/$digest.git')"
done
sql "$PG" "INSERT INTO project_repositories SELECT id, 1, left(path, -4) FROM projects WHERE id % 2 = 0"
[ "$("$STANDIN" list "$STORAGE" | sort | tr '\n' ' ')" = "$(sql "$PG" "SELECT path FROM projects ORDER BY path COLLATE \"C\"" | tr '\n' ' ')" ] \
    || die "the hashed paths are not the stand-in's"

step "Load, agent, base, more load"
start_load 3 0.02
tidemark_or_die init --config "$CONFIG"
start_agent
wait_for "both logs in the archive" 60 list_has_logs main default || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
tidemark_or_die backup --config "$CONFIG"
sleep 3
stop_load
T1="$(time_now)"
repository="$("$STANDIN" list "$STORAGE" | sed -n 2p)"

step "A row that names a commit which is pushed after T2: the database is ahead of its repositories"
# The commit is made in a copy, so that its id is known; the row is written, T2 passes, and then the same commit is pushed.
sleep 0.5
later="$(python3 - "$STANDIN" "$STORAGE" "$repository" "$TM_WORK/later" <<'PY'
import importlib.machinery, importlib.util, pickle, sys
loader = importlib.machinery.SourceFileLoader("standin", sys.argv[1])
module = importlib.util.module_from_spec(importlib.util.spec_from_loader("standin", loader))
loader.exec_module(module)
s = module.Storage(sys.argv[2], keep=True)
objects, sha = module.make_commits(2, s.ref(sys.argv[3], "refs/heads/main"), b"later\n")
pickle.dump((objects, sha), open(sys.argv[4], "wb"))
print(sha)
PY
)"
sql "$PG" "INSERT INTO pushes(repository, sha, at) VALUES ('$repository', '$later', now())"
sleep 0.5
T2="$(time_now)"
sleep 0.5
python3 - "$STANDIN" "$STORAGE" "$repository" "$TM_WORK/later" <<'PY'
import importlib.machinery, importlib.util, os, pickle, sys
loader = importlib.machinery.SourceFileLoader("standin", sys.argv[1])
module = importlib.util.module_from_spec(importlib.util.spec_from_loader("standin", loader))
loader.exec_module(module)
os.umask(0o077)
s = module.Storage(sys.argv[2], keep=True)
rp = sys.argv[3]
objects, sha = pickle.load(open(sys.argv[4], "rb"))
with s.writer(s.load()["partition_of"][rp]) as w:
    h, pack, idx, rev = module.make_pack(objects)
    ops = [("R", rp + "/refs/heads/main"), ("L", "1", rp + "/refs/heads/main")] + module.pack_ops(rp, h, 2)
    w.commit(rp, [sha.encode() + b"\n", pack, idx, rev], ops, [("refs/heads/main", sha)])
s.done()
PY

step "A row that names a commit which never was, and one from long ago"
never="$(printf never | sha1sum | cut -c1-40)"
old="$(printf old | sha1sum | cut -c1-40)"
sql "$PG" "INSERT INTO pushes(repository, sha, at) VALUES ('$repository', '$old', now() - interval '1 year')"
sleep 0.5
T3="$(time_now)"
sleep 0.5
sql "$PG" "INSERT INTO pushes(repository, sha, at) VALUES ('$repository', '$never', now())"
sql "$PG" "DELETE FROM projects WHERE id = 8"
sleep 0.5
T4="$(time_now)"
sleep 1
sql "$PG" "CREATE TABLE last(n int)"
wait_for "the window of both sources together to hold $T4" 90 window_covers "$T4" || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }

step "T1: nothing is missing"
restore_to "$T1" first 0
judge "$TM_WORK/first.json" "c['missing']['total'] == 0 and c['goneBefore']['total'] == 0 and c['rolledForward'] == [] and c['orphans']['total'] == 0"
judge "$TM_WORK/first.json" "c['counts']['objects'] > 100 and c['counts']['repositories'] == 8 and c['failedQueries'] == [] and c['refused']['total'] == 0"
note "$(python3 -c "import json,sys; c = json.load(open(sys.argv[1]))['crossChecks'][0]; print(c['counts'], round(c['seconds'], 2), 's')" "$TM_WORK/first.json")"

step "T2: one partition is rolled forward to the commit that a row names"
restore_to "$T2" second 0
judge "$TM_WORK/second.json" "c['missing']['total'] == 0 and len(c['rolledForward']) == 1 and c['rolledForward'][0]['end'] == 'found'"
judge "$TM_WORK/second.json" "[r['repository'] for r in c['rolledForward'][0]['records']] == ['$repository'] and c['rolledForward'][0]['found'] == 1"
git -c safe.directory='*' --git-dir "$TM_WORK/second-default/$repository" cat-file -e "$later" || die "the commit is not there"
git -c safe.directory='*' --git-dir "$TM_WORK/second-default/$repository" fsck --strict --no-dangling >/dev/null || die "git fsck"
note "$later came with record $(python3 -c "import json,sys; print(json.load(open(sys.argv[1]))['crossChecks'][0]['rolledForward'][0]['to'])" "$TM_WORK/second.json")"

step "T3: what an old row names, and what nothing in the archive ever named, was gone before"
restore_to "$T3" third 0
judge "$TM_WORK/third.json" "c['missing']['total'] == 0 and {m['object'] for m in c['goneBefore']['first']} == {'$old'}"

step "T4: a commit that is lost gives status 4, and a repository without a row is moved aside"
orphan="@hashed/2c/62/2c624232cdd221771294dfbb310aca000a0df6ac8b66b696d90ef06fdefb64a3.git"
restore_to "$T4" fourth 4 --quarantine
judge "$TM_WORK/fourth.json" "{m['object'] for m in c['missing']['first']} == {'$never'} and c['missing']['total'] == 4"
judge "$TM_WORK/fourth.json" "[(o['path'], o.get('movedTo')) for o in c['orphans']['first']] == [('$orphan', '$TM_WORK/fourth-default.quarantine/$orphan')]"
[ -e "$TM_WORK/fourth-default.quarantine/$orphan/HEAD" ] && ! [ -e "$TM_WORK/fourth-default/$orphan" ] || die "it was not moved"

step "The same without the cross-check, and as text"
restore_to "$T4" fifth 0 --cross-check off
python3 -c "import json,sys; assert json.load(open(sys.argv[1]))['crossChecks'] == []" "$TM_WORK/fifth.json"
status=0
"$TIDEMARK" restore --config "$CONFIG" --to-time "$T4" --into "main=$TM_WORK/sixth-main" --into "default=$TM_WORK/sixth-default" --bindir "$BIN" \
    >"$TM_WORK/sixth.out" 2>"$TM_WORK/sixth.err" || status=$?
[ "$status" -eq 4 ] || { cat "$TM_WORK/sixth.out" "$TM_WORK/sixth.err" >&2; die "status $status"; }
grep -q "SOMETHING IS MISSING" "$TM_WORK/sixth.out" && grep -q "$never" "$TM_WORK/sixth.out" || { cat "$TM_WORK/sixth.out" >&2; die "the text does not say it"; }
sed -n '/^cross-check/,$p' "$TM_WORK/sixth.out" | head -30 | sed 's/^/  /'
no_server_in sixth

step "Interrupted, then killed, in the middle of a query: no server stays"
sed 's/^    query: .*/    query: "SELECT repository AS storage, repository AS path, pg_sleep(300)::text AS object FROM pushes LIMIT 1"/' "$CONFIG" >"$TM_WORK/slow.yaml"
# The server's first process, while one of its children answers the check.
asks() {
    local child
    server="$(head -1 "$TM_WORK/$1-main/postmaster.pid")"
    for child in $(cat "/proc/$server/task/$server/children"); do
        if tr '\0' ' ' <"/proc/$child/cmdline" | grep -q FETCH; then return 0; fi
    done
    return 1
}
gone() { ! [ -e "/proc/$server" ]; }
for signal in TERM KILL; do
    name="ended$signal"
    "$TIDEMARK" restore --config "$TM_WORK/slow.yaml" --to-time "$T1" --into "main=$TM_WORK/$name-main" --into "default=$TM_WORK/$name-default" \
        --bindir "$BIN" >"$TM_WORK/$name.out" 2>&1 &
    pid=$!
    PIDS+=("$pid")
    wait_for "the slow query" 120 asks "$name" || { cat "$TM_WORK/$name.out" >&2; exit 1; }
    sockets="$(sed -n 5p "$TM_WORK/$name-main/postmaster.pid")"
    kill "-$signal" "$pid"
    wait "$pid" 2>/dev/null || true
    forget_pid "$pid"
    wait_for "the server of the check to end" 60 gone
    state="$(as_postgres env LC_ALL=C "$BIN/pg_controldata" -D "$TM_WORK/$name-main" | sed -n 's/^Database cluster state: *//p')"
    [ "$state" = "shut down" ] || die "after SIG$signal the database's state is '$state'"
    # Nobody can tidy up after SIGKILL.
    if [ "$signal" = KILL ]; then as_root rm -rf -- "$sockets"; fi
    ! [ -e "$sockets" ] || die "$sockets was left behind"
    note "after SIG$signal: shut down, nothing runs"
done

step "The restored database is what it would be without having been asked"
start_restored "$TM_WORK/first-main"
[ "$(sql "$RESTORED" "SELECT count(*) FROM projects")" = 8 ] || die "table projects is not whole"
sql "$RESTORED" "INSERT INTO shards VALUES (2, 'other')"
prove_restored "$T1" "$TM_WORK/first-default"
kill_agent TERM
step_summary
