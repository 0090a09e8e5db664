package sqlstore

import (
	"errors"
	"strconv"
	"strings"

	"github.com/go-sql-driver/mysql"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"github.com/starling-im/starling/common/store"
)

// dialect is all that differs between the databases.
type dialect struct {
	name     string
	insert   string                       // head of an INSERT
	upsert   func(key, set string) string // tail of an INSERT; set: names, or name=expression
	greatest string                       // of two values, as a function
	newer    func(col string) string      // the greater of a column's old and new value
	fill     func(col string) string      // a column's old value, or the new one where that is empty
	// fit returns how many of n rows go into the next INSERT.
	fit func(n int) int
	// terms are the numbers of terms of a WHERE that is prepared, descending:
	// repeated terms fill up to one of them.
	terms []int
	// keyTerms are those of the look-up of verdicts: each costs one in every day.
	keyTerms []int
	// countTerms is how many ranges one counting query may have. SQLite keeps a
	// set of the rows that it has seen for more than one.
	countTerms int
	lock       string // locks the rows of a SELECT
	bytes      bool   // strings are bound as bytes: a text is checked as utf8mb4
	purge      func(table, key string) string
	fails      func(err error) bool // deterministic errors
}

const purgeRows = 1000

func sqliteDialect() *dialect {
	return &dialect{
		name: DriverSQLite,
		// A failure ends the whole turn, so nothing need be kept to undo one
		// statement.
		insert: "INSERT OR FAIL INTO ",
		upsert: func(key, set string) string {
			return " ON CONFLICT (" + key + ") DO UPDATE SET " + assign(set, func(col string) string { return "excluded." + col })
		},
		greatest: "max",
		newer:    func(col string) string { return "max(" + col + ",excluded." + col + ")" },
		fill: func(col string) string {
			return "CASE WHEN log_partitions." + col + "='' THEN excluded." + col + " ELSE log_partitions." + col + " END"
		},
		// The fewer numbers there are, the fewer statements are kept prepared.
		fit: func(n int) int {
			switch {
			case n >= 64:
				return 64
			case n >= 8:
				return 8
			}
			return 1
		},
		terms:      []int{64, 8, 1},
		keyTerms:   []int{64, 8, 1},
		countTerms: 1,
		purge: func(table, key string) string {
			return "DELETE FROM " + table + " WHERE (" + key + ") IN (SELECT " + key + " FROM " + table + " WHERE ts < ? LIMIT " + strconv.Itoa(purgeRows) + ")"
		},
		fails: func(err error) bool {
			var e *sqlite.Error
			if !errors.As(err, &e) {
				return false
			}
			switch e.Code() & 0xff {
			case sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH:
				return true
			}
			return false
		},
	}
}

func mysqlDialect() *dialect {
	return &dialect{
		name:   DriverMySQL,
		insert: "INSERT INTO ",
		upsert: func(_, set string) string {
			return " ON DUPLICATE KEY UPDATE " + assign(set, func(col string) string { return "VALUES(" + col + ")" })
		},
		greatest:   "GREATEST",
		newer:      func(col string) string { return "GREATEST(" + col + ",VALUES(" + col + "))" },
		fill:       func(col string) string { return "IF(" + col + "='',VALUES(" + col + ")," + col + ")" },
		fit:        func(n int) int { return min(n, 256) },
		terms:      []int{200, 50, 12, 3, 1},
		keyTerms:   []int{200, 100, 50, 25, 12, 6, 3, 1},
		countTerms: 64,
		lock:       " FOR UPDATE",
		bytes:      true,
		purge: func(table, _ string) string {
			return "DELETE FROM " + table + " WHERE ts < ? LIMIT " + strconv.Itoa(purgeRows)
		},
		fails: func(err error) bool {
			var e *mysql.MySQLError
			if !errors.As(err, &e) {
				return false
			}
			switch e.Number {
			case 1048, // null
				1062, 1586, // duplicate key
				1264, 1265, 1292, 1300, 1366, 1406, // bad, too great or too long a value
				1451, 1452, 3819, 4025: // foreign key, check
				return true
			}
			return false
		},
	}
}

// assign makes "a=new(a), b=new(b)" of "a, b"; what has a "=" stays.
func assign(set string, value func(col string) string) string {
	cols := strings.Split(set, ", ")
	for i, c := range cols {
		if !strings.Contains(c, "=") {
			cols[i] = c + "=" + value(c)
		}
	}
	return strings.Join(cols, ", ")
}

// judge marks deterministic errors.
func (d *dialect) judge(err error) error {
	if err == nil || !d.fails(err) {
		return err
	}
	return &store.DeterministicError{Err: err}
}

// bind turns arguments into what the driver is to send.
func (d *dialect) bind(args []any) []any {
	if d.bytes {
		for i, a := range args {
			if s, ok := a.(string); ok {
				args[i] = []byte(s)
			}
		}
	}
	return args
}

// table is an INSERT for any number of rows.
type table struct {
	head, row, tail string
	cols            int
}

func newTable(d *dialect, name, cols, tail string) *table {
	n := strings.Count(cols, ",") + 1
	return &table{
		head: d.insert + name + " (" + cols + ") VALUES ",
		row:  "(?" + strings.Repeat(",?", n-1) + ")",
		tail: tail,
		cols: n,
	}
}

func (t *table) sql(rows int) string {
	return t.head + t.row + strings.Repeat(","+t.row, rows-1) + t.tail
}

// tables are the INSERTs of a dialect.
type tables struct {
	fresh, heads, members, messages, outcomes, refusals, cursors, blocks *table
}

const (
	headCols    = "conv, kind, max_seq, min_seq, last_ts, last_msg, name, description, owner, members, muted_until, dismissed, named_seq, blocked"
	memberCols  = "user, role, joined_seq, left_seq, muted_until"
	rowCols     = "seq, kind, id, sender, type, content, ts, client_id, mention, reply_to, status, target_seq, version"
	outcomeCols = "conv, sender, client_id, topic, number, id, hash, code, seq, n, ts, log_offset"
	refusalCols = "user, id, ts, client_id, conv, code"
	blockCols   = "owner, peer, since"
	cursorCols  = "conv_id, user, device, delivered, read_seq"
)

// headSet is all but the conversation's id. The machine writes min_seq from
// memory, while housekeeping raises it.
func headSet(d *dialect) string {
	set := strings.TrimPrefix(headCols, "conv, ")
	return strings.Replace(set, "min_seq", "min_seq="+d.newer("min_seq"), 1)
}

func newTables(d *dialect) *tables {
	return &tables{
		fresh:    newTable(d, "conversations", "id, "+headCols, ""),
		heads:    newTable(d, "conversations", "id, "+headCols, d.upsert("id", headSet(d))),
		members:  newTable(d, "members", "conv_id, "+memberCols, d.upsert("conv_id, user, joined_seq", "role, left_seq, muted_until")),
		messages: newTable(d, "messages", "conv_id, month, "+rowCols, ""),
		outcomes: newTable(d, "outcomes", "day, "+outcomeCols, ""),
		refusals: newTable(d, "refusals", refusalCols, d.upsert("user, id", "ts, client_id, conv, code")),
		blocks:   newTable(d, "blocks", blockCols, d.upsert("owner, peer", "since")),
		cursors: newTable(d, "cursors", cursorCols, d.upsert("conv_id, user, device",
			"delivered="+d.newer("delivered")+", read_seq="+d.newer("read_seq"))),
	}
}
