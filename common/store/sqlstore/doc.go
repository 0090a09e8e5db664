// Package sqlstore is a store.Store over database/sql: SQLite (pure Go) for
// the embedded default, MySQL 8.0+ or MariaDB 10.11+ for production. The SQL
// is one text for all but for the form of an upsert; what differs stands in
// dialect.go.
//
// Open wants a schema of this binary's version, Migrate makes it. A Store may
// be used concurrently. With SQLite all writes go through one connection
// (BEGIN IMMEDIATE, synced at each commit) and reads through a pool of their
// own, which see every commit that has returned. With MySQL a turn costs two
// round trips, three when it begins a conversation.
//
// Limits: those of store.Turn.Check; a turn may be of any size, but its
// statements are held in memory.
package sqlstore
