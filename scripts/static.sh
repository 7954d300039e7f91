#!/usr/bin/env bash
# Builds the broker as one static binary, and shows that it is one: no interpreter, no shared libraries, and it serves
# (kcat writes and reads). The last line names the file.
#   CARGO          the cargo to use
#   STATIC_TARGET  the target (this machine's with glibc); x86_64-unknown-linux-musl if that is installed
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/.." && pwd)
TARGET=${CARGO_TARGET_DIR:-$ROOT/target}
TRIPLE=${STATIC_TARGET:-$(rustc -vV | sed -n 's/^host: //p')}
# With --target the flag is for the broker only, not for what the build itself runs.
RUSTFLAGS="${RUSTFLAGS:-} -C target-feature=+crt-static" "${CARGO:-cargo}" build --release --manifest-path "$ROOT/Cargo.toml" --package corelog --target "$TRIPLE"
BINARY=$TARGET/$TRIPLE/release/corelog

fail() { echo "FAILED: $*"; exit 1; }
! readelf --program-headers "$BINARY" | grep -q INTERP || fail "$BINARY asks for an interpreter"
! readelf --dynamic "$BINARY" | grep -q NEEDED || fail "$BINARY needs shared libraries"
if command -v file >/dev/null; then file -L "$BINARY"; fi
ldd "$BINARY" 2>&1 | sed 's/^[[:space:]]*/ldd: /' || true

WORK=$(mktemp -d "${TMPDIR:-/tmp}/corelog-static.XXXXXX"); PID=
trap '[ -z "$PID" ] || kill -9 $PID 2>/dev/null || true; rm -rf "$WORK"' EXIT
# By name, because a static binary resolves names without the machine's plug-ins.
"$BINARY" --data-dir "$WORK/data" --listen localhost:0 >"$WORK/log" 2>&1 & PID=$!
for _ in $(seq 300); do grep -q "listening on" "$WORK/log" && break; kill -0 $PID || fail "$(cat "$WORK/log")"; sleep 0.1; done
ADDRESS=$(sed -n 's/.*listening on \([^,]*\),.*/\1/p' "$WORK/log")
if command -v kcat >/dev/null; then
  seq 1000 | kcat -P -b "$ADDRESS" -t static -X acks=all
  kcat -C -b "$ADDRESS" -t static -e -q -o beginning 2>/dev/null | sort -n | cmp - <(seq 1000) || fail "what was written is not what is read"
  echo "kcat wrote and read 1000 records"
else
  echo "there is no kcat: only the start was tried"
fi
kill -TERM $PID; wait $PID || fail "it does not stop cleanly"; PID=
echo "static: $BINARY ($(stat -c %s "$BINARY") bytes)"
