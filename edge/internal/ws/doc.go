// Package ws is RFC 6455 without sockets: the parser of a client's frames, the
// encoder of a server's, and the HTTP/1.1 upgrade. It neither blocks nor keeps
// what it is fed: the listener hands it whatever has arrived, in any pieces.
//
// A Parser belongs to one goroutine at a time. Encoders are pure functions.
// Not offered: extensions (permessage-deflate is never negotiated), HTTP bodies,
// pipelined requests before the upgrade.
package ws
