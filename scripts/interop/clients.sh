# Groups of both protocols, transactions and what admin consoles ask, through five clients: Kafka's own (Java),
# librdkafka, franz-go, kafkajs and kafka-python. One program each under clients/; what they check is the same.

CONFLUENT_KAFKA=confluent-kafka==2.16.1 KAFKA_PYTHON=kafka-python==3.0.12 KAFKAJS=kafkajs@2.2.4
CLIENTS=$HERE/clients

# client NAME COMMAND...: runs a program that prints "pass CHECK" or "FAIL CHECK: WHY" for each check and "end" last,
# and counts its lines. It gets the broker's address and a name that no other run has.
client() {
  local name=$1 out=$WORK/client.out line verdict; shift
  echo "=== $name: $*" >>"$WORK/log"
  timeout "${CLIENT_LIMIT:-600}" "$@" "$BOOTSTRAP" "$RUN" 2>>"$WORK/log" >"$out" </dev/null
  tee -a "$WORK/log" <"$out" | sed -nE "s/^(pass|FAIL) /\1  $name: /p"
  PASSED=$((PASSED + $(grep -c '^pass ' "$out"))) FAILED=$((FAILED + $(grep -c '^FAIL ' "$out")))
  [ "$(tail -n 1 "$out")" = end ] || unable "$name" "the program did not come to its end; $(tail -n 1 "$WORK/log" | cut -c1-300)"
}
unable() { FAILED=$((FAILED + 1)); echo "FAIL  $1: $2"; }

python_client() { # REQUIREMENT: an environment of its own, made once
  local venv=$CACHE/python-${1//[^a-z0-9.-]/-}
  if ! [ -f "$venv/.complete" ]; then
    rm -rf "$venv"
    python3 -m venv "$venv" 2>>"$WORK/log" || { apt_update; as_root apt-get install -y -qq python3-venv >>"$WORK/log" 2>&1; python3 -m venv "$venv"; } || return 1
    "$venv/bin/pip" install -q --disable-pip-version-check "$1" lz4 >>"$WORK/log" 2>&1 && touch "$venv/.complete" || return 1
  fi
  PYTHON=$venv/bin/python
}
node_client() {
  need node nodejs && need npm npm || return 1
  local dir=$CACHE/node-${KAFKAJS//[^a-z0-9.-]/-}
  [ -d "$dir/node_modules/kafkajs" ] || { mkdir -p "$dir" && npm install --prefix "$dir" --silent --no-audit --no-fund "$KAFKAJS" >>"$WORK/log" 2>&1; } || return 1
  export NODE_PATH=$dir/node_modules
}
go_client() {
  need go golang-go || return 1
  FRANZ=$CACHE/franz-$(cat "$CLIENTS/franz/"* | sha256sum | cut -c1-16)
  [ -x "$FRANZ" ] || (cd "$CLIENTS/franz" && go build -o "$FRANZ" .) >>"$WORK/log" 2>&1
}

clients_checks() {
  client java java "${JAVA_OPTIONS[@]}" -cp "$LIBS:$LIBS/*" Clients
  if python_client "$CONFLUENT_KAFKA"; then client librdkafka "$PYTHON" "$CLIENTS/librdkafka.py"; else unable librdkafka "cannot be installed"; fi
  if python_client "$KAFKA_PYTHON"; then client kafka-python "$PYTHON" "$CLIENTS/kafka_python.py"; else unable kafka-python "cannot be installed"; fi
  if node_client; then client kafkajs node "$CLIENTS/kafkajs.js"; else unable kafkajs "cannot be installed"; fi
  if go_client; then client franz-go "$FRANZ"; else unable franz-go "cannot be built"; fi
}
