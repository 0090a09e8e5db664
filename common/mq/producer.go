package mq

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/record"
)

// ErrFull is returned by Produce while QueueMessages records are unanswered.
var ErrFull = fmt.Errorf("producer queue is full: %w", ErrUnavailable)

var (
	errClosed   = fmt.Errorf("producer is closed: %w", ErrUnavailable)
	errRecreate = fmt.Errorf("producer is being made anew: %w", ErrUnavailable)
)

const (
	recreatePause = time.Second // between two attempts
)

// pending is one record between Produce and its answer.
type pending struct {
	done  func(Delivery)
	id    record.PartitionID
	ts    int64
	at    time.Time
	value []byte
}

// producer is one librdkafka client at a time and the goroutine that answers.
// Lock order: mu alone; done is called without it.
type producer struct {
	cfg Config
	log *zap.Logger
	m   *producerMetrics

	mu  sync.RWMutex // held for reading while producing: cur is not replaced under a call
	cur *client
	why error // why cur is nil

	flight  sync.Mutex
	pending map[*pending]struct{}
	idle    chan struct{} // closed and replaced when pending empties

	lastOK  atomic.Int64 // unix ns of the last acknowledgement
	refused atomic.Pointer[refused]
	failing map[record.PartitionID]time.Time // guarded by flight: last answer was an error, and when
	probe   sync.Mutex                       // one probe at a time
	probed  time.Time
	probeEr error

	cancel context.CancelFunc
	work   sync.WaitGroup
}

// NewProducer makes the client. It does not need a broker to answer: Ready
// tells. ctx only gives values; Close ends the producer.
func NewProducer(ctx context.Context, cfg Config, log *zap.Logger, reg prometheus.Registerer) (Producer, error) {
	return newProducer(ctx, cfg, log, reg)
}

func newProducer(ctx context.Context, cfg Config, log *zap.Logger, reg prometheus.Registerer) (*producer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	p := &producer{
		cfg: cfg, log: log, m: newProducerMetrics(reg),
		pending: map[*pending]struct{}{}, idle: make(chan struct{}), failing: map[record.PartitionID]time.Time{},
	}
	p.m.capacity.Set(float64(cfg.QueueMessages))
	c, err := p.open()
	if err != nil {
		return nil, err
	}
	p.cur = c
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p.cancel = cancel
	p.work.Go(func() { p.run(run, c) })
	return p, nil
}

func (p *producer) open() (*client, error) {
	m := p.cfg.base()
	maps.Copy(m, kafka.ConfigMap{
		"acks":                         "all",
		"enable.idempotence":           true,
		"message.max.bytes":            maxBatch,
		"message.timeout.ms":           int(p.cfg.MessageTimeout.Milliseconds()),
		"request.timeout.ms":           int(p.cfg.MessageTimeout.Milliseconds()),
		"socket.timeout.ms":            int(p.cfg.MessageTimeout.Milliseconds()),
		"linger.ms":                    strconv.FormatFloat(float64(p.cfg.Linger)/float64(time.Millisecond), 'f', -1, 64),
		"compression.type":             "lz4",
		"queue.buffering.max.messages": p.cfg.QueueMessages,
		"queue.buffering.max.kbytes":   256 << 10, // 2.6 KB for each of the default number of records; beyond it is ErrFull too
		"retry.backoff.ms":             20,
		"go.delivery.reports":          true,
		"go.delivery.report.fields":    "none",
		"go.events.channel.size":       10_000,
		"go.produce.channel.size":      1,
	})
	c, err := kafka.NewProducer(&m)
	if err != nil {
		return nil, fmt.Errorf("make kafka producer for %v: %w", []string(p.cfg.Brokers), err)
	}
	return &client{Producer: c}, nil
}

// Produce implements Producer.
func (p *producer) Produce(id record.PartitionID, ts int64, value []byte, done func(Delivery)) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.cur == nil {
		p.m.rejected.WithLabelValues("recreating").Inc()
		return p.why
	}
	e := &pending{done: done, id: id, ts: ts, at: time.Now(), value: value}
	if !p.enter(e) {
		p.m.rejected.WithLabelValues("full").Inc()
		return ErrFull
	}
	err := p.cur.put(e)
	if err == nil {
		return nil
	}
	p.leave(e)
	return p.rejection(id, err)
}

func (p *producer) rejection(id record.PartitionID, err error) error {
	var ke kafka.Error
	switch {
	case errors.As(err, &ke) && ke.Code() == kafka.ErrQueueFull:
		p.m.rejected.WithLabelValues("full").Inc()
		return ErrFull
	case errors.As(err, &ke) && (ke.Code() == kafka.ErrMsgSizeTooLarge || ke.Code() == kafka.ErrInvalidArg):
		p.m.rejected.WithLabelValues("invalid").Inc()
		return fmt.Errorf("produce to %v: %w", id, err)
	}
	p.m.rejected.WithLabelValues("error").Inc()
	return fmt.Errorf("produce to %v: %w: %w", id, ErrUnavailable, err)
}

