package mq_test

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kadm"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
)

// TestTopicMadeAgain: a topic that is deleted and made again under a running
// consumer, and is longer than it was at once, is offered to the owner anew.
func TestTopicMadeAgain(t *testing.T) { onBrokers(t, topicMadeAgain) }

func topicMadeAgain(b *broker) {
	t := b.t
	p := newProducer(t, b.config())
	produce(t, p, b.part(0), numbers("old ", 0, 10)...)
	o := &owner{}
	join(t, b, b.config(), o)
	eventually(t, "read", func() bool { return o.ledger.count() == 10 })
	old := o.seen()[0].TopicID
	if _, err := admin(t, b.addr).DeleteTopic(t.Context(), b.topic); err != nil {
		t.Fatal(err)
	}
	o.ledger.forget(b.part(0))
	eventually(t, "made again", func() bool {
		_, err := mq.CreateTopics(t.Context(), b.config(), []mq.TopicSpec{b.spec()})
		return err == nil
	})
	fresh := newProducer(t, b.config()) // the other still knows the old topic
	eventually(t, "written", func() bool { return produce(t, fresh, b.part(0), "new")[0].Err == nil })
	produce(t, fresh, b.part(0), numbers("new ", 0, 30)...)
	eventually(t, "offered anew", func() bool {
		last := map[record.PartitionID]string{} // also of those with nothing to read
		for _, a := range o.seen() {
			last[a.PartitionID] = a.TopicID
		}
		for _, id := range last {
			if id == old {
				return false
			}
		}
		return o.count() == 4
	})
	eventually(t, "read anew", func() bool {
		vs := o.ledger.values(b.part(0))
		return len(vs) > 0 && vs[len(vs)-1] == "new 00029"
	})
}

// TestTruncated: the log's start moves beyond what a member reads next; the
// owner is asked anew, told where the log begins, and may leave it out.
func TestTruncated(t *testing.T) { onBrokers(t, truncated) }

func truncated(b *broker) {
	t := b.t
	p := newProducer(t, b.config())
	produce(t, p, b.part(0), numbers("", 0, 100)...)
	produce(t, p, b.part(1), "a")
	c := b.config()
	c.BatchMessages = 1
	o := &owner{commit: true}
	leave := join(t, b, c, o)
	eventually(t, "read", func() bool { return o.ledger.count() == 101 })
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	off := kadm.Offsets{}
	off.Add(kadm.Offset{Topic: b.topic, Partition: 0, At: 50, LeaderEpoch: -1})
	if _, err := admin(t, b.addr).DeleteRecords(t.Context(), off); err != nil {
		t.Fatal(err)
	}
	// This one starts where the log no longer is, as if it had been cut just then.
	late := &owner{first: map[record.PartitionID]int64{b.part(0): 20}, decline: map[record.PartitionID]bool{}}
	leave = join(t, b, c, late)
	eventually(t, "asked anew", func() bool { return len(late.seen()) == 5 })
	if a := late.seen()[4]; a.Number != 0 || a.Low != 50 || a.High != 100 {
		t.Errorf("offered %+v", a)
	}
	eventually(t, "read from what is left", func() bool { return len(late.ledger.values(b.part(0))) == 50 })
	if err := leave(); err != nil {
		t.Fatal(err)
	}
	// And this one leaves it out then, and reads the others.
	stopped := &owner{first: map[record.PartitionID]int64{b.part(0): 20}, declineAnew: true}
	join(t, b, c, stopped)
	eventually(t, "asked anew", func() bool { return len(stopped.seen()) == 5 })
	produce(t, p, b.part(0), "unread")
	produce(t, p, b.part(1), "b")
	eventually(t, "the other is read", func() bool { return len(stopped.ledger.values(b.part(1))) == 2 })
	if n := len(stopped.ledger.values(b.part(0))); n > 0 || stopped.count() != 3 {
		t.Errorf("%d records of the declined partition, %d owned", n, stopped.count())
	}
}
