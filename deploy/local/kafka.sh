# Apache Kafka in KRaft mode, every node broker and controller.
kafka_fetch() {
  [ -f "$kafka_home/complete" ] && return
  echo "fetching Apache Kafka $kafka_version from Maven Central"
  mkdir -p "$kafka_home"
  mvn -q -B -f "$here/kafka-pom.xml" -Dkafka.version="$kafka_version" dependency:copy-dependencies \
    -DoutputDirectory="$kafka_home/libs" -DincludeScope=runtime || fail "Maven cannot fetch Kafka"
  touch "$kafka_home/complete"
}

kafka_up() { # NUMBER OF
  local i=$1 n=$2 home=$dir/kafka-$1 id heap=1g
  ((n < 3)) || heap=512m
  alive "$dir/kafka-$i.pid" "$(marker "kafka-$i")" && return
  id=$(cat "$dir/cluster.id")
  mkdir -p "$home"
  kafka_properties "$i" "$n" >"$home/server.properties"
  if [ ! -f "$home/data/meta.properties" ]; then
    kafka_java -Xmx128m -XX:TieredStopAtLevel=1 kafka.tools.StorageTool format -t "$id" -c "$home/server.properties" \
      >"$dir/kafka-$i.log" 2>&1 || { tail "$dir/kafka-$i.log" >&2; fail "format of kafka-$i"; }
  fi
  # What it said before is kept, apart: that it has started is read from its log.
  cat "$dir/kafka-$i.log" >>"$dir/kafka-$i.log.old" 2>/dev/null || true
  : >"$dir/kafka-$i.log"
  # The collector's options are those of Kafka's own kafka-run-class.sh; the default pause of 200 ms would be seen in every p99.
  launch "kafka-$i" java -Xms"$heap" -Xmx"$heap" -XX:+UseG1GC -XX:MaxGCPauseMillis=20 -XX:InitiatingHeapOccupancyPercent=35 \
    -XX:+ExplicitGCInvokesConcurrent -cp "$kafka_home/libs/*" \
    -Dorg.slf4j.simpleLogger.showDateTime=true -Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS kafka.Kafka "$home/server.properties"
}

kafka_java() { java -cp "$kafka_home/libs/*" "$@"; }

kafka_ready() { wait_for "kafka-$1" 90 grep -q 'Kafka Server started' "$dir/kafka-$1.log"; }

# Three brokers are as in production: replication 3, two in sync, and a dead
# broker noticed within 3 s, before the clients' sessions of 6 s end
# (docs/decisions/009).
kafka_properties() { # NUMBER OF
  local i=$1 n=$2 replicas=3 in_sync=2 voters="" v
  ((n >= 3)) || replicas=1 in_sync=1
  for v in $(seq "$n"); do voters+="${voters:+,}$v@127.0.0.1:$((controller_port + v - 1))"; done
  cat <<X
process.roles=broker,controller
node.id=$i
controller.quorum.voters=$voters
listeners=PLAINTEXT://127.0.0.1:$((kafka_port + i - 1)),CONTROLLER://127.0.0.1:$((controller_port + i - 1))
advertised.listeners=PLAINTEXT://127.0.0.1:$((kafka_port + i - 1))
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs=$dir/kafka-$i/data
auto.create.topics.enable=false
default.replication.factor=$replicas
min.insync.replicas=$in_sync
offsets.topic.replication.factor=$replicas
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=$replicas
transaction.state.log.min.isr=$in_sync
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=$replicas
share.coordinator.state.topic.min.isr=$in_sync
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=6000
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
controller.quorum.fetch.timeout.ms=1000
controller.quorum.election.timeout.ms=500
controller.quorum.election.backoff.max.ms=500
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=16777216
log.segment.bytes=67108864
X
}
