# Real input: each line of the package index, keyed by its package, through two unrelated clients and every codec, then
# read back by both. A key's lines must come back complete and in their order; after kill -9 and a restart (on other
# cores in half of the runs) every record must stand at the offset where it stood before.

CODECS="none gzip snappy lz4 zstd" PARTITIONS=12
TAB=$'\t'
KCAT_FORMAT='%p\t%o\t%S\t%k\t%s\n'

write_kcat() { kc -P -t "$1" -K "$TAB" -z "$2" <"$WORK/corpus" 2>&1; }
write_java() { console_producer --topic "$1" --compression-codec "$2" --property parse.key=true --property key.separator="$TAB" <"$WORK/corpus"; }
write() { create "$2" $PARTITIONS; "write_$1" "$2" "$3"; }

# both leave partition, offset, key, value in order of partition and offset
read_kcat() { kc -C -t "$1" -o beginning -e -q -f "$KCAT_FORMAT" | sort -s -t "$TAB" -k1,1n -k2,2n; }
read_java() {
  local p n
  offsets --topic "$1" --time -1 >"$WORK/ends"
  for p in $(seq 0 $((PARTITIONS - 1))); do
    n=$(awk -F: -v p="$p" '$2 == p { print $3 }' "$WORK/ends")
    [ "$n" -gt 0 ] || continue
    console_consumer --topic "$1" --partition "$p" --offset earliest --max-messages "$n" \
      --property print.partition=true --property print.offset=true --property print.key=true \
      --property key.separator="$TAB" --property null.literal='<null>'
  done | sed -E 's/^Partition:([0-9]+)\tOffset:([0-9]+)\t/\1\t\2\t/'
}
# kcat's third column is the length of the value, -1 for null (a corpus has none)
drop_length() { sed -E 's/^([0-9]+\t[0-9]+)\t-1\t/\1\t<null>\t/; s/^([0-9]+\t[0-9]+)\t[0-9]+\t/\1\t/'; }

# whole FILE: what was read equals the corpus, key by key in order, at offsets without gaps
whole() {
  awk -F"$TAB" '{ if ($2 != next_[$1] + 0) { print "partition " $1 ": offset " $2 " after " next_[$1] - 1; exit 1 } next_[$1] = $2 + 1 }
                { if ($3 in home && home[$3] != $1) { print "key " $3 " in two partitions"; exit 1 } home[$3] = $1 }' "$1"
  cut -f3- "$1" | sort -s -t "$TAB" -k1,1 >"$WORK/by_key"
  cmp "$WORK/by_key" "$WORK/corpus.by_key" || { diff "$WORK/by_key" "$WORK/corpus.by_key" | head -6; return 1; }
}
read_back() { # CLIENT TOPIC
  if [ "$1" = kcat ]; then read_kcat "$2" | drop_length >"$WORK/read"; else read_java "$2" >"$WORK/read"; fi
  whole "$WORK/read"
  if [ -f "$WORK/$2.first" ]; then cmp "$WORK/read" "$WORK/$2.first" || { echo "not what the first reader got"; return 1; }; else mv "$WORK/read" "$WORK/$2.first"; fi
}

real_input() {
  "$HERE/corpus.sh" "${INTEROP_LINES:-200000}" >"$WORK/corpus"
  sort -s -t "$TAB" -k1,1 "$WORK/corpus" >"$WORK/corpus.by_key"
  echo "real input: $(wc -l <"$WORK/corpus") lines, $(wc -c <"$WORK/corpus") bytes, $(cut -f1 "$WORK/corpus.by_key" | uniq | wc -l) keys; $PARTITIONS partitions"
  local writer codec reader topic
  for writer in kcat java; do for codec in $CODECS; do
    topic=real-$writer-$codec-$RUN
    check "real input: $writer writes $codec" write $writer $topic $codec
    for reader in kcat java; do check "real input: $reader reads $codec of $writer" read_back $reader $topic; done
  done; done
}
real_input_after_restart() {
  local writer codec reader
  for writer in kcat java; do for codec in $CODECS; do for reader in kcat java; do
    check "after kill -9: $reader reads $codec of $writer" read_back $reader real-$writer-$codec-$RUN
  done; done; done
}
