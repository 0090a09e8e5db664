// Package sim is the seeded simulation of the way of a message: the partition
// machine, delivery and both ends of the push streams as they are in
// production, over a log, a store, an index, edges and clients in memory.
//
// One goroutine takes one step at a time, chosen by one generator: a turn, a
// look-up, a batch on a stream, a step of a log-in, a crash. So every order of
// steps is possible, and a seed brings the same one again. After each schedule
// the promises of docs/protocol.md, section 3, are checked. Known kinds of bugs
// are planted one at a time, to see that each is found.
//
// All of it is test code: go test ./job/internal/sim runs some thousands of
// schedules (STARLING_SIM_SCHEDULES says how many, STARLING_SIM_SEED one alone).
package sim
