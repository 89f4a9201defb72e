#!/usr/bin/env bash
# rpo-page.sh [BINDIR]: the page of `tidemark rpo --html` in a browser: no error, no request to anywhere, and it shows what it should.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$here/lib.sh"

make_work rpo-page
build_tidemark
install_packages chromium
step "A made-up week, and its page"
build_generator
end=2026-11-25T09:00:00Z
"$GENERATOR" --lag "$TM_WORK/archive" "$end"
"$TIDEMARK" rpo --archive "file://$TM_WORK/archive" --until "$end" --since 2026-11-18T09:00:00Z --html "$TM_WORK/rpo.html"

step "A proxy that nobody may ask for anything"
cat >"$TM_WORK/proxy.py" <<'PY'
import socket, sys
s = socket.socket()
s.bind(("127.0.0.1", 0))
s.listen()
print(s.getsockname()[1], file=open(sys.argv[1] + ".tmp", "w"), flush=True)
import os
os.rename(sys.argv[1] + ".tmp", sys.argv[1])
while True:
    c, _ = s.accept()
    with open(sys.argv[2], "ab") as f:
        f.write(c.recv(65536).split(b"\r\n")[0] + b"\n")
    c.close()
PY
touch "$TM_WORK/requests"
python3 "$TM_WORK/proxy.py" "$TM_WORK/port" "$TM_WORK/requests" &
PIDS+=($!)
wait_for "the proxy" 30 test -s "$TM_WORK/port"

browse() { # browse FILE: its DOM on standard output, the console in $TM_WORK/console
    # What a browser asks its maker for by itself is not the page's doing.
    timeout 120 chromium --headless=new --no-sandbox --disable-gpu --user-data-dir="$TM_WORK/chromium" --proxy-server="127.0.0.1:$(cat "$TM_WORK/port")" \
        --proxy-bypass-list='<-loopback>' --disable-background-networking --disable-component-update --disable-sync --disable-default-apps --no-first-run \
        --disable-features=OptimizationHints,MediaRouter,CertificateTransparencyComponentUpdater --enable-logging=stderr --v=0 --dump-dom "file://$1" 2>"$TM_WORK/console"
}
asked() { grep -v -E ' (https?://)?(clients2\.google\.com|accounts\.google\.com|update\.googleapis\.com|android\.clients\.google\.com|www\.google\.com|optimizationguide-pa\.googleapis\.com|content-autofill\.googleapis\.com)[:/]' "$TM_WORK/requests" || true; }

step "A page that does ask is noticed"
cat >"$TM_WORK/bad.html" <<'HTML'
<!doctype html><title>bad</title><link rel="stylesheet" href="http://elsewhere.example/x.css"><script>console.error("a mistake"); nothing.at.all</script>
HTML
browse "$TM_WORK/bad.html" >/dev/null
asked | grep -q elsewhere.example || die "the proxy did not see a request that there was"
grep -q 'CONSOLE.*a mistake' "$TM_WORK/console" || die "the console did not tell an error that there was"
: >"$TM_WORK/requests"

step "The report"
browse "$TM_WORK/rpo.html" >"$TM_WORK/dom"
if grep CONSOLE "$TM_WORK/console"; then die "the browser complains of the page"; fi
if [ -n "$(asked)" ]; then asked >&2; die "the page asks for something"; fi
[ "$(grep -c '<svg ' "$TM_WORK/dom")" -eq 2 ] || die "the page does not have two charts"
for text in 'Worst moments' 'no agent was archiving' 'the store was slow or failed' 'The same in figures' 'within the objective'; do
    grep -q "$text" "$TM_WORK/dom" || die "the page does not say: $text"
done
note "no error, no request, $(stat -c %s "$TM_WORK/rpo.html") bytes"
