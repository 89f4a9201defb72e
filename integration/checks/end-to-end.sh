#!/usr/bin/env bash
# end-to-end.sh BINDIR: the quickstart's scenario, short. Both sources restored to one moment before the harm.
# TM_STORE=s3|gs|azblob: with the archive in such a server on loopback. TM_ENCRYPT=1: encrypted.

here="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
. "$here/lib.sh"
. "$here/scenario.sh"
[ $# -eq 1 ] || { sed -n '2,3s/^# //p' "$0"; exit 2; }

make_work end-to-end
build_tidemark
scenario_run "$1" 2
step_summary
