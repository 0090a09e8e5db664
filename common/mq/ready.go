package mq

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/record"
)

const (
	probeTimeout = time.Second      // of a question to any broker
	probeEvery   = time.Second      // an answer counts for so long
	refusedFor   = 15 * time.Second // the brokers refuse us: said again with every attempt to connect
)

// refused is when the brokers refused this client last, and why.
type refused struct {
	at  time.Time
	err error
}

// meet takes an error of the client that belongs to no record.
func (p *producer) meet(e kafka.Error) {
	if err := p.cfg.refusal(e); err != nil {
		if was := p.refused.Swap(&refused{time.Now(), err}); was == nil || time.Since(was.at) > refusedFor {
			p.log.Error("kafka refuses the producer", zap.Error(err))
		}
		return
	}
	p.log.Debug("kafka producer", zap.Error(e))
}

// Ready implements Producer. A broker is asked, at most once a second, within
// a second; where it is slow to answer, a recent acknowledgement is proof too.
func (p *producer) Ready() error {
	if err := p.absence(); err != nil {
		return err
	}
	p.probe.Lock()
	defer p.probe.Unlock()
	if time.Since(p.probed) >= probeEvery {
		p.probeEr = p.ask()
		p.probed = time.Now()
	}
	if err := p.absence(); err != nil { // closed meanwhile
		return err
	}
	if p.probeEr != nil {
		return p.probeEr
	}
	return p.unanswered()
}

// unanswered names partitions whose last record was not acknowledged: brokers
// that have lost the others still tell how all was well. It is forgotten after
// a while, so that who sends nothing while not ready gets another try.
func (p *producer) unanswered() error {
	p.flight.Lock()
	defer p.flight.Unlock()
	var ids []record.PartitionID
	for id, at := range p.failing {
		if time.Since(at) < 2*p.cfg.MessageTimeout {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	slices.SortFunc(ids, func(a, b record.PartitionID) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Number, b.Number))
	})
	return fmt.Errorf("partitions %v did not take the last record: %w", ids, ErrUnavailable)
}

// absence is why there is no client.
func (p *producer) absence() error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.why
}

// ask reads the metadata of the topics that messages go to.
func (p *producer) ask() error {
	end := time.Now().Add(probeTimeout)
	for _, topic := range []string{record.TopicMessages, record.TopicGroups} {
		if err := p.askTopic(topic, time.Until(end)); err != nil {
			return err
		}
	}
	return nil
}

func (p *producer) askTopic(topic string, within time.Duration) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.cur == nil {
		return p.why
	}
	md, err := p.cur.GetMetadata(&topic, false, max(1, int(within.Milliseconds())))
	switch r := p.refused.Load(); {
	case err == nil:
	case r != nil && time.Since(r.at) < refusedFor:
		return r.err
	case time.Since(time.Unix(0, p.lastOK.Load())) < probeEvery:
		return nil
	default:
		return fmt.Errorf("ask kafka for topic %s: %w", topic, p.cfg.explain(err))
	}
	t := md.Topics[topic]
	if t.Error.Code() != kafka.ErrNoError {
		return fmt.Errorf("topic %s: %w", topic, p.cfg.explain(t.Error))
	}
	if len(t.Partitions) != p.cfg.Partitions {
		return partitionError(topic, len(t.Partitions), p.cfg.Partitions)
	}
	return p.cfg.writable(topic, t.Partitions)
}

// writable says whether each partition takes records: with acks=all and too
// few replicas in sync the leader refuses them.
func (c *Config) writable(topic string, ps []kafka.PartitionMetadata) error {
	replicas, inSync := c.replicas()
	var leaderless, behind []int32
	for _, p := range ps {
		switch {
		case len(p.Replicas) < replicas:
			return replicaError(topic, len(p.Replicas), replicas)
		case p.Leader < 0:
			leaderless = append(leaderless, p.ID)
		case len(p.Isrs) < inSync:
			behind = append(behind, p.ID)
		}
	}
	switch {
	case len(leaderless) > 0:
		return fmt.Errorf("topic %s: partitions %v have no leader: %w", topic, leaderless, ErrUnavailable)
	case len(behind) > 0:
		return fmt.Errorf("topic %s: partitions %v have fewer than %d replicas in sync: %w", topic, behind, inSync, ErrUnavailable)
	}
	return nil
}
