// Package embedded runs what a bare machine lacks, in this process and on
// loopback, with its data in one folder: Kafka (franz-go's kfake, synced
// writes), Redis (miniredis) and the place of SQLite's file. The clients that
// talk to them are the production ones. Only main.go and tests import it.
//
// Kept by a kill -9: every acknowledged record, topics with their ids, and
// committed offsets. Not kept: all of Redis, which is never the truth.
//
// What kfake is and is not, read from its source and met in tests: it writes
// a batch to the segment, syncs it and its index, then answers; a torn tail is
// cut at the next start. Topics are seeded only by the first start of a
// folder, so missing ones are made explicitly here. It stamps no
// LogAppendTime: a record keeps its producer's time. Its own retention deletes
// whole segments, and a partition emptied so starts again at offset 0 after a
// kill -9; therefore it is switched off and a timer here deletes records by
// time but always keeps a partition's last. The log's start is kept only by a
// clean stop, so after a kill the low watermark may be lower than before.
// Producer sequences are kept only by a clean stop: a producer must not
// outlive a killed broker (here both are one process). All requests run on one
// goroutine: 2 fsyncs a batch is its speed. Group sessions below 6 s are
// refused.
//
// Services is safe for concurrent use; Start and Stop are called once each.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/record"
)

// TopicDeadLetter takes records that the machine set aside.
const TopicDeadLetter = "im_dead_letter"

const (
	defaultPartitions = 4
	defaultRetention  = 8 * 24 * time.Hour
	retentionEvery    = 10 * time.Minute
	redisTick         = 100 * time.Millisecond
)

// Config says where the services keep their data and listen. Only Dir must be
// set.
type Config struct {
	Dir        string
	KafkaAddr  string        // default 127.0.0.1:0
	RedisAddr  string        // default 127.0.0.1:0
	Partitions int32         // per topic; default 4; fixed by the first start of a folder
	Retention  time.Duration // of records; default 8 days
	Log        *zap.Logger
}

// Topics are the topics of an embedded log.
func Topics() []string {
	return []string{record.TopicMessages, record.TopicGroups, record.TopicPush, record.TopicOffline, TopicDeadLetter}
}

// Services are the running parts.
type Services struct {
	dir       string
	log       *zap.Logger
	lock      *dirLock
	kafka     *kfake.Cluster
	redis     *miniredis.Miniredis
	brokers   []string
	redisAddr string
	cancel    context.CancelFunc
	work      sync.WaitGroup
	once      sync.Once
}

// Start takes the folder, making it where it is missing, and starts the
// services. They run until Stop; ctx bounds the start alone.
func Start(ctx context.Context, cfg Config) (*Services, error) {
	cfg = cfg.withDefaults()
	if cfg.Dir == "" {
		return nil, errors.New("embedded: no data folder: give -data DIR")
	}
	lock, err := takeDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	_ = os.Remove(filepath.Join(cfg.Dir, brokersName)) // of one that was killed
	s := &Services{dir: cfg.Dir, log: cfg.Log, lock: lock}
	if err := s.start(ctx, cfg); err != nil {
		s.release()
		return nil, err
	}
	return s, nil
}

// Join is Start for a command beside the server: where another process runs the
// services of the folder, that one's are returned (running is true), without
// Redis; their Stop leaves them as they are. A folder that is none is not made.
func Join(ctx context.Context, cfg Config) (s *Services, running bool, err error) {
	if _, err := os.Stat(filepath.Join(cfg.Dir, versionName)); err != nil {
		return nil, false, fmt.Errorf("%q is no data folder: give that of the server with -data: %w", cfg.Dir, err)
	}
	s, err = Start(ctx, cfg)
	used, inUse := errors.AsType[*inUseError](err)
	if !inUse {
		return s, false, err
	}
	b, err := os.ReadFile(filepath.Join(cfg.Dir, brokersName))
	if err != nil {
		return nil, true, fmt.Errorf("process %s has the data folder %s, and does not say where its log is; it begins or ends, or is of an older version: try again: %w", used.owner, used.dir, err)
	}
	return &Services{dir: cfg.Dir, brokers: strings.Fields(string(b))}, true, nil
}

func (c Config) withDefaults() Config {
	if c.KafkaAddr == "" {
		c.KafkaAddr = "127.0.0.1:0"
	}
	if c.RedisAddr == "" {
		c.RedisAddr = "127.0.0.1:0"
	}
	if c.Partitions == 0 {
		c.Partitions = defaultPartitions
	}
	if c.Retention == 0 {
		c.Retention = defaultRetention
	}
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	return c
}

