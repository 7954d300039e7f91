#!/usr/bin/env bash
# Writes the corpus of the "real input" checks to stdout: each line of the package index that apt knows, as
# KEY<TAB>LINE, where KEY is the name of the package whose stanza the line belongs to. The empty line that ends a
# stanza is a record with an empty value. If apt knows no packages, a made corpus of the same shape takes its place,
# and stderr says so.
#   corpus.sh [LINES|all]
set -euo pipefail
export LC_ALL=C
limit=${1:-200000}

index() { apt-cache dumpavail 2>/dev/null || true; }
# stanzas as apt's: repeated keys (three versions of each package), folded descriptions, text that is not ASCII
made() {
  awk -v lines="$([ "$limit" = all ] && echo 1500000 || echo $((limit * 2)))" 'BEGIN {
    while (n < lines) for (v = 1; v <= 3; v++) {
      p = "made-package-" int(n / 60)
      print "Package: " p; print "Version: " v "." n "-1"; print "Depends: libc6 (>= 2.3" n % 10 "), made-package-" n % 997
      print "Maintainer: R\303\251n\303\251 \345\261\261 <r@example.org>"; print "Description: package " p " of a made index\tand a tab"
      for (i = 0; i < n % 11; i++) { s = " "; for (j = 0; j < 3 + (n * 7 + i) % 13; j++) s = s " word" (n * i + j) % 4099; print s }
      print " ."; print ""; n += 8 + n % 11 } }'
}
# Java reads a line up to CR as well and replaces what is not UTF-8, so neither may be in the input
prepare() {
  tr -d '\r' | iconv -c -f UTF-8 -t UTF-8 |
    awk -v limit="$limit" '/^Package: / { key = $2 } key != "" { print key "\t" $0; if (limit != "all" && ++n >= limit + 0) exit }'
}

if [ "$(index | head -c 1 | wc -c)" = 0 ]; then
  echo "corpus: apt knows no packages; using a made corpus of the same shape" >&2
  made | prepare
else
  index | prepare || [ $? = 141 ] # awk left early, at the limit
fi
