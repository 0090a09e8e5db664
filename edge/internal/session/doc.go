// Package session is one connection of a client, from the upgrade to its end:
//
//	upgraded ──auth──► authenticating ──token good──► connecting ──auth_ok──► open
//	    │                    │                            │                     │
//	    └────────────────────┴───────── Close(reason) ────┴─────────────────────┴──► closing ──► gone
//
// It decodes frames, answers what needs no other tier, passes the rest to a
// logic in order, counts what is in flight, queues what goes out (bounded in
// bytes: beyond it pushes are marked lagged instead) and writes without ever
// blocking. Every way to end is one Reason: log field, metric label and close
// code at once.
//
// Message, Ping, Pong and PeerClose belong to the connection's reader; all else
// may be called from anywhere. A session has no goroutine and no timer: Tick,
// called now and then by the listener, looks at its deadlines.
//
// Lock order: a Session's mutex, then a Peer's. Nothing that takes a roster
// lock is called with a session's mutex held.
package session
