// Package machine is the partition machine: it turns the records of the
// partitions that this job owns into rows, verdicts and effects.
//
// A Machine is deterministic: its only inputs are the records and the rows as
// of their offsets. It knows no clock and no network but the store: what a
// setting decides stands in the record, and time is the record's. Each Turn is
// one transaction over all partitions, guarded by their epoch and applied
// offset; the effects it returns are to be done after it, in order.
//
//	Claim ──► owned ──Turn──► committed: effects of each record, caches merged
//	            ▲      │ ├──► fenced: the partition is released, the rest goes on
//	            │      │ ├──► a record cannot be applied: halved down to it, set aside
//	            └──────┘ └──► any other error: caches forgotten, the same entries again
//
// Entries at or below the applied offset are redone: the verdict is looked up
// and only the effects are built again, with the same seqs.
//
// A Machine belongs to one goroutine. Its memory is bounded by
// Config.MaxCachedConversations and Config.MaxCachedOutcomes; of a large group
// it never loads all members.
package machine
