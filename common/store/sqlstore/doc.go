// Package sqlstore is a store.Store over database/sql: SQLite (pure Go) for
// the embedded default, MySQL 8.0+ or MariaDB 10.11+ for production. The SQL
// is one text for all but for the form of an upsert; what differs stands in
// dialect.go.
//
// New contacts nobody; Check wants a server and a schema of this binary's
// version and tells what may come by itself from what needs a person
// (ErrRefused); Migrate makes the schema. A Store may be used concurrently.
//
// With SQLite all writes go through one connection (BEGIN IMMEDIATE, synced at
// each commit) and reads through a pool of their own, which see every commit
// that has returned. With MySQL single reads are prepared statements, and a
// turn is text in two round trips: what it asks, and what it writes. One that
// lost against another transaction is tried again. The server ends a
// session that stops in the middle of a turn, so that its locks are free in
// less than 10 s.
// History may read a replica. Messages stand in partitions by month, verdicts
// by day: Prepare makes them ahead, Retire and Purge drop them, each by one
// process at a time.
//
// Limits: those of store.Turn.Check; a turn may be of any size, but its
// statements are held in memory, and no row may be larger than MySQL's
// max_allowed_packet (at least 1 MB).
package sqlstore
