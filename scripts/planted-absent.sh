#!/usr/bin/env bash
# planted-absent.sh BINARY: the broker's binary holds none of the bugs that are put in for tests, nor the switches of
# tests: their names, which such builds contain, are not in it.
set -euo pipefail
cd "$(dirname "$0")/.."
names() { sed -n 's/^    \([A-Z][A-Za-z]*\),$/\1/p' engine/src/planted.rs; echo CORELOG_PLANTED; echo CORELOG_FAULT; }
[ "$(names | wc -l)" -gt 10 ] || { echo "planted-absent: engine/src/planted.rs is not as expected"; exit 1; }
[ -s "$1" ] || { echo "planted-absent: there is no $1"; exit 1; }
if found=$(grep -aoF -f <(names) "$1" | sort -u); then echo "planted-absent: FAILED, $1 holds:"; echo "$found"; exit 1; fi
echo "planted-absent: none of $(names | wc -l) names in $1"
