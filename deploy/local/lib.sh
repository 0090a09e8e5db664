# What up, down and status share: the services, their folders, ports and processes.
#
# STARLING_LOCAL       folder of data, logs and pids (default data/local of this checkout)
# STARLING_LOCAL_PORT  first of the ports (default 7000): Redis +379, MariaDB +306, Kafka +92, +93, +94, its controllers +192, +193, +194; kept with the folder
# KAFKA_VERSION        of Apache Kafka (default below); its jars are kept in the user's cache
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
dir=${STARLING_LOCAL:-$(cd "$here/../.." && pwd)/data/local}
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
# The ports belong to the folder: what was started on them is known by them.
port=$(cat "$dir/port" 2>/dev/null || echo "${STARLING_LOCAL_PORT:-7000}")
redis_port=$((port + 379)) mariadb_port=$((port + 306)) kafka_port=$((port + 92)) controller_port=$((port + 192))
kafka_version=${KAFKA_VERSION:-4.1.2}
kafka_home=${XDG_CACHE_HOME:-$HOME/.cache}/starling/kafka-$kafka_version
PATH=$PATH:/usr/sbin

fail() {
  echo "deploy/local: $*" >&2
  exit 1
}

[ "$port" = "${STARLING_LOCAL_PORT:-$port}" ] || fail "$dir was made with STARLING_LOCAL_PORT=$port; use that, or another folder (STARLING_LOCAL)"

# alive PIDFILE NAME: the process is there, is no zombie, and is ours (a number may have gone to another).
alive() {
  local pid
  pid=$(cat "$1" 2>/dev/null) && [ -n "$pid" ] || return 1
  [ -r "/proc/$pid/cmdline" ] && ! grep -q '^State:.Z' "/proc/$pid/status" 2>/dev/null &&
    tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q -- "$2"
}

# launch NAME COMMAND…: in a session of its own, so that Ctrl-C for others does not reach it.
launch() {
  local name=$1
  shift
  setsid "$@" >>"$dir/$name.log" 2>&1 </dev/null &
  echo $! >"$dir/$name.pid"
}

# wait_for NAME SECONDS COMMAND…: until the command passes, or the process has ended.
wait_for() {
  local name=$1 until=$((SECONDS + $2))
  shift 2
  until "$@" >/dev/null 2>&1; do
    alive "$dir/$name.pid" "" || { tail -20 "$dir/$name.log" >&2; fail "$name has ended; its log is $dir/$name.log"; }
    ((SECONDS < until)) || fail "$name does not answer; its log is $dir/$name.log"
    sleep 0.05
  done
}

# names of the services that this folder has, in the order of their start.
services() {
  local i
  echo redis
  echo mariadb
  for i in $(seq "$(cat "$dir/brokers" 2>/dev/null || echo 0)"); do echo "kafka-$i"; done
}

# marker NAME: what the command line of a service holds and that of no other process does.
marker() {
  case $1 in
  redis) echo "127.0.0.1:$redis_port" ;;
  mariadb) echo "$dir/mariadb/data" ;;
  kafka-*) echo "$dir/$1/server.properties" ;;
  esac
}

port_of() {
  case $1 in
  redis) echo "$redis_port" ;;
  mariadb) echo "$mariadb_port" ;;
  kafka-*) echo $((kafka_port + ${1#kafka-} - 1)) ;;
  esac
}
