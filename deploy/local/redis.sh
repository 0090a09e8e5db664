# Debian's Redis, kept in memory alone: to Starling it is an index that is made anew where it is lost.
redis_up() {
  alive "$dir/redis.pid" "$(marker redis)" && return
  mkdir -p "$dir/redis"
  launch redis redis-server --port "$redis_port" --bind 127.0.0.1 --dir "$dir/redis" --save "" --appendonly no --daemonize no
}

redis_ready() {
  wait_for redis 20 sh -c "redis-cli -p $redis_port ping | grep -q PONG"
}
