# Kafka's own tools: topics, configs, offsets, cluster, API versions, console and perf producers, dump-log.

topics_create() {
  create t1-$RUN 3 --config retention.ms=123456
  topics --describe --topic t1-$RUN >"$WORK/out"
  want 'PartitionCount: 3' "$WORK/out"; want 'retention.ms=123456' "$WORK/out"; want 'TopicId: [A-Za-z0-9_-]{22}' "$WORK/out"
  want 'Partition: 2.*Leader: [0-9]+.*Replicas: [0-9]+.*Isr: [0-9]+' "$WORK/out"
}
topics_list() { create t2-$RUN; topics --list >"$WORK/out"; want "^t2-$RUN\$" "$WORK/out"; topics --list --exclude-internal >"$WORK/out"; want "^t2-$RUN\$" "$WORK/out"; deny '^__' "$WORK/out"; }
topics_refused() {
  create t3-$RUN
  ! create t3-$RUN >"$WORK/out" 2>&1; want 'already exists' "$WORK/out"
  topics --create --if-not-exists --topic t3-$RUN --partitions 1
  ! create 'bad name' >"$WORK/out" 2>&1; want 'InvalidTopic|illegal|invalid' "$WORK/out"
  ! topics --create --topic t4-$RUN --partitions 1 --replication-factor 9 >"$WORK/out" 2>&1; want 'InvalidReplicationFactor|[Rr]eplication factor' "$WORK/out"
  ! create t4-$RUN 1 --config retention.ms=abc >"$WORK/out" 2>&1; want 'InvalidConfiguration|Invalid value' "$WORK/out"
  ! create t4-$RUN 1 --config segment.bytes=10 >"$WORK/out" 2>&1; want 'InvalidConfiguration|Value must be at least' "$WORK/out"
  topics --list >"$WORK/out"; deny "^t4-$RUN\$" "$WORK/out"
}
topics_alter() {
  create t5-$RUN 2; topics --alter --topic t5-$RUN --partitions 5
  topics --describe --topic t5-$RUN >"$WORK/out"; want 'PartitionCount: 5' "$WORK/out"
  ! topics --alter --topic t5-$RUN --partitions 3 >"$WORK/out" 2>&1
  seq 500 | kc -P -t t5-$RUN -p 4; same "$(kc -C -t t5-$RUN -p 4 -o beginning -e -q | wc -l)" 500
}
topics_delete() {
  create t6-$RUN 2; seq 10 | kc -P -t t6-$RUN; topics --delete --topic t6-$RUN
  gone() { topics --list >"$WORK/out"; deny "^t6-$RUN\$" "$WORK/out"; }; eventually 30 gone
  ! topics --delete --topic t6-$RUN >"$WORK/out" 2>&1
  # a topic of the same name is another topic, and it is empty
  again() { create t6-$RUN 1; }; eventually 30 again
  offsets --topic t6-$RUN --time -1 >"$WORK/out"; want "^t6-$RUN:0:0\$" "$WORK/out"
}
configs_topic() {
  create t7-$RUN; local e="--entity-type topics --entity-name t7-$RUN"
  configs $e --alter --add-config max.message.bytes=2000000,segment.bytes=1048576
  configs $e --describe >"$WORK/out"; want 'max.message.bytes=2000000' "$WORK/out"; want 'segment.bytes=1048576' "$WORK/out"
  configs $e --alter --delete-config segment.bytes
  configs $e --describe >"$WORK/out"; deny 'segment.bytes=1048576' "$WORK/out"; want 'max.message.bytes=2000000' "$WORK/out"
  configs $e --describe --all >"$WORK/out"; want 'compression.type=producer' "$WORK/out"; want 'segment.bytes=1073741824' "$WORK/out"
  ! configs $e --alter --add-config no.such.config=1 >"$WORK/out" 2>&1
}
configs_max_message_bytes() { # a config must change what the broker does, not only what it says
  create t8-$RUN 1 --config max.message.bytes=1000
  head -c 5000 /dev/zero | tr '\0' a >"$WORK/big"
  ! kc -P -t t8-$RUN "$WORK/big" >"$WORK/out" 2>&1; want 'too large|size' "$WORK/out"
  configs --entity-type topics --entity-name t8-$RUN --alter --add-config max.message.bytes=10000
  kc -P -t t8-$RUN "$WORK/big"; same "$(kc -C -t t8-$RUN -o beginning -e -q -f '%S')" 5000
}
get_offsets() {
  create t9-$RUN 2; seq 10 | kc -P -t t9-$RUN -p 0; seq 3 | kc -P -t t9-$RUN -p 1
  offsets --topic t9-$RUN --time -1 >"$WORK/out"; want ':0:10$' "$WORK/out"; want ':1:3$' "$WORK/out"
  offsets --topic t9-$RUN --time -2 >"$WORK/out"; want ':0:0$' "$WORK/out"; want ':1:0$' "$WORK/out"
  offsets --topic t9-$RUN --time -3 >"$WORK/out"; want ':0:[0-9]$' "$WORK/out"
  offsets --topic-partitions t9-$RUN:1 >"$WORK/out"; same "$(cat "$WORK/out")" "t9-$RUN:1:3"
}
cluster_id() { kafka $T.ClusterTool cluster-id --bootstrap-server "$BOOTSTRAP" >"$WORK/out"; want 'Cluster ID: [A-Za-z0-9_-]{22}' "$WORK/out"; }
api_versions() {
  kafka $T.BrokerApiVersionsCommand --bootstrap-server "$BOOTSTRAP" >"$WORK/out"
  for a in 'Produce\(0\)' 'Fetch\(1\)' 'ListOffsets\(2\)' 'Metadata\(3\)' 'ApiVersions\(18\)' 'CreateTopics\(19\)' 'InitProducerId\(22\)'; do want "$a: [0-9]+ to [0-9]+ \[usable: [0-9]+\]" "$WORK/out"; done
}
console_idempotent() { # idempotence is the console producer's default; the perf producer's too
  create ta-$RUN 3; seq 20000 | console_producer --topic ta-$RUN
  same "$(kc -C -t ta-$RUN -o beginning -e -q | sort -n | md5sum)" "$(seq 20000 | md5sum)"
}
console_headers() {
  create tb-$RUN; printf 'h1:a,h2:b\tkey\tvalue\n' | console_producer --topic tb-$RUN --property parse.headers=true --property parse.key=true
  console_consumer --topic tb-$RUN --partition 0 --offset earliest --max-messages 1 --property print.headers=true --property print.key=true --property print.timestamp=true >"$WORK/out"
  want '^CreateTime:[0-9]{13}.h1:a,h2:b.key.value$' "$WORK/out"
}
console_tombstone() {
  create tc-$RUN 1 --config cleanup.policy=compact
  printf 'k\tNONE\n' | console_producer --topic tc-$RUN --property parse.key=true --property null.marker=NONE
  same "$(kc -C -t tc-$RUN -o beginning -e -q -f '%k=%S')" k=-1
}
log_append_time() {
  create td-$RUN 1 --config message.timestamp.type=LogAppendTime; seq 3 | kc -P -t td-$RUN
  console_consumer --topic td-$RUN --partition 0 --offset earliest --max-messages 3 --property print.timestamp=true >"$WORK/out"
  same "$(grep -cE '^LogAppendTime:[0-9]{13}' "$WORK/out")" 3
}
topic_codec() { # the broker recompresses
  create te-$RUN 1 --config compression.type=zstd; seq 1000 | kc -P -t te-$RUN -z gzip
  same "$(kc -C -t te-$RUN -o beginning -e -q | md5sum)" "$(seq 1000 | md5sum)"
}
producer_perf() {
  create tf-$RUN 4
  kafka $T.ProducerPerformance --topic tf-$RUN --num-records 20000 --record-size 200 --throughput -1 --producer-props bootstrap.servers="$BOOTSTRAP" acks=$1 compression.type=$2 >"$WORK/out"
  want '^20000 records sent' "$WORK/out"
  offsets --topic tf-$RUN --time -1 >"$WORK/out"; same "$(awk -F: '{ s += $3 } END { print s }' "$WORK/out")" 20000
  topics --delete --topic tf-$RUN; gone() { topics --list >"$WORK/out"; deny "^tf-$RUN\$" "$WORK/out"; }; eventually 30 gone
}
dump_log() {
  [ -n "${DATA_DIR:-}" ] || skip "needs the data directory (INTEROP_DATA_DIR)"
  create tg-$RUN 1 --config segment.bytes=1048576
  head -c 6000000 /dev/urandom | base64 -w 1000 >"$WORK/big"; kc -P -t tg-$RUN -l "$WORK/big"
  # a segment may be filled behind the acknowledgement: wait for the second one to be there
  sealed() { ls "$DATA_DIR/tg-$RUN-0/"*.log >"$WORK/segments" 2>/dev/null && [ "$(wc -l <"$WORK/segments")" -ge 3 ]; }
  eventually 60 sealed || { echo "no sealed segment:"; ls -l "$DATA_DIR/tg-$RUN-0/"; return 1; }
  local first second; first=$(sed -n 1p "$WORK/segments"); second=$(basename "$(sed -n 2p "$WORK/segments")" .log)
  same "$(basename "$first")" 00000000000000000000.log
  kafka kafka.tools.DumpLogSegments --files "$first" --print-data-log >"$WORK/out"
  deny 'isvalid: false' "$WORK/out"; deny 'corrupt|Mismatch|non-consecutive|bytes remaining|truncat|Exception|invalid' "$WORK/out"
  want 'Log starting offset: 0' "$WORK/out"
  same "$(grep -oE 'lastOffset: [0-9]+' "$WORK/out" | tail -1)" "lastOffset: $((10#$second - 1))"
  grep -oE 'payload: .*' "$WORK/out" | cut -c10- | cmp - <(head -n $((10#$second)) "$WORK/big")
}

tools_checks() {
  check "cluster: cluster-id" cluster_id
  check "broker-api-versions" api_versions
  check "topics: create, describe" topics_create
  check "topics: list" topics_list
  check "topics: what is refused" topics_refused
  check "topics: add partitions" topics_alter
  check "topics: delete, create again" topics_delete
  check "configs: topic" configs_topic
  check "configs: max.message.bytes is obeyed" configs_max_message_bytes
  check "get-offsets" get_offsets
  check "console producer: idempotent" console_idempotent
  check "console producer: headers" console_headers
  check "console producer: tombstone" console_tombstone
  check "message.timestamp.type=LogAppendTime" log_append_time
  check "compression.type=zstd" topic_codec
  check "producer-perf-test: acks=all" producer_perf all none
  check "producer-perf-test: acks=1, lz4" producer_perf 1 lz4
  check "dump-log of a sealed segment" dump_log
}
