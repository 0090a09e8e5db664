// Package announce keeps an edge in the registry: its lease, the routes of its
// sessions and the groups it has members of.
//
// The registry is an index, never the truth. When it cannot be written the edge
// is unlisted: log-ins go on, jobs are told (by a new hello) to push everything
// here, and once the registry is back all is announced anew. A lease that lapsed
// gets a new epoch, an announcing and, because pushes may have passed by,
// lagged to all. Beside that everything is announced slowly all the time, so
// that an index that lost a second heals.
//
// Log-ins and joins of rooms are collected: what comes while one call is under
// way goes out with the next, and so do removals of groups. Removals are queued,
// those of rooms apart from those of groups; when a queue is full they are
// dropped and counted: what stays costs pushes that meet nobody, nothing else,
// until its key expires.
//
// All methods are safe for concurrent use.
package announce
