# Debian's MariaDB, with the databases below for user im (password im).
mariadb_up() {
  alive "$dir/mariadb.pid" "$(marker mariadb)" && return
  local user=()
  [ "$(id -u)" != 0 ] || user=(--user=root)
  if [ ! -d "$dir/mariadb/data/mysql" ]; then
    rm -rf "$dir/mariadb"
    mkdir -p "$dir/mariadb"
    mariadb-install-db --no-defaults "${user[@]}" --datadir="$dir/mariadb/new" --auth-root-authentication-method=normal --skip-test-db \
      >"$dir/mariadb.log" 2>&1 || { tail "$dir/mariadb.log" >&2; fail "mariadb-install-db"; }
    mv "$dir/mariadb/new" "$dir/mariadb/data" # half an installation is none
  fi
  # The path of a socket is bounded to 107 bytes, so it is no part of a folder that may be deep.
  # innodb-io-capacity stays at its default of 200: more makes the page cleaner write in bursts that every turn waits for.
  # One thread purges: four at once take both cores of a small machine.
  launch mariadb mariadbd --no-defaults "${user[@]}" --datadir="$dir/mariadb/data" --bind-address=127.0.0.1 --port="$mariadb_port" \
    --socket="$(mariadb_socket)" --character-set-server=utf8mb4 --skip-name-resolve --innodb-buffer-pool-size=1G --innodb-log-file-size=2G \
    --innodb-flush-neighbors=0 --innodb-purge-threads=1
}

mariadb_socket() { echo "/tmp/starling-mariadb-$mariadb_port.sock"; }

mariadb_sql() { mariadb --no-defaults -uroot -S "$(mariadb_socket)" -e "$1"; }

mariadb_ready() {
  wait_for mariadb 30 mariadb-admin --no-defaults -uroot -S "$(mariadb_socket)" ping
  mariadb_sql "CREATE USER IF NOT EXISTS 'im'@'127.0.0.1' IDENTIFIED BY 'im'"
  local db
  for db in im im_second im_test im_test_second; do # of the system, of a second shard, and of the store's own tests
    mariadb_sql "CREATE DATABASE IF NOT EXISTS $db CHARACTER SET utf8mb4; GRANT ALL ON $db.* TO 'im'@'127.0.0.1'"
  done
}