// enter counts a record in, unless the queue is full.
func (p *producer) enter(e *pending) bool {
	p.flight.Lock()
	defer p.flight.Unlock()
	if len(p.pending) >= p.cfg.QueueMessages {
		return false
	}
	p.pending[e] = struct{}{}
	p.m.queued.Set(float64(len(p.pending)))
	return true
}

// leave counts a record out; false if it was answered before.
func (p *producer) leave(e *pending) bool {
	p.flight.Lock()
	defer p.flight.Unlock()
	if _, ok := p.pending[e]; !ok {
		return false
	}
	delete(p.pending, e)
	p.m.queued.Set(float64(len(p.pending)))
	if len(p.pending) == 0 {
		close(p.idle)
		p.idle = make(chan struct{})
	}
	return true
}

// run answers deliveries and replaces a client that met a fatal error.
func (p *producer) run(ctx context.Context, c *client) {
	for {
		fatal := p.answer(ctx, c)
		p.retire(c, fatal)
		if fatal == nil {
			return
		}
		p.m.recreated.Inc()
		p.log.Error("kafka producer met a fatal error and is made anew", zap.Error(fatal))
		if c = p.reopen(ctx); c == nil {
			return
		}
	}
}

// answer calls done for deliveries until ctx ends (nil) or a fatal error.
func (p *producer) answer(ctx context.Context, c *client) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev := <-c.Events():
			switch ev := ev.(type) {
			case *kafka.Message:
				p.deliver(ev)
				p.advance(c, ev)
			case kafka.Error:
				if ev.IsFatal() {
					return ev
				}
				p.meet(ev)
			}
		}
	}
}

func (p *producer) deliver(m *kafka.Message) {
	e, ok := m.Opaque.(*pending)
	if !ok || !p.leave(e) {
		return
	}
	if err := m.TopicPartition.Error; err != nil {
		p.m.deliveries.WithLabelValues(e.id.Topic, "error").Inc()
		p.flight.Lock()
		p.failing[e.id] = time.Now()
		p.flight.Unlock()
		e.done(Delivery{Err: fmt.Errorf("%w: %w", ErrUnavailable, err)})
		return
	}
	now := time.Now()
	p.flight.Lock()
	delete(p.failing, e.id)
	p.flight.Unlock()
	p.lastOK.Store(now.UnixNano())
	p.m.seconds.Observe(now.Sub(e.at).Seconds())
	p.m.deliveries.WithLabelValues(e.id.Topic, "ok").Inc()
	e.done(Delivery{Offset: int64(m.TopicPartition.Offset), TS: e.ts})
}

// advance lets what waited behind a record go on.
func (p *producer) advance(c *client, m *kafka.Message) {
	e, ok := m.Opaque.(*pending)
	if !ok {
		return
	}
	for _, r := range c.next(e.id, m.TopicPartition.Error) {
		if p.leave(r.e) {
			p.m.deliveries.WithLabelValues(r.e.id.Topic, "error").Inc()
			r.e.done(Delivery{Err: fmt.Errorf("%w: %w", ErrUnavailable, r.err)})
		}
	}
}

// retire takes the client out of use, closes it and answers what is still
// pending. New calls to Produce are refused meanwhile, so nothing of the next
// client can overtake.
func (p *producer) retire(c *client, fatal error) {
	p.mu.Lock()
	p.cur, p.why = nil, errRecreate
	if fatal == nil {
		p.why = errClosed
	}
	p.mu.Unlock()
	if err := c.Purge(kafka.PurgeInFlight | kafka.PurgeQueue | kafka.PurgeNonBlocking); err != nil {
		p.log.Debug("purge kafka producer", zap.Error(err))
	}
	c.Close()
	for ev := range c.Events() { // closed by Close
		if m, ok := ev.(*kafka.Message); ok {
			p.deliver(m)
		}
	}
	p.flight.Lock()
	left := make([]*pending, 0, len(p.pending))
	for e := range p.pending {
		left = append(left, e)
	}
	p.flight.Unlock()
	for _, e := range left {
		if p.leave(e) {
			p.m.deliveries.WithLabelValues(e.id.Topic, "error").Inc()
			e.done(Delivery{Err: fmt.Errorf("%w: producer ended", ErrUnavailable)})
		}
	}
}

// reopen makes clients until one stands or ctx ends.
func (p *producer) reopen(ctx context.Context) *client {
	for {
		c, err := p.open()
		if err == nil {
			p.mu.Lock()
			p.cur, p.why = c, nil
			p.mu.Unlock()
			return c
		}
		p.log.Error("kafka producer cannot be made anew", zap.Error(err))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(recreatePause):
		}
	}
}

// Partitions implements Producer: the number that CheckTopics has checked.
func (p *producer) Partitions(string) int32 { return int32(p.cfg.Partitions) }

// Flush implements Producer.
func (p *producer) Flush(ctx context.Context) error {
	for {
		p.flight.Lock()
		n, idle := len(p.pending), p.idle
		p.flight.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-idle:
		case <-ctx.Done():
			return fmt.Errorf("flush %d records: %w", n, ctx.Err())
		}
	}
}

// Close answers what is pending with ErrUnavailable: Flush before.
func (p *producer) Close() {
	p.cancel()
	p.work.Wait()
}
