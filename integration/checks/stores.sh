#!/usr/bin/env bash
# stores.sh BINDIR: the whole of end-to-end.sh with the archive in S3, Google Cloud Storage and Azure, servers on loopback; unencrypted and encrypted.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$here/lib.sh"
[ $# -eq 1 ] || { sed -n '2s/^# //p' "$0"; exit 2; }

build_tidemark
for store in s3 gs azblob; do
    for encrypt in "" 1; do
        step "The archive in $store${encrypt:+, encrypted}"
        TM_STORE="$store" TM_ENCRYPT="$encrypt" "$here/checks/end-to-end.sh" "$1"
    done
done
TM_ENCRYPT=1 "$here/checks/end-to-end.sh" "$1"
step_summary
