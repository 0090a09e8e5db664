package sqlstore

import (
	"errors"
	"flag"
	"fmt"
	"net/url"
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
	// Conns bounds the connections to MySQL, and those that read SQLite.
	Conns int
	// Timeout ends a read or write on a connection to MySQL.
	Timeout time.Duration
}

// RegisterFlags declares the settings under a prefix, with their defaults.
func (c *Config) RegisterFlags(fs *flag.FlagSet, prefix string) {
	fs.StringVar(&c.Driver, prefix+"driver", DriverMySQL, "Database: mysql (MySQL 8.0+, MariaDB 10.11+) or sqlite.")
	fs.Var(&c.DSN, prefix+"dsn", "Data source: user:password@tcp(host:3306)/database, or the path of a SQLite file. @FILE reads it from a file.")
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
		if _, err := c.mysql(); err != nil {
			errs = append(errs, fmt.Errorf("%sdsn: %w; give user:password@tcp(host:3306)/database", prefix, err))
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
	return c.Conns
}

// mysql returns the driver's configuration. Statements are sent together and
// with their arguments inside, which saves round trips; values that do not fit
// are errors.
func (c *Config) mysql() (*mysql.Config, error) {
	m, err := mysql.ParseDSN(c.DSN.Reveal())
	if err != nil {
		return nil, errors.New("not in the driver's form") // its text may hold the password
	}
	if m.DBName == "" {
		return nil, errors.New("names no database")
	}
	m.MultiStatements = true
	m.InterpolateParams = true
	m.ClientFoundRows = true
	if m.Params == nil {
		m.Params = make(map[string]string)
	}
	m.Params["sql_mode"] = "'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION'"
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
