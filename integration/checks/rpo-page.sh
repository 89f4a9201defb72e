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

browse() { # browse FILE: its DOM on standard output; what its console and the proxy heard, in $TM_WORK/complaints
    : >"$TM_WORK/requests"
    # What a browser asks its maker for by itself goes to browser.invalid instead; any other request is the page's doing.
    timeout 120 chromium --headless=new --no-sandbox --disable-gpu --user-data-dir="$TM_WORK/chromium" --proxy-server="127.0.0.1:$(cat "$TM_WORK/port")" \
        --proxy-bypass-list='<-loopback>' --disable-background-networking --disable-sync --disable-default-apps --disable-extensions --no-first-run \
        --disable-domain-reliability --no-pings --metrics-recording-only --disable-client-side-phishing-detection \
        --disable-features=OptimizationHints,MediaRouter,Translate,NetworkTimeServiceQuerying,CertificateTransparencyComponentUpdater,AutofillServerCommunication \
        --component-updater=url-source=https://browser.invalid/ --gaia-url=https://browser.invalid --google-apis-url=https://browser.invalid \
        --google-base-url=https://browser.invalid --enable-logging=stderr --v=0 --dump-dom "file://$1" 2>"$TM_WORK/console"
    { grep CONSOLE "$TM_WORK/console" || true; sed '/^[A-Z]* \(https:\/\/\)\{0,1\}browser\.invalid[:\/]/d; s/^/asked: /' "$TM_WORK/requests"; } >"$TM_WORK/complaints"
}

step "Pages that err or ask are noticed"
noticed() { # noticed PATTERN BODY
    printf '<!doctype html><title>bad</title>%s\n' "$2" >"$TM_WORK/bad.html"
    browse "$TM_WORK/bad.html" >/dev/null
    grep -q -- "$1" "$TM_WORK/complaints" || { cat "$TM_WORK/complaints" >&2; die "this was not noticed: $2"; }
}
noticed 'CONSOLE.*a mistake' '<script>console.error("a mistake")</script>'
noticed 'CONSOLE.*nothing is not defined' '<script>nothing.at.all</script>'
noticed '^asked: .*elsewhere\.example' '<link rel="stylesheet" href="http://elsewhere.example/x.css">'
noticed '^asked: .*www\.google\.com' '<img src="https://www.google.com/x.png" alt="">'

step "The report"
browse "$TM_WORK/rpo.html" >"$TM_WORK/dom"
[ ! -s "$TM_WORK/complaints" ] || { cat "$TM_WORK/complaints" >&2; die "the page errs or asks for something"; }
[ "$(grep -c '<svg ' "$TM_WORK/dom")" -eq 2 ] || die "the page does not have two charts"
for text in 'Worst moments' 'no agent was archiving' 'the store was slow or failed' 'The same in figures' 'within the objective'; do
    grep -q "$text" "$TM_WORK/dom" || die "the page does not say: $text"
done
note "no error, no request, $(stat -c %s "$TM_WORK/rpo.html") bytes"
