# Debian's Redis. Appended to a file, as in production, though Starling would not miss it.
redis_up() {
  alive "$dir/redis.pid" "$(marker redis)" && return
  mkdir -p "$dir/redis"
  launch redis redis-server --port "$redis_port" --bind 127.0.0.1 --dir "$dir/redis" --save "" --appendonly yes --daemonize no
}

redis_ready() {
  wait_for redis 20 sh -c "redis-cli -p $redis_port ping | grep -q PONG"
}
