# Shared by the interop checks; sourced by run.sh, which sets WORK, CACHE, BOOTSTRAP and the limits.

# --- judging -------------------------------------------------------------------------------------------------------
PASSED=0 FAILED=0 SKIPPED=0

# check NAME COMMAND...: one check, in a subshell of its own under `set -e`. Status 0 passes, 77 skips, else it fails
# and the end of what it printed is shown. It may leave files in $WORK and use $WORK/out for its own output.
check() {
  local name=$1 log=$WORK/check.log rc; shift
  if [ -n "${INTEROP_ONLY:-}" ] && ! [[ $name =~ $INTEROP_ONLY ]]; then return 0; fi
  : >"$log"
  ( set -e; "$@" ) >>"$log" 2>&1; rc=$?
  case $rc in
    0) PASSED=$((PASSED + 1)); echo "pass  $name" ;;
    77) SKIPPED=$((SKIPPED + 1)); echo "skip  $name: $(tail -1 "$log")" ;;
    *) FAILED=$((FAILED + 1)); echo "FAIL  $name (status $rc)"; grep -vx 'null\|Tools.Left\|' "$log" | tail -n 15 | cut -c1-400 | sed 's/^/      | /' ;;
  esac
  { echo "=== $name: $rc"; cat "$log"; } >>"$WORK/log"
}
tally() { echo "$PASSED passed, $FAILED failed, $SKIPPED skipped"; }
skip() { echo "$*"; exit 77; }

want() { grep -qE -- "$1" "$2" || { echo "wanted /$1/ in:"; head -c 4000 "$2"; return 1; }; }
deny() { ! grep -qE -- "$1" "$2" || { echo "did not want /$1/ in:"; head -c 4000 "$2"; return 1; }; }
same() { [ "$1" = "$2" ] || { echo "got '$1', wanted '$2'"; return 1; }; }
# eventually SECONDS COMMAND...: for what a broker may do a little later; the bound only stops a broken run
eventually() { local end=$((SECONDS + $1)); shift; until "$@"; do [ $SECONDS -lt $end ] || return 1; sleep 0.1; done; }

# --- what is installed ---------------------------------------------------------------------------------------------
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
apt_updated=
apt_update() { [ -n "$apt_updated" ] || { as_root apt-get update -qq && apt_updated=1; }; }
# need COMMAND PACKAGE: install the Debian package unless the command is there
need() {
  command -v "$1" >/dev/null && return 0
  echo "installing $2"
  apt_update && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >>"$WORK/log" 2>&1
}
# jars: Kafka's tools through Maven, and the Java programs compiled against them; kept in $CACHE as long as neither changes
jars() {
  local here stamp; here=$(dirname "${BASH_SOURCE[0]}")
  stamp=$(cat "$here/pom.xml" "$here/Tools.java" "$here/clients/Clients.java" | sha256sum | cut -c1-16)
  LIBS=$CACHE/jars-$stamp
  [ -f "$LIBS/.complete" ] && return 0
  rm -rf "$LIBS"; mkdir -p "$LIBS"
  echo "fetching Kafka's tools through Maven"
  mvn -q -B -f "$here/pom.xml" dependency:copy-dependencies -DoutputDirectory="$LIBS" >>"$WORK/log" 2>&1 || return 1
  javac -d "$LIBS" -cp "$LIBS/*" "$here/Tools.java" "$here/clients/Clients.java" && touch "$LIBS/.complete"
}

# --- Kafka's tools -------------------------------------------------------------------------------------------------
JAVA_OPTIONS=(-XX:+UseSerialGC -Xmx512m -Dorg.slf4j.simpleLogger.defaultLogLevel=warn)
T=org.apache.kafka.tools