func (s *Services) start(ctx context.Context, cfg Config) error {
	if err := s.startKafka(ctx, cfg); err != nil {
		return err
	}
	s.redis = miniredis.NewMiniRedis()
	if err := s.redis.StartAddr(cfg.RedisAddr); err != nil {
		s.redis = nil
		return fmt.Errorf("embedded redis: listen on %s: %w; choose another address", cfg.RedisAddr, err)
	}
	s.redisAddr = s.redis.Addr()
	if err := writeFile(filepath.Join(cfg.Dir, brokersName), strings.Join(s.brokers, "\n")+"\n"); err != nil {
		return fmt.Errorf("write where the embedded kafka is: %w", err)
	}
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	keys := newExpiry(s.redis)
	s.work.Go(func() { keys.run(work) })
	s.work.Go(func() { s.retain(work, cfg.Retention, retentionEvery) })
	s.log.Info("embedded services started", zap.String("data_dir", s.dir),
		zap.Strings("kafka_brokers", s.brokers), zap.String("redis_addr", s.redisAddr))
	return nil
}

func (s *Services) startKafka(ctx context.Context, cfg Config) error {
	cluster, err := kfake.NewCluster(
		kfake.NumBrokers(1),
		kfake.ClusterID("starling-embedded"),
		kfake.ListenFn(func(network, _ string) (net.Listener, error) {
			var lc net.ListenConfig
			return lc.Listen(ctx, network, cfg.KafkaAddr)
		}),
		kfake.DataDir(filepath.Join(cfg.Dir, "kafka")),
		kfake.SyncWrites(),
		kfake.DefaultNumPartitions(int(cfg.Partitions)),
		kfake.SeedTopics(cfg.Partitions, Topics()...),
		kfake.BrokerConfigs(map[string]string{"log.retention.ms": "-1"}),
		kfake.WithLogger(kafkaLog{s.log}),
	)
	if err != nil {
		return fmt.Errorf("embedded kafka: start on %s with %s: %w", cfg.KafkaAddr, filepath.Join(cfg.Dir, "kafka"), err)
	}
	s.kafka = cluster
	s.brokers = cluster.ListenAddrs()
	for _, t := range Topics() {
		if cluster.TopicInfo(t) == nil {
			if err := cluster.CreateTopic(t, cfg.Partitions, nil); err != nil {
				return fmt.Errorf("embedded kafka: create topic %s: %w", t, err)
			}
		}
		if n := len(cluster.PartitionInfos(t)); n != int(cfg.Partitions) {
			return fmt.Errorf("embedded kafka: topic %s in %s has %d partitions, not %d: the number is fixed by the first start; set %d again or use another folder",
				t, cfg.Dir, n, cfg.Partitions, n)
		}
	}
	return nil
}

// KafkaBrokers returns the broker's address, as bootstrap servers.
func (s *Services) KafkaBrokers() []string { return s.brokers }

// RedisAddr returns host:port of Redis.
func (s *Services) RedisAddr() string { return s.redisAddr }

// SQLitePath returns the path for SQLite's file, which need not exist yet.
func (s *Services) SQLitePath() string { return filepath.Join(s.dir, "starling.db") }

// Stop ends the services and gives the folder back, without waiting for
// clients: they should be closed before. A second call does nothing. What it
// waits for is a write of small files, so ctx is not asked.
func (s *Services) Stop(context.Context) error {
	s.once.Do(s.release)
	return nil
}

func (s *Services) release() {
	if s.cancel != nil {
		s.cancel()
	}
	s.work.Wait()
	if s.redis != nil {
		s.redis.Close()
	}
	if s.kafka != nil {
		s.kafka.Close()
	}
	if s.lock != nil {
		_ = os.Remove(filepath.Join(s.dir, brokersName))
		s.lock.release()
	}
}

// kafkaLog hands kfake's warnings and errors to zap; the rest is a line a
// request.
type kafkaLog struct{ log *zap.Logger }

// Logf implements kfake.Logger.
func (l kafkaLog) Logf(level kfake.LogLevel, format string, args ...any) {
	switch level {
	case kfake.LogLevelError, kfake.LogLevelWarn:
		l.log.Warn("embedded kafka", zap.String("event", fmt.Sprintf(format, args...)))
	case kfake.LogLevelNone, kfake.LogLevelInfo, kfake.LogLevelDebug:
	}
}
