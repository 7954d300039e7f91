# Share groups (KIP-932) with Kafka's own tools: console consumer, groups' tool, verifiable consumer.

share_consumer() { kafka $T.consumer.ConsoleShareConsumer --bootstrap-server "$BOOTSTRAP" "$@"; }
share_groups() { kafka $T.consumer.group.ShareGroupCommand --bootstrap-server "$BOOTSTRAP" "$@"; }
earliest() { configs --entity-type groups --entity-name "$1" --alter --add-config share.auto.offset.reset=earliest; }

share_feature() { # there are none before the feature is finalised
  local features="kafka $T.FeatureCommand --bootstrap-server $BOOTSTRAP"
  $features upgrade --feature share.version=1 >"$WORK/out"; want 'share.version was upgraded to 1' "$WORK/out"
  $features describe >"$WORK/out"; want 'share.version.*FinalizedVersionLevel: 1' "$WORK/out"
}
share_console() {
  create sa-$RUN 2; earliest sa-$RUN.g; seq 100 | console_producer --topic sa-$RUN
  share_consumer --topic sa-$RUN --group sa-$RUN.g --max-messages 100 --timeout-ms 60000 >"$WORK/out"
  same "$(sort -n "$WORK/out" | md5sum)" "$(seq 100 | md5sum)"
}
share_again() { # what was accepted does not come again
  seq 101 105 | console_producer --topic sa-$RUN
  share_consumer --topic sa-$RUN --group sa-$RUN.g --timeout-ms 15000 >"$WORK/out" || true
  same "$(grep -E '^[0-9]+$' "$WORK/out" | sort -n | tr '\n' ' ')" "101 102 103 104 105 "
}
share_reject() {
  create sb-$RUN; earliest sb-$RUN.g; seq 5 | console_producer --topic sb-$RUN
  share_consumer --topic sb-$RUN --group sb-$RUN.g --max-messages 5 --timeout-ms 60000 --reject >"$WORK/out"
  share_consumer --topic sb-$RUN --group sb-$RUN.g --timeout-ms 12000 >"$WORK/out" || true
  deny '^[1-5]$' "$WORK/out"
}
share_release() { # released records come again, each with one delivery more, until there have been five
  create sc-$RUN; earliest sc-$RUN.g; seq 3 | console_producer --topic sc-$RUN
  share_consumer --topic sc-$RUN --group sc-$RUN.g --timeout-ms 15000 --release >"$WORK/out" || true
  same "$(grep -cE '^[1-3]$' "$WORK/out")" 15
}
share_tool() {
  share_groups --list --state >"$WORK/out"; want "^sa-$RUN.g +Empty" "$WORK/out"
  share_groups --describe --group sa-$RUN.g >"$WORK/out"; want "sa-$RUN.g +sa-$RUN +[01] +[0-9]+" "$WORK/out"
  share_groups --delete-offsets --group sa-$RUN.g --topic sa-$RUN >"$WORK/out"; want "sa-$RUN +Successful" "$WORK/out"
  share_groups --delete --group sa-$RUN.g >"$WORK/out"; want 'was successful' "$WORK/out"
  share_groups --list >"$WORK/out"; deny "^sa-$RUN.g" "$WORK/out"
}

share_checks() {
  check "share groups: feature" share_feature
  check "share groups: console consumer" share_console
  check "share groups: reject" share_reject
  check "share groups: release" share_release
}
share_checks_behind() {
  check "share groups: what was accepted stays so${1:-}" share_again
  check "share groups: tool" share_tool
}
