package consume

import (
	"encoding/json"
	"errors"

	"go.uber.org/zap"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/job/internal/machine"
)

var errNoTopic = errors.New("topic " + mq.TopicDeadLetter + " does not exist")

// DeadLetter is the JSON of an entry of im_dead_letter: the record as it was
// and where it stands in the log.
type DeadLetter struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	TS        int64  `json:"ts"`
	Error     string `json:"error"`
	Value     []byte `json:"value"`
}

// setAside produces a record to the dead-letter topic. It still stands in its
// own topic, and the verdict is stored: a failure here is only logged.
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
	b, err := json.Marshal(DeadLetter{
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
		}
	}); err != nil {
		note(err)
	}
}
