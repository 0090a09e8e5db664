package sqlstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// errBeforeCommit marks a connection that was lost before anything of a
// transaction could have been committed.
var errBeforeCommit = errors.New("the connection was lost")

// A transaction that lost against another one is tried again, some times.
const (
	maxRetries = 4
	retryPause = 10 * time.Millisecond // doubled each time, half of it by chance
)

// retry repeats a transaction that was rolled back for certain and may pass the
// next time. f begins from nothing each time.
func (s *Store) retry(ctx context.Context, f func() error) error {
	for n := 0; ; n++ {
		err := f()
		reason := again(err)
		if reason == "" || n == maxRetries || ctx.Err() != nil {
			return err
		}
		s.metrics.retries.WithLabelValues(reason).Inc()
		pause := retryPause << n
		timer := time.NewTimer(pause/2 + rand.N(pause)) //nolint:gosec // no secret
		select {
		case <-ctx.Done():
			timer.Stop()
			return err
		case <-timer.C:
		}
	}
}

// again names why a transaction may be repeated, "" if it must not. The server
// has answered, so what it has not committed it never will: of several
// statements sent together it stops at the one that fails.
func again(err error) string {
	// The driver says bad where it has not sent anything of a text, and invalid
	// where it may have.
	if errors.Is(err, errBeforeCommit) || errors.Is(err, driver.ErrBadConn) {
		return "connection"
	}
	e, ok := errors.AsType[*mysql.MySQLError](err)
	if !ok {
		return ""
	}
	switch e.Number {
	case 1213: // ER_LOCK_DEADLOCK
		return "deadlock"
	case 1205, 3572: // ER_LOCK_WAIT_TIMEOUT, ER_LOCK_NOWAIT
		return "lock_wait"
	case 1020, 1412: // ER_CHECKREAD (MariaDB's snapshots), ER_TABLE_DEF_CHANGED
		return "changed"
	}
	return ""
}

// unprepared says that the server has no room for another prepared statement,
// or has lost one; the text works all the same.
func unprepared(err error) bool {
	e, ok := errors.AsType[*mysql.MySQLError](err)
	return ok && (e.Number == 1461 || e.Number == 1615 || e.Number == 1243)
}

// outOfRange is how a guard fails that does not stand as thought.
func outOfRange(err error) bool {
	e, ok := errors.AsType[*mysql.MySQLError](err)
	return ok && e.Number == 1690 // ER_DATA_OUT_OF_RANGE
}

// lost says that a connection broke, rather than that the server refused.
func lost(err error) bool {
	return errors.Is(err, mysql.ErrInvalidConn) || errors.Is(err, driver.ErrBadConn)
}

type metrics struct {
	retries *prometheus.CounterVec
	replica *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	return &metrics{
		retries: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_store_retries_total",
			Help: "Transactions that were rolled back and tried again: deadlock, lock_wait, changed, connection.",
		}, []string{"reason"}),
		replica: f.NewCounterVec(prometheus.CounterOpts{
			Name: "starling_store_replica_reads_total",
			Help: "Reads of history by what came of asking the replica: ok; or behind, failed, slow, resting, and then the primary was read.",
		}, []string{"result"}),
	}
}

// showPool registers what database/sql tells of a pool.
func showPool(reg prometheus.Registerer, pool string, db *sql.DB) {
	f := promauto.With(reg)
	labels := prometheus.Labels{"pool": pool}
	for _, g := range []struct {
		name, help string
		value      func(st *sql.DBStats) float64
	}{
		{"starling_store_connections_open", "Connections of a pool.", func(st *sql.DBStats) float64 { return float64(st.OpenConnections) }},
		{"starling_store_connections_in_use", "Connections of a pool that are working.", func(st *sql.DBStats) float64 { return float64(st.InUse) }},
		{"starling_store_connections_idle", "Connections of a pool that are not.", func(st *sql.DBStats) float64 { return float64(st.Idle) }},
	} {
		f.NewGaugeFunc(prometheus.GaugeOpts{Name: g.name, Help: g.help, ConstLabels: labels}, func() float64 {
			st := db.Stats()
			return g.value(&st)
		})
	}
	f.NewCounterFunc(prometheus.CounterOpts{
		Name: "starling_store_connection_waits_total", Help: "Times that a pool had no connection free.", ConstLabels: labels,
	}, func() float64 { return float64(db.Stats().WaitCount) })
	f.NewCounterFunc(prometheus.CounterOpts{
		Name: "starling_store_connection_wait_seconds_total", Help: "Time waited for a connection of a pool.", ConstLabels: labels,
	}, func() float64 { return db.Stats().WaitDuration.Seconds() })
}
