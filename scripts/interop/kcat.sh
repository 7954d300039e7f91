# kcat (Debian's, on an older librdkafka): metadata, acks, headers, tombstones, offsets by time.

kcat_metadata() {
  create meta-$RUN 3
  kc -L -t meta-$RUN >"$WORK/out"; want 'with 3 partitions' "$WORK/out"; want 'partition 2, leader [0-9]+' "$WORK/out"
  kc -L -J >"$WORK/out"; want '"controllerid":[0-9]+' "$WORK/out"; want "\"topic\":\"meta-$RUN\"" "$WORK/out"
}
kcat_unknown_topic() { kc -L -t no-such-topic-$RUN -X allow.auto.create.topics=false >"$WORK/out"; want 'Unknown topic or partition' "$WORK/out"; }
kcat_acks() {
  create acks-$1-$RUN
  seq 1000 | kc -P -t acks-$1-$RUN -X acks=$1
  all_there() { kc -C -t acks-$1-$RUN -o beginning -e -q | cmp - <(seq 1000); }
  # acks=0 is answered by nobody, so the records may arrive after kcat has left
  if [ "$1" = 0 ]; then eventually 30 all_there "$1"; else all_there "$1"; fi
}
kcat_headers() {
  create headers-$RUN
  printf 'k\tv\n' | kc -P -t headers-$RUN -K "$TAB" -H a=1 -H a=2 -H empty= -H 'text=héllo' 
  same "$(kc -C -t headers-$RUN -o beginning -e -q -f '%k|%s|%h')" 'k|v|a=1,a=2,empty=,text=héllo'
}
kcat_tombstones() {
  create tombstones-$RUN
  printf 'gone\t\nhere\tx\n' | kc -P -t tombstones-$RUN -K "$TAB" -Z
  same "$(kc -C -t tombstones-$RUN -o beginning -e -q -f '%k=%S ')" 'gone=-1 here=1 '
}
kcat_offsets_by_time() {
  local t; create times-$RUN 2
  seq 10 | kc -P -t times-$RUN -p 1; sleep 1.1; t=$(date +%s%3N); seq 11 20 | kc -P -t times-$RUN -p 1
  kc -Q -t times-$RUN:1:$t >"$WORK/out"; want '\[1\] offset 10$' "$WORK/out"
  kc -Q -t times-$RUN:1:-1 >"$WORK/out"; want '\[1\] offset 20$' "$WORK/out"
  kc -Q -t times-$RUN:1:-2 >"$WORK/out"; want '\[1\] offset 0$' "$WORK/out"
  kc -Q -t times-$RUN:1:$((t + 3600000)) >"$WORK/out"; want '\[1\] offset (-1|20)$' "$WORK/out"
  same "$(kc -C -t times-$RUN -p 1 -o s@$t -e -q | head -1)" 11
}
kcat_ranges() {
  create ranges-$RUN; seq 100 | kc -P -t ranges-$RUN
  same "$(kc -C -t ranges-$RUN -p 0 -o 90 -e -q | wc -l)" 10
  same "$(kc -C -t ranges-$RUN -p 0 -o -5 -e -q | head -1)" 96
  same "$(kc -C -t ranges-$RUN -p 0 -o 7 -c 3 -q | tr '\n' ' ')" '8 9 10 '
}
kcat_idempotent() { create idem-$RUN 3; seq 5000 | kc -P -t idem-$RUN -X enable.idempotence=true; same "$(kc -C -t idem-$RUN -o beginning -e -q | sort -n | md5sum)" "$(seq 5000 | md5sum)"; }
kcat_big_record() {
  create big-$RUN; head -c 675000 /dev/urandom | base64 -w0 >"$WORK/big"
  kc -P -t big-$RUN "$WORK/big"; kc -C -t big-$RUN -o beginning -e -q -D '' | cmp - "$WORK/big"
}
kcat_waiting_consumer() { # a fetch that waits must be answered when a record comes
  create tail-$RUN
  kc -C -t tail-$RUN -o end -c 1 -q >"$WORK/tail" & local consumer=$!
  arrived() { echo now | kc -P -t tail-$RUN; ! kill -0 $consumer 2>/dev/null; }
  eventually 60 arrived; wait $consumer; same "$(cat "$WORK/tail")" now
}

kcat_checks() {
  check "kcat: metadata" kcat_metadata
  check "kcat: unknown topic" kcat_unknown_topic
  for a in 0 1 all; do check "kcat: acks=$a" kcat_acks $a; done
  check "kcat: headers" kcat_headers
  check "kcat: tombstones" kcat_tombstones
  check "kcat: offsets by time" kcat_offsets_by_time
  check "kcat: ranges of offsets" kcat_ranges
  check "kcat: idempotent producer" kcat_idempotent
  check "kcat: a record of 900 kB" kcat_big_record
  check "kcat: a consumer waiting at the end" kcat_waiting_consumer
}
