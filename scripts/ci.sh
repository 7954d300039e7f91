#!/usr/bin/env bash
# Everything that must hold before a merge, on a clean checkout: the README's test command, lints, format, a release
# build without planted bugs, flushes and full disks on a loop device (as root), fuzzing, and the interop checks with
# real clients, whose tally is the last line.
# All steps run, also after one has failed; the status is non-zero if any did.
#   CI_FUZZ_SECONDS  for each fuzz target (60)
#   CI_DENY=0        skip the check of licences and advisories
#   CARGO            the cargo to use
set -uo pipefail
cd "$(dirname "$0")/.."
cargo=${CARGO:-cargo} failed=()
step() {
  local name=$1 began=$SECONDS; shift
  echo "=== $name: $*"
  if "$@"; then echo "=== $name: passed in $((SECONDS - began)) s"; else echo "=== $name: FAILED after $((SECONDS - began)) s"; failed+=("$name"); fi
}
# A step that runs beside the next ones, until `ended` waits for it and shows what it said.
declare -A pid=() said=()
beside() { local name=$1; shift; said[$name]=$(mktemp); "$@" >"${said[$name]}" 2>&1 & pid[$name]=$!; }
ended() { [ -z "${pid[$1]:-}" ] || step "$1" result "$1"; }
result() { wait "${pid[$1]}"; local rc=$?; cat "${said[$1]}"; rm -f "${said[$1]}"; return $rc; }
# cargo-deny is built on first use, within a bound and without optimisation, which takes longer than it saves; CI need
# not fail because a registry is slow.
deny() {
  command -v cargo-deny >/dev/null || timeout 600 "$cargo" install --locked --quiet --debug cargo-deny || return 77
  "$cargo" deny check --hide-inclusion-graph bans licenses sources || return 1
  "$cargo" deny fetch db || { echo "=== deny: advisories skipped, their database is out of reach"; return 0; }
  "$cargo" deny --offline check --hide-inclusion-graph advisories
}
optional() { "$@"; local rc=$?; [ $rc != 77 ] || { echo "=== $1: skipped, see above"; return 0; }; return $rc; }

step test "$cargo" test --workspace
step clippy "$cargo" clippy --workspace --all-targets -- -D warnings
step format "$cargo" fmt --all --check
step build "$cargo" build --release --package corelog
step planted scripts/planted-absent.sh "${CARGO_TARGET_DIR:-target}/release/corelog"
step bad-disk optional scripts/bad-disk.sh
# Builds that leave a core free now and then, each beside what can use it: first flush-count's, beside fuzz'.
beside flush-count optional scripts/flush-count.sh
step fuzz optional scripts/fuzz.sh "${CI_FUZZ_SECONDS:-60}"
ended flush-count
if [ -f deny.toml ] && [ "${CI_DENY:-1}" = 1 ]; then
  beside deny optional deny
else
  echo "=== deny: skipped, $([ -f deny.toml ] && echo "CI_DENY=${CI_DENY:-}" || echo "there is no deny.toml")"
fi
[[ " ${failed[*]} " == *" build "* ]] || step kill-streams timeout 900 env RECORDS=40000 KILLS=3 scripts/kill-streams.sh
ended deny
[[ " ${failed[*]} " == *" build "* ]] || step interop timeout 1500 scripts/interop/run.sh
for name in "${failed[@]}"; do echo "ci: FAILED: $name"; done
[ ${#failed[@]} = 0 ]
