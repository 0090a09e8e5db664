// Package push is the gRPC service that jobs push through: it gives each record's
// frame to the sessions it is for, in order, and answers how far it got.
//
// A frame at or below the position of its partition is dropped (a resent one, or
// a late one of a job that lost the partition). Frames of one partition are
// passed on under one lock, so two jobs' streams cannot mix within it. A batch
// is queued to all sessions first and then flushed once, so that several frames
// for one connection leave in one write; many sessions are flushed by several
// goroutines. Nothing waits for a slow client.
//
// Users without a session are told before the position is; a job that must be
// told of too many is received from later, and what a stream could not tell
// any more goes out on its job's next.
//
// Server is safe for concurrent use.
package push
