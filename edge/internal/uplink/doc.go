// Package uplink carries frames of clients to logics and their answers back.
//
// There is one gRPC stream to each live logic. A connection is pinned to one
// stream, so its frames keep their order; what comes while a send is under way
// leaves as one batch. The queue of a stream is bounded: Send never blocks and
// says ErrPeerFull. When a stream breaks, everything in flight on it is reported
// once (Sink.Broken) and its connections find another logic.
//
// Logics are found by their leases, looked up every half second, unless a fixed
// list is given. A logic whose lease is gone is kept while its stream lives:
// the registry is an index, not the truth.
//
// All methods are safe for concurrent use. Lock order: a session's mutex, then
// a Peer's; Sink is called without any.
package uplink
