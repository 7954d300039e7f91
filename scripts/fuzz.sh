#!/usr/bin/env bash
# Runs each fuzz target of engine/fuzz for SECONDS (60): frames, requests of all APIs and versions, and the validation
# of record batches with their decompression. Starts from the seeds in engine/fuzz/seeds and from what earlier runs
# found under the target directory. An input that panics, hangs, or takes more memory than allowed ends it with a
# non-zero status and is kept; `scripts/fuzz.sh TARGET FILE` runs that input again.
#   CARGO           the cargo to use
#   FUZZ_SANITIZER  address (needs RUSTC_BOOTSTRAP, which is set here, and no other toolchain), or none
# Needs a C++ compiler. cargo-fuzz is built on first use; exit status 77 says that it cannot be had here.
set -euo pipefail
cd "$(dirname "$0")/../engine"
CARGO=${CARGO:-cargo}
command -v c++ >/dev/null || { echo "fuzz: skipped, there is no C++ compiler"; exit 77; }
if ! command -v cargo-fuzz >/dev/null && ! "$CARGO" install --locked --quiet --debug cargo-fuzz; then
  echo "fuzz: skipped, cargo-fuzz cannot be installed"; exit 77
fi
TRIPLE=$(rustc -vV | sed -n 's/^host: //p')
TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/fuzz/target}
mkdir -p "$TARGET_DIR"
# The sanitizer is a compiler flag that stable has and hides; what it adds is a limit on each allocation.
RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$TARGET_DIR "$CARGO" fuzz build --sanitizer "${FUZZ_SANITIZER:-address}" --target "$TRIPLE"

# A request must not take memory out of proportion; a zstd frame may ask for a window of 128 MiB.
run() {
  local target=$1 malloc_mb=64; shift
  [ "$target" != batch ] || malloc_mb=160
  ASAN_OPTIONS=detect_odr_violation=0:${ASAN_OPTIONS:-} "$TARGET_DIR/$TRIPLE/release/$target" \
    -rss_limit_mb=1024 -malloc_limit_mb="$malloc_mb" -timeout=10 -max_len=65536 -print_final_stats=1 \
    -artifact_prefix="$TARGET_DIR/fuzz-$target-" "$@"
}

case ${1:-60} in
  *[!0-9]*) run "$1" "$2"; exit ;;
esac
# Side by side: each has a core's time or less, and all are done after one's.
declare -A running
for target in frame request batch; do
  mkdir -p "$TARGET_DIR/fuzz-corpus/$target"
  run "$target" -max_total_time="${1:-60}" "$TARGET_DIR/fuzz-corpus/$target" "fuzz/seeds/$target" \
    >"$TARGET_DIR/fuzz-$target.log" 2>&1 &
  running[$target]=$!
done
failed=0
for target in frame request batch; do
  rc=0; wait "${running[$target]}" || rc=$?
  echo "--- fuzz: $target for ${1:-60} s, status $rc"
  grep -E '^==|panicked|^assertion|left:|right:|ERROR|Test unit|stat::number|^Done' "$TARGET_DIR/fuzz-$target.log" || rc=1
  [ $rc = 0 ] || failed=1
done
[ $failed = 0 ] || exit 1
echo "fuzz: passed"
