package mq

import (
	"context"

	"github.com/starling-im/starling/common/record"
)

// Producer writes to the log. Safe for concurrent use; calls to Produce from
// one goroutine for one partition keep their order in the log.
type Producer interface {
	// Produce queues value for a partition and calls done exactly once, from
	// the producer's own goroutine (done must not block). ts is ms of the
	// caller's clock. An error means nothing was queued and done is not called.
	Produce(p record.PartitionID, ts int64, value []byte, done func(Delivery)) error
	// Partitions returns the number of partitions of a topic.
	Partitions(topic string) int32
	// Flush waits until all that was queued is answered.
	Flush(ctx context.Context) error
	// Ready says why the log cannot be written, nil when it can.
	Ready() error
	// Close answers what is unanswered with ErrUnavailable; Flush before it.
	Close()
}

// Assignment is a partition that a consumer got, and where the log stands.
type Assignment struct {
	record.PartitionID
	TopicID   string // changes when the topic was deleted and made again
	Committed int64  // the group's committed offset, -1: none
	Low, High int64  // first offset kept, next offset to be written
}

// Owner is told of partitions. Its methods are never called at the same time,
// and only while Consumer.Run runs; a partition is revoked before it is
// assigned elsewhere, unless it was lost. One whose topic was deleted and made
// again under the consumer (noticed within seconds), or whose next record the
// log does not have any more, is revoked and at once assigned anew, so that
// the owner judges what Assignment says.
type Owner interface {
	// Assigned returns where to start each partition. One that is left out is
	// held for the group, so that no other member gets it, but not read: the
	// owner hears of it no more, also not when it leaves, until it is assigned
	// anew. An error ends the run: then the owner has none of these, and is not
	// told that they leave.
	Assigned(ctx context.Context, as []Assignment) (map[record.PartitionID]int64, error)
	// Revoked: finish nothing more; lost says that another owner may already work.
	Revoked(ps []record.PartitionID, lost bool)
	// Messages hands over what arrived, per partition in order; the slice is
	// the owner's. It may block: that is the back-pressure. A rebalance waits
	// for it, at most five minutes; then the partitions are lost.
	Messages(ctx context.Context, ms []record.Entry) error
}

// Consumer reads the log as a member of a group.
type Consumer interface {
	// Run polls until ctx ends or the owner fails. After its end it may be
	// called again: the member joins the group anew.
	Run(ctx context.Context, o Owner) error
	// Commit stores the next offset to read per partition (asynchronously, each
	// second and when partitions leave; only grows; ignored for partitions not
	// owned). Any goroutine may call it.
	Commit(offsets map[record.PartitionID]int64)
	// Close follows the end of Run.
	Close() error
}
