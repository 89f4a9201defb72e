#!/usr/bin/env bash
# encrypted.sh BINDIR: an encrypted archive. Its host holds public keys only; without an identity nothing secret is to be had; with one all is.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$here/lib.sh"
. "$here/scenario.sh"
[ $# -eq 1 ] || { sed -n '2s/^# //p' "$0"; exit 2; }
command -v age >/dev/null && command -v age-keygen >/dev/null || die "age is missing: apt-get install age"
unset TIDEMARK_IDENTITY

make_work encrypted
build_tidemark
# Where the user of PostgreSQL reaches it too; a clone may lie in somebody's home.
cp "$TIDEMARK" "$TM_WORK/tidemark"
TIDEMARK="$TM_WORK/tidemark"
TARGET="$TM_WORK/target"
DAMAGED="$TM_WORK/plain-archive"

encrypt_for() { # encrypt_for NAME…: the configuration, with the public keys of these
    local name list=""
    for name in "$@"; do list="${list:+$list, }$(age-keygen -y "$TM_WORK/key-$name")"; done
    write_config
    echo "encrypt: { recipients: [$list] }" >>"$CONFIG"
}

step "Keys, an archive for two of them, and the load"
for name in one two three stranger; do age-keygen -o "$TM_WORK/key-$name" 2>/dev/null; done
make_world "$1" 6
encrypt_for one two
tidemark_or_die init --config "$CONFIG"
grep -q '"format" : 2' "$ARCHIVE/tidemark.json" || die "the archive is not of format 2"
tidemark_or_die check --config "$CONFIG"
start_load 3 0.02
start_agent
wait_for "both logs in the archive" 60 list_has_logs main default || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
tidemark_or_die backup --config "$CONFIG"
wait_for "both bases" 30 test "$(count_bases)" -ge 2

step "The agent is killed, and goes on without any identity"
for n in 1 2 3; do sql "$PG" "CREATE TABLE part_$n(n int); INSERT INTO part_$n VALUES (1); SELECT pg_switch_wal()" >/dev/null; done
kill_agent KILL
for n in 4 5; do sql "$PG" "CREATE TABLE part_$n(n int); DROP TABLE part_1, part_$n; CREATE TABLE part_1(n int); SELECT pg_switch_wal()" >/dev/null; done
rm -rf "$TM_WORK/state"
start_agent
sleep 2
T="$(time_now)"
sleep 2
deleted="$("$STANDIN" list "$STORAGE" | sed -n 1p)"
"$STANDIN" list "$STORAGE" >"$TM_WORK/repositories"
sql "$PG" "DROP TABLE precious"
"$STANDIN" delete-repository "$STORAGE" "$deleted" --keep
stop_load
agent_alive
wait_for "the window of both sources together to hold $T" 90 window_covers "$T" || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
if grep -q 'could not be read back' "$TM_WORK/agent.log"; then cat "$TM_WORK/agent.log" >&2; die "the agent could not read back the last segment"; fi
kill_agent TERM

step "What works without an identity"
for command in list window "plan --to-time $T" "plan --to-time $T --save" verify "verify --contents"; do
    # shellcheck disable=SC2086
    tidemark_or_die $command --archive "file://$ARCHIVE"
    note "$command"
done
grep -q 'nothing was decrypted' "$TM_WORK/tidemark.out" || die "verify does not say that it decrypted nothing"

step "What does not, without one or with a wrong one"
into=(--into "main=$TARGET/main" --into "default=$TARGET/default" --bindir "$BIN")
refused 3 'needs an identity' "$TIDEMARK" log --archive "file://$ARCHIVE"
refused 3 'needs an identity' "$TIDEMARK" restore --archive "file://$ARCHIVE" --to-time "$T" "${into[@]}"
refused 3 'needs an identity' "$TIDEMARK" verify --reindex --archive "file://$ARCHIVE"
refused 128 'needs an identity' "$TIDEMARK" wal-fetch --archive "file://$ARCHIVE" --source main 000000010000000000000001 "$TM_WORK/fetched"
stranger=(--identity "$TM_WORK/key-stranger")
refused 3 'one identity that was given does not open' "$TIDEMARK" log --archive "file://$ARCHIVE" "${stranger[@]}"
refused 3 'one identity that was given does not open' "$TIDEMARK" restore --archive "file://$ARCHIVE" --to-time "$T" "${into[@]}" "${stranger[@]}"
refused 3 'None of the 2 identities' "$TIDEMARK" restore --archive "file://$ARCHIVE" --to-time "$T" "${into[@]}" "${stranger[@]}" --identity "$TM_WORK/key-three"
refused 3 'does not open' "$TIDEMARK" verify --contents --archive "file://$ARCHIVE" "${stranger[@]}"
refused 2 'not an age identity' "$TIDEMARK" log --archive "file://$ARCHIVE" --identity "$CONFIG"
grep -q "$(sed -n 's/^AGE/AGE/p' "$TM_WORK/key-stranger")" "$TM_WORK/refused.out" && die "a secret key was printed"
[ ! -e "$TARGET" ] || die "a refused restore left something"

step "A configuration and an archive that do not agree"
sed '/^encrypt:/d' "$CONFIG" >"$TM_WORK/without.yaml"
for command in agent backup; do
    refused 3 'names nobody to encrypt for' "$TIDEMARK" "$command" --config "$TM_WORK/without.yaml"
    grep -q "$(age-keygen -y "$TM_WORK/key-one")" "$TM_WORK/refused.out" || die "the recipients of the archive are not named"
done
refused 1 'names nobody to encrypt for' "$TIDEMARK" check --config "$TM_WORK/without.yaml"
tidemark_or_die init --archive "file://$DAMAGED"
sed "s#^archive: .*#archive: file://$DAMAGED#" "$CONFIG" >"$TM_WORK/plain.yaml"
for command in agent backup; do refused 3 'is not encrypted' "$TIDEMARK" "$command" --config "$TM_WORK/plain.yaml"; done
refused 2 'secret key was given' "$TIDEMARK" init --archive "file://$TM_WORK/new" --recipient "$(grep '^AGE' "$TM_WORK/key-one")"
[ ! -e "$TM_WORK/new" ] || die "an archive was made all the same"

step "Every encrypted object opens with Debian's age, by either key, and is what its name says"
objects=0
while read -r file; do
    key="$TM_WORK/key-$([ $((objects % 2)) = 0 ] && echo one || echo two)"
    age -d -i "$key" "$file" >"$TM_WORK/opened" || die "age does not open $file"
    case "$file" in
        *.tar.zst.age) case "$file" in */part-*) zstd -tq "$TM_WORK/opened" ;; *) zstd -dcq "$TM_WORK/opened" | tar -t >/dev/null ;; esac ;;
        *.zst.age) zstd -tq <"$TM_WORK/opened" ;;
    esac
    objects=$((objects + 1))
