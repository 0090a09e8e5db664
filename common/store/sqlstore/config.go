package sqlstore

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/starling-im/starling/common/config"
)

// Values of Config.Driver.
const (
	DriverSQLite = "sqlite"
	DriverMySQL  = "mysql"
)

// Config says where a shard is.
type Config struct {
	// Driver is DriverSQLite or DriverMySQL.
	Driver string
	// DSN is a file's path for SQLite, user:password@tcp(host:3306)/database
	// for MySQL (go-sql-driver's form; its parameters may follow).
	DSN config.Secret
	// ReplicaDSN is a read replica of it that History's rows are read from, with
	// the primary behind it; "" for none. MySQL alone.
	ReplicaDSN config.Secret
	// Conns bounds the connections to MySQL, and those that read SQLite.
	Conns int
	// Timeout ends a read or write on a connection to MySQL.
	Timeout time.Duration
}

// RegisterFlags declares the settings under a prefix, with their defaults.
func (c *Config) RegisterFlags(fs *flag.FlagSet, prefix string) {
	fs.StringVar(&c.Driver, prefix+"driver", DriverMySQL, "Database: mysql (MySQL 8.0+, MariaDB 10.11+) or sqlite.")
	fs.Var(&c.DSN, prefix+"dsn", "Data source: user:password@tcp(host:3306)/database, or the path of a SQLite file. @FILE reads it from a file.")
	fs.Var(&c.ReplicaDSN, prefix+"replica-dsn",
		"Data source of a read replica, which serves history by HTTP alone; empty: the primary does. @FILE reads it from a file.")
	fs.IntVar(&c.Conns, prefix+"conns", 16, "Connections to the database at most.")
	fs.DurationVar(&c.Timeout, prefix+"timeout", 30*time.Second, "Time after which a read or write on a connection is given up.")
}

// Validate returns everything that is wrong, each with its key and the remedy.
func (c *Config) Validate() error { return c.ValidateKeys("mysql.") }

// ValidateKeys is Validate for flags registered under another prefix.
func (c *Config) ValidateKeys(prefix string) error {
	var errs []error
	if c.Driver != DriverSQLite && c.Driver != DriverMySQL {
		errs = append(errs, fmt.Errorf("%sdriver: %q is not known; use mysql or sqlite", prefix, c.Driver))
	}
	switch dsn := c.DSN.Reveal(); {
	case dsn == "":
		errs = append(errs, fmt.Errorf("%sdsn: missing; give user:password@tcp(host:3306)/database", prefix))
	case c.Driver == DriverMySQL:
		if _, err := c.mysql(dsn); err != nil {
			errs = append(errs, fmt.Errorf("%sdsn: %w; give user:password@tcp(host:3306)/database", prefix, err))
		}
	}
	if r := c.ReplicaDSN.Reveal(); r != "" {
		if c.Driver != DriverMySQL {
			errs = append(errs, fmt.Errorf("%sreplica-dsn: %s has no replicas; leave it empty", prefix, c.Driver))
		} else if _, err := c.mysql(r); err != nil {
			errs = append(errs, fmt.Errorf("%sreplica-dsn: %w; give user:password@tcp(host:3306)/database", prefix, err))
		}
	}
	if c.Conns < 0 {
		errs = append(errs, fmt.Errorf("%sconns: %d is negative; give at least 1", prefix, c.Conns))
	}
	if c.Timeout < 0 {
		errs = append(errs, fmt.Errorf("%stimeout: %v is negative; give 30s", prefix, c.Timeout))
	}
	return errors.Join(errs...)
}

func (c *Config) conns() int {
	if c.Conns <= 0 {
		return 16
	}
	return max(c.Conns, 2) // housekeeping holds one while it asks for another
}

// What a session waits for. A host that died, or was frozen, in the middle of a
// transaction holds its locks until the server ends the session: freed in less
// than 10 s, whatever the client does. The pool gives up idle connections
// before the server does (database/sql looks once a second), so that it uses
// none that is about to go.
const (
	idleSession = 7 * time.Second // the server ends a session without a statement
	stuckPacket = 8 * time.Second // or one that stopped in the middle of a packet
	idleInPool  = 4 * time.Second
	lockWait    = 5 * time.Second // for a row; then the transaction is tried again
)

// session is what we set at each connect. Whatever the server's own settings:
// what does not fit is an error, a statement by itself commits, a result is not
// cut off, times are in UTC.
func session() map[string]string {
	return map[string]string{
		"sql_mode":                 "'" + sqlMode + "'",
		"autocommit":               "1",
		"sql_select_limit":         "18446744073709551615",
		"time_zone":                "'+00:00'",
		"innodb_lock_wait_timeout": seconds(lockWait),
		"wait_timeout":             seconds(idleSession),
		"net_read_timeout":         seconds(stuckPacket),
		"net_write_timeout":        seconds(stuckPacket),
	}
}

func seconds(d time.Duration) string { return strconv.Itoa(int(d / time.Second)) }

const sqlMode = "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION"

// mysql returns the driver's configuration. Statements are sent together and
// with their arguments inside, which saves round trips; values that do not fit
// are errors.
func (c *Config) mysql(dsn string) (*mysql.Config, error) {
	m, err := mysql.ParseDSN(dsn)
	if err != nil {
		return nil, errors.New("not in the driver's form") // its text may hold the password
	}
	if m.DBName == "" {
		return nil, errors.New("names no database")
	}
	m.MultiStatements = true
	m.InterpolateParams = true
	m.ClientFoundRows = true
	m.MaxAllowedPacket = driverPacket
	m.Logger = &mysql.NopLogger{} // what it tells comes back as errors, too
	if m.Params == nil {
		m.Params = make(map[string]string)
	}
	maps.DeleteFunc(m.Params, func(name, _ string) bool { // the server reads names in any case
		_, ours := session()[strings.ToLower(name)]
		return ours
	})
	maps.Copy(m.Params, session())
	if m.Timeout == 0 {
		m.Timeout = 5 * time.Second
	}
	if m.ReadTimeout == 0 {
		m.ReadTimeout = c.Timeout
	}
	if m.WriteTimeout == 0 {
		m.WriteTimeout = c.Timeout
	}
	return m, nil
}

// sqlite returns the data source of the writer or of the readers.
func (c *Config) sqlite(writer bool) string {
	params := []string{
		"_pragma=busy_timeout(5000)", "_pragma=journal_mode(WAL)", "_pragma=synchronous(NORMAL)", "_pragma=temp_store(MEMORY)",
	}
	if writer {
		// The checkpointer keeps the log short; this is the bound (64 MB).
		params = append(params, "_pragma=cache_size(-64000)", "_pragma=cache_spill(0)", "_pragma=wal_autocheckpoint(16000)")
	} else {
		params = append(params, "_pragma=cache_size(-4000)", "_pragma=query_only(1)")
	}
	u := url.URL{Path: c.DSN.Reveal()}
	return "file:" + u.EscapedPath() + "?mode=rw&" + strings.Join(params, "&")
}