# One JVM serves all tools over a pair of pipes (see Tools.java); INTEROP_JVM=each starts one for every call, as a
# user's shell would. Not for use on both sides of a pipe.
tools_start() {
  [ "${INTEROP_JVM:-shared}" = shared ] || return 0
  if ! [ -p "$WORK/requests" ]; then mkfifo "$WORK/requests" "$WORK/answers"; exec 7<>"$WORK/requests" 8<>"$WORK/answers"; fi
  java "${JAVA_OPTIONS[@]}" -cp "$LIBS:$LIBS/*" Tools $$ <"$WORK/requests" >"$WORK/answers" 2>>"$WORK/tools.log" &
  echo $! >"$WORK/tools.pid"; disown # so that bash does not report its end after the tally
}
tools_stop() { [ ! -s "$WORK/tools.pid" ] || kill -9 "$(cat "$WORK/tools.pid")" 2>/dev/null || true; }
# kafka CLASS ARGUMENT...: with the caller's stdin, stdout and stderr
kafka() {
  local rc fd=/proc/$BASHPID/fd
  if [ "${INTEROP_JVM:-shared}" = each ]; then timeout "${TOOL_LIMIT:-300}" java "${JAVA_OPTIONS[@]}" -cp "$LIBS/*" "$@"; return; fi
  # in a subshell, for this shell's own stdout must not be redirected, however briefly, when the JVM opens it
  (IFS=$'\x1f'; printf '%s\n' "$fd/0"$'\x1f'"$fd/1"$'\x1f'"$fd/2"$'\x1f'"$*" >&7)
  if ! read -r -t "${TOOL_LIMIT:-300}" -u 8 rc; then echo "$1 did not end; its JVM is replaced"; tools_stop; tools_start; return 124; fi
  [ "$rc" = 0 ] || { echo "$1 left with $rc"; return "${rc%% *}"; }
}
topics() { kafka $T.TopicCommand --bootstrap-server "$BOOTSTRAP" "$@"; }
# create TOPIC [PARTITIONS] [ARGUMENT...], and wait until a leader answers for each partition. Apache Kafka answers a
# little earlier than that, and if the first batch of an idempotent Java producer is then refused but its second is
# not, the producer cannot deliver the first for as long as it tries (its sequence is out of order).
create() {
  topics --create --topic "$1" --partitions "${2:-1}" --replication-factor 1 "${@:3}" || return 1
  offsets --topic "$1" >"$WORK/created"
  [ "$(grep -c . "$WORK/created")" = "${2:-1}" ]
}
offsets() { kafka $T.GetOffsetShell --bootstrap-server "$BOOTSTRAP" "$@"; }
configs() { kafka kafka.admin.ConfigCommand --bootstrap-server "$BOOTSTRAP" "$@"; }
# By default the console producer waits 1.5 s for an answer and gives a record up after three retries: that would time
# the broker. What it gives up it only logs.
console_producer() {
  kafka $T.ConsoleProducer --bootstrap-server "$BOOTSTRAP" --message-send-max-retries 1000000 --request-timeout-ms 30000 "$@" 2>"$WORK/producer.err"
  cat "$WORK/producer.err"; deny ' ERROR ' "$WORK/producer.err"
}
# it closes only after the fetch that it has on its way, so that fetch should not wait long
console_consumer() { kafka $T.consumer.ConsoleConsumer --bootstrap-server "$BOOTSTRAP" --timeout-ms 60000 --consumer-property fetch.max.wait.ms=20 "$@"; }
kc() { timeout "${TOOL_LIMIT:-300}" kcat -b "$BOOTSTRAP" "$@"; }

# --- a broker of our own -------------------------------------------------------------------------------------------
# BROKER_CMD is the command with {data}, {port} and {cores} to be filled in; OWN_BROKER is empty if the user runs the broker
free_port() { local p; while p=$((20000 + RANDOM % 12000)); (exec 9<>"/dev/tcp/127.0.0.1/$p") 2>/dev/null; do :; done; echo $p; }
broker_answers() { kill -0 "$BROKER_PID" 2>/dev/null || { echo "the broker ended: $(tail -3 "$WORK/broker.log")"; exit 1; }; kcat -b "$BOOTSTRAP" -L -m 2 >/dev/null 2>&1; }
broker_start() {
  local c=${BROKER_CMD//\{data\}/$DATA_DIR}; c=${c//\{port\}/${BOOTSTRAP##*:}}; c=${c//\{cores\}/$1}
  echo "--- $c" >>"$WORK/broker.log"
  # shellcheck disable=SC2086 # the template is a command line
  setsid $c </dev/null >>"$WORK/broker.log" 2>&1 &
  BROKER_PID=$!
  eventually 120 broker_answers || { echo "the broker does not answer"; tail -5 "$WORK/broker.log"; return 1; }
}
broker_kill() { [ -z "${BROKER_PID:-}" ] || { kill -9 "$BROKER_PID" 2>/dev/null || true; wait "$BROKER_PID" 2>/dev/null || true; BROKER_PID=; }; }