done < <(find "$ARCHIVE" -name '*.age')
for source in main default; do
    base="$(ls -d "$ARCHIVE/bases/$source"/*/*/ | tail -1)"
    for part in "$base"part-*; do age -d -i "$TM_WORK/key-two" "$part"; done | zstd -dcq | tar -t >"$TM_WORK/listed" || die "the base of $source is no tar"
    [ "$(wc -l <"$TM_WORK/listed")" -gt 10 ] || die "the base of $source is empty"
done
grep -q "$deleted" "$TM_WORK/listed" || die "the base lacks $deleted"
note "$objects objects"
[ -z "$(find "$ARCHIVE/log" -type f ! -name '*.age' ! -name '*.age.idx')" ] || die "something of the log is not encrypted"

step "No repository, reference or commit is named anywhere in the archive"
mkdir "$TM_WORK/readable"
find "$ARCHIVE" -type f ! -name '*.age' -print0 | while IFS= read -r -d '' file; do
    name="$(echo "$file" | tr / _)"
    case "$file" in *.zst) zstd -dcq "$file" >"$TM_WORK/readable/$name" ;; *) cp "$file" "$TM_WORK/readable/$name" ;; esac
done
{ cat "$TM_WORK/repositories"; sed 's#.*/##; s/\.git$//' "$TM_WORK/repositories"; echo refs/; echo @hashed; echo 1663/; head -200 "$JOURNAL" | sed -n 's/.*"sha": "\([0-9a-f]*\)".*/\1/p'; } >"$TM_WORK/secrets"
[ "$(wc -l <"$TM_WORK/secrets")" -gt 50 ] || die "there are no secrets to look for"
if grep -rlaFf "$TM_WORK/secrets" "$TM_WORK/readable" "$ARCHIVE"; then die "a secret is readable"; fi
[ -z "$(find "$ARCHIVE" | grep -Ff <(grep -v / "$TM_WORK/secrets"))" ] || die "a secret is in a name"
note "$(wc -l <"$TM_WORK/secrets") names looked for in $(find "$TM_WORK/readable" -type f | wc -l) readable objects and all of the others"
# The same search finds them where they are.
for pack in "$ARCHIVE"/log/default/*/*/*/*.tar.zst.age; do age -d -i "$TM_WORK/key-one" "$pack" | zstd -dcq; done >"$TM_WORK/packs"
grep -qaFf "$TM_WORK/secrets" "$TM_WORK/packs" || die "the search finds nothing in what is encrypted either"

step "tidemark log, and indexes that say what the log says"
tidemark_or_die log --archive "file://$ARCHIVE" --identity "$TM_WORK/key-two" --since "$T" --drops
grep -q "DELETE: repository $deleted" "$TM_WORK/tidemark.out" || die "log does not name the deleted repository"
grep -q 'DROP: transaction' "$TM_WORK/tidemark.out" || die "log does not name the dropped table"
tidemark_or_die verify --reindex --config "$CONFIG" --identity "$TM_WORK/key-one"
grep -q 'nothing is missing or damaged' "$TM_WORK/tidemark.out" || die "the indexes differ from the log"
chmod 0644 "$TM_WORK/key-one"
tidemark_or_die verify --contents --config "$CONFIG" --identity "$TM_WORK/key-one"
grep -q 'can be read by others' "$TM_WORK/tidemark.out" || die "no warning of a file that all can read"
chmod 0600 "$TM_WORK/key-one"

step "Restore with the second identity alone"
TIDEMARK_IDENTITY="$TM_WORK/key-two" tidemark_or_die restore --archive "file://$ARCHIVE" --to-time "$T" "${into[@]}"
start_restored "$TARGET/main"
[ "$(sql "$RESTORED" "SELECT count(*) FROM precious")" = 1000 ] || die "table precious is not whole"
[ -e "$TARGET/default/$deleted/HEAD" ] || die "the deleted repository is not there"
prove_restored "$T" "$TARGET/default"
stop_postgres "$RESTORED" immediate
rm -rf "$TM_WORK/restored-server"

step "A single repository, from the chunks that hold it"
tidemark_or_die restore --archive "file://$ARCHIVE" --identity "$TM_WORK/key-one" --to-time "$T" --repository "$deleted" --into "default=$TM_WORK/alone"
[ "$(find "$TM_WORK/alone" -name HEAD -path '*.git/HEAD' | wc -l)" = 1 ] || die "more or less than one repository was restored"
diff <(cd "$TM_WORK/alone/$deleted" && find . -type f -exec sha256sum {} + | sort) <(cd "$TARGET/default/$deleted" && find . -type f -exec sha256sum {} + | sort) \
    || die "the repository alone is another one"

step "A server that recovers by itself, with Tidemark's wal-fetch"
prepared="$TM_WORK/prepared"
mkdir "$prepared"
cp "$TM_WORK/key-two" "$TM_WORK/key-of-postgres"
if [ "$(id -u)" = 0 ]; then chown postgres "$TM_WORK/key-of-postgres"; fi
chmod -R a+rX "$ARCHIVE"
tidemark_or_die restore --archive "file://$ARCHIVE" --to-time "$T" --into "main=$prepared/data" --recover none --identity "$TM_WORK/key-of-postgres"
start_postgres "$BIN" "$prepared" "hot_standby = off" "fsync = off"
await_recovery "$prepared/data" "$prepared/log"
[ "$OUTCOME" = open ] || { tail -20 "$prepared/log" >&2; die "the recovery ended as: $OUTCOME"; }
[ "$(sql "$prepared" "SELECT count(*) FROM precious")" = 1000 ] || die "table precious is not whole"
stop_postgres "$prepared" immediate

step "Another key: new objects are for it, old ones are not"
encrypt_for three
start_agent
# The rows of the repository that was deleted go too, here and in what is expected.
sql "$PG" "DELETE FROM pushes WHERE repository = '$deleted'"
grep -vF "$deleted" "$JOURNAL" >"$JOURNAL.kept"
mv "$JOURNAL.kept" "$JOURNAL"
start_load 2 0.05
sleep 2
sql "$PG" "SELECT pg_switch_wal()" >/dev/null
stop_load
sleep 1
T2="$(time_now)"
sql "$PG" "CREATE TABLE after_the_load(n int)"
wait_for "the window of both sources together to hold $T2" 90 window_covers "$T2" || { tail -20 "$TM_WORK/agent.log" >&2; exit 1; }
kill_agent TERM
rm -rf "$TARGET"
for key in two three; do
    refused 3 'does not open' "$TIDEMARK" restore --archive "file://$ARCHIVE" --to-time "$T2" "${into[@]}" --identity "$TM_WORK/key-$key"
    [ -z "$(ls -A "$TARGET" 2>/dev/null)" ] || die "a refused restore left something"
done
tidemark_or_die restore --archive "file://$ARCHIVE" --to-time "$T2" "${into[@]}" --identity "$TM_WORK/key-two" --identity "$TM_WORK/key-three"
start_restored "$TARGET/main"
prove_restored "$T2" "$TARGET/default"

step "A flipped bit is noticed without an identity"
rm -rf "$DAMAGED"
cp -a "$ARCHIVE" "$DAMAGED"
flip "$(find "$DAMAGED/log/default" -name '*.tar.zst.age' | sort | head -1)"
flip "$(find "$DAMAGED/bases/main" -name 'part-*' | sort | head -1)"
refused 4 'content-damaged' "$TIDEMARK" verify --contents --archive "file://$DAMAGED"
grep -q 'base-damaged' "$TM_WORK/refused.out" || die "the damaged part was not noticed"
step_summary
