# MySQL itself, for the store's contract suite. Debian has it in unstable alone: its packages are unpacked into the user's cache
# and run by their own loader; nothing is installed. Needs apt-get as root, and a mirror that has unstable.
mysql_home=${XDG_CACHE_HOME:-$HOME/.cache}/starling/mysql
mysql_port=$((port + 380))

mysql_dsn() { echo "im:im@tcp(127.0.0.1:$mysql_port)/im"; }

mysql_fetch() {
  [ -f "$mysql_home/complete" ] && return
  local apt=$mysql_home/apt mirror options deb
  mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -v '^ *#' | grep -oE 'https?://[^ ]+/debian(/| |$)' | head -1 | tr -d ' ' || true)
  [ -n "$mirror" ] || { echo "no Debian mirror in the sources of apt"; return 1; }
  mkdir -p "$apt"/{lists/partial,cache/archives/partial,etc/sources.list.d,etc/preferences.d,etc/apt.conf.d} "$mysql_home/root" || return 1
  : >"$apt/status"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" >"$apt/etc/sources.list"
  options=(-o "Dir::Etc=$apt/etc" -o "Dir::Etc::parts=/nonexistent" -o "Dir::State=$apt" -o "Dir::Cache=$apt/cache"
    -o "Dir::State::status=$apt/status" -o APT::Sandbox::User=root)
  apt-get "${options[@]}" -qq update || return 1
  apt-get "${options[@]}" -qq -y --no-install-recommends --download-only install mysql-server-core >/dev/null || return 1
  for deb in "$apt"/cache/archives/*.deb; do
    case $deb in *perl*) ;; *) dpkg-deb -x "$deb" "$mysql_home/root" || return 1 ;; esac
  done
  rm -rf "$apt"
  touch "$mysql_home/complete"
}

# mysql_command ARGUMENTS…: sets the array `command`.
mysql_command() {
  local root=$mysql_home/root loader
  loader=$(find "$root" -name 'ld-linux-x86-64.so.2' | head -1)
  command=("$loader" --library-path "$root/usr/lib/x86_64-linux-gnu:$root/usr/lib" --argv0 "$root/usr/sbin/mysqld" "$root/usr/sbin/mysqld"
    --no-defaults "--basedir=$root/usr" "--lc-messages-dir=$root/usr/share/mysql" "--character-sets-dir=$root/usr/share/mysql/charsets"
    "--plugin-dir=$root/usr/lib/mysql/plugin" "--user=$(id -un)" "--datadir=$dir/mysql/data" "$@")
}

# mysql_up fails where MySQL cannot be had, and says nothing more: it is an extra.
mysql_up() {
  local command
  mysql_fetch >"$dir/mysql-fetch.log" 2>&1 || return 1
  rm -rf "$dir/mysql"
  mkdir -p "$dir/mysql"
  cat >"$dir/mysql/init.sql" <<X
CREATE DATABASE im CHARACTER SET utf8mb4;
CREATE USER 'im'@'127.0.0.1' IDENTIFIED BY 'im';
GRANT ALL ON im.* TO 'im'@'127.0.0.1';
X
  mysql_command --initialize-insecure "--init-file=$dir/mysql/init.sql"
  "${command[@]}" >"$dir/mysql.log" 2>&1 || return 1
  mysql_command "--port=$mysql_port" --bind-address=127.0.0.1 "--socket=/tmp/starling-mysql-$mysql_port.sock" --secure-file-priv=NULL --mysqlx=OFF --skip-name-resolve
  launch mysql "${command[@]}"
  wait_for mysql 60 grep -q 'ready for connections' "$dir/mysql.log"
}

mysql_down() {
  local pid
  alive "$dir/mysql.pid" "$dir/mysql/data" || return 0
  pid=$(cat "$dir/mysql.pid")
  kill "$pid" || true
  for _ in $(seq 300); do
    alive "$dir/mysql.pid" "$dir/mysql/data" || return 0
    sleep 0.1
  done
  kill -9 "$pid" || true
}
