// Package listen accepts WebSocket connections on netpoll and carries bytes
// between sockets and sessions. It is the only package that imports netpoll.
//
// Reading happens on netpoll's loop: each readiness takes all that has arrived,
// feeds it to the parser (which keeps partial frames) and returns; nothing there
// waits. Writing goes straight to the descriptor: a Conn's mutex is held over
// the system call, and the close callback, which netpoll runs before it closes
// the descriptor, takes the right to write away under the same mutex, so a
// reused number never gets another connection's bytes. Sockets that are full
// are watched by a small one-shot epoll set of our own.
//
// netpoll's own Close is never called: with tasks run inline on the loop it
// would wait for the loop itself. A connection ends by shutdown(2), upon which
// the loop sees the end and closes it.
//
// An idle connection has no goroutine and no timer. One goroutine a shard looks
// at the deadlines of its connections.
//
// Limits: TCP only, no TLS, no permessage-deflate.
package listen
