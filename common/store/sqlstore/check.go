package sqlstore

import (
	"context"
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/go-sql-driver/mysql"
)

// ErrRefused marks what no waiting cures: wrong credentials, server, charset or
// schema. The text says what to do. Any other error of Check may pass by itself.
var ErrRefused = errors.New("refused")

func refuse(remedy, format string, args ...any) error {
	return fmt.Errorf("%w: %w; %s", ErrRefused, fmt.Errorf(format, args...), remedy)
}

// Check connects and looks whether everything is there that the store needs.
// Errors with ErrRefused need a person; after any other one, ask again.
func (s *Store) Check(ctx context.Context) error {
	if s.writer != nil {
		return s.checkSQLite(ctx)
	}
	for _, step := range []func(context.Context) error{s.checkServer, s.checkSession, s.checkSchema, s.checkTables} {
		if err := step(ctx); err != nil {
			return fmt.Errorf("check the database at %s: %w", s.addr, classify(err))
		}
	}
	return nil
}

func (s *Store) checkSQLite(ctx context.Context) error {
	if _, err := os.Stat(s.cfg.DSN.Reveal()); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("open the database: %w: %w", err, ErrSchemaOld)
		}
		return fmt.Errorf("open the database: %w", err)
	}
	if err := s.writer.db.PingContext(ctx); err != nil { // sets WAL before the readers come
		return fmt.Errorf("open the database: %w", err)
	}
	return s.checkSchema(ctx)
}

// remedies are for the server's errors that waiting does not cure.
func remedies() map[uint16]string {
	return map[uint16]string{
		1044: "grant the user all rights on the database of mysql.dsn",
		1045: "give the right user and password in mysql.dsn",
		1049: "create the database (CHARACTER SET utf8mb4), or name another in mysql.dsn",
		1115: "take the charset out of mysql.dsn",
		1129: "unblock this host (mariadb-admin flush-hosts)",
		1130: "allow the user of mysql.dsn to connect from this host",
		1142: "grant the user all rights on the database of mysql.dsn",
		1143: "grant the user all rights on the database of mysql.dsn",
		1193: "take the variable out of mysql.dsn, or use MySQL 8.0+ or MariaDB 10.11+",
		1227: "grant the user the right that the server names",
		1231: "take the variable out of mysql.dsn",
		1273: "take the collation out of mysql.dsn",
		1524: "give the user a password of a kind that the server knows",
		1698: "give the right user and password in mysql.dsn",
		1820: "set the user's password",
		1862: "renew the user's password",
		3118: "unlock the user's account",
		4151: "unlock the user's account",
	}
}

// classify marks what needs a person.
func classify(err error) error {
	if e, ok := errors.AsType[*mysql.MySQLError](err); ok {
		if remedy := remedies()[e.Number]; remedy != "" {
			return refuse(remedy, "%w", err)
		}
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return refuse("give a certificate that this host trusts, or another tls= in mysql.dsn", "%w", err)
	}
	for _, method := range []error{
		mysql.ErrNoTLS, mysql.ErrCleartextPassword, mysql.ErrNativePassword, mysql.ErrOldPassword, mysql.ErrUnknownPlugin, mysql.ErrOldProtocol,
	} {
		if errors.Is(err, method) {
			return refuse("change how the user of mysql.dsn logs in, or the parameters there", "%w", err)
		}
	}
	return err
}

func (s *Store) checkServer(ctx context.Context) error {
	var version string
	if err := s.read.db.QueryRowContext(ctx, "SELECT VERSION()").Scan(&version); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	return checkVersion(version)
}

// checkVersion wants MySQL 8.0 or MariaDB 10.11.
func checkVersion(version string) error {
	least := [2]int{8, 0}
	if strings.Contains(version, "MariaDB") {
		least = [2]int{10, 11}
	}
	have := [2]int{}
	number, _, _ := strings.Cut(strings.TrimPrefix(version, "5.5.5-"), "-")
	for i, part := range strings.SplitN(number, ".", 3) {
		if n, err := strconv.Atoi(part); err == nil && i < len(have) {
			have[i] = n
		}
	}
	if slices.Compare(have[:], least[:]) < 0 {
		return refuse("use MySQL 8.0+ or MariaDB 10.11+", "the server's version is %s", version)
	}
	return nil
}

// checkSession reads back what was set, and what cannot be set by us.
func (s *Store) checkSession(ctx context.Context) error {
	var mode, charset string
	var packet int64
	var readOnly string
	var autocommit bool
	const q = "SELECT @@sql_mode, @@character_set_client, @@max_allowed_packet, @@autocommit, @@global.read_only"
	if err := s.read.db.QueryRowContext(ctx, q).Scan(&mode, &charset, &packet, &autocommit, &readOnly); err != nil {
		return fmt.Errorf("read the server's settings: %w", err)
	}
	switch {
	case !strings.Contains(mode, "STRICT_ALL_TABLES") || strings.Contains(mode, "NO_BACKSLASH_ESCAPES") || !autocommit:
		return refuse("connect without a proxy that keeps sessions to itself",
			"the server did not take our sql_mode and autocommit, but has %q and %t", mode, autocommit)
	case charset != "utf8mb4":
		return refuse("take the charset out of mysql.dsn", "the connection's charset is %s, not utf8mb4", charset)
	case packet < leastPacket:
		return refuse("set it to 16M or more", "the server's max_allowed_packet is %d", packet)
	case readOnly != "0" && readOnly != "OFF":
		return errors.New("the server is read-only: name the primary in mysql.dsn, or wait until it is one")
	}
	s.packet.Store(packet)
	return nil
}

// checkTables looks for tables that somebody made, or changed, by hand.
func (s *Store) checkTables(ctx context.Context) error {
	const ours = "table_schema = DATABASE() AND table_name IN" +
		" ('meta','conversations','members','messages','outcomes','refusals','cursors','log_partitions','workers')"
	for _, c := range []struct{ query, remedy string }{
		{
			"SELECT CONCAT('column ', table_name, '.', column_name, ' is ', column_type) FROM information_schema.columns WHERE " + ours +
				" AND character_set_name IS NOT NULL LIMIT 1",
			"make it VARBINARY or BLOB again: in a text column a, A and `a ` are one id, and not all contents fit",
		},
		{
			"SELECT CONCAT('table ', table_name, ' has engine ', engine) FROM information_schema.tables WHERE " + ours +
				" AND engine <> 'InnoDB' LIMIT 1",
			"change it to InnoDB: others have no transactions",
		},
	} {
		rows, err := s.read.db.QueryContext(ctx, c.query)
		if err != nil {
			return fmt.Errorf("read the tables: %w", err)
		}
		var found string
		err = each(rows, func(r *sql.Rows) error { return r.Scan(&found) })
		if err != nil {
			return fmt.Errorf("read the tables: %w", err)
		}
		if found != "" {
			return refuse(c.remedy, "%s", found)
		}
	}
	return nil
}
