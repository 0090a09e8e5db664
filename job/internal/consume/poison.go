package consume

import (
	"errors"

	"go.uber.org/zap"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/job/internal/machine"
)

var errNoTopic = errors.New("topic " + mq.TopicDeadLetter + " does not exist")

// setAside produces a record to the dead-letter topic. A failure is logged and
// counted, no more: the record still stands in its own topic, the verdict is
// stored, the ledger counts it, and `starling deadletter` reads it from there.
func (s *Shard) setAside(p *machine.Poison) {
	s.m.poison.Inc()
	log := s.d.Log.With(zap.Stringer("partition", p.Entry.PartitionID), zap.Int64("offset", p.Entry.Offset))
	log.Error("record set aside", zap.Error(p.Err))
	note := func(err error) {
		s.m.deadLetterFailures.Inc()
		log.Error("produce to the dead-letter topic", zap.Error(err))
	}
	n := s.d.Producer.Partitions(mq.TopicDeadLetter)
	if n <= 0 {
		note(errNoTopic)
		return
	}
	text := ""
	if p.Err != nil {
		text = p.Err.Error()
	}
	b, err := record.EncodeDeadLetter(&record.DeadLetter{
		Topic: p.Entry.Topic, Partition: p.Entry.Number, Offset: p.Entry.Offset, TS: p.Entry.TS,
		Error: text, Value: p.Entry.Value,
	})
	if err != nil {
		note(err)
		return
	}
	to := record.PartitionID{Topic: mq.TopicDeadLetter, Number: p.Entry.Number % n}
	if err := s.d.Producer.Produce(to, p.Entry.TS, b, func(d mq.Delivery) {
		if d.Err != nil {
			note(d.Err)
			return
		}
		s.m.deadLetters.Inc()
	}); err != nil {
		note(err)
	}
}
