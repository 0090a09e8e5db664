// Package backend opens what logic and job have beside Redis: the log and the
// store. It is apart from package process because it brings cgo (librdkafka)
// and the SQL drivers, which the edge must not have.
//
// Open is called once, while a process builds its modules; what it returns is
// safe for concurrent use and is closed by the modules "mysql" and "kafka".
package backend

import (
	"context"
	"errors"
	"flag"
	"fmt"

	"github.com/starling-im/starling/common/app"
	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/store/shards"
	"github.com/starling-im/starling/common/store/sqlstore"
	"github.com/starling-im/starling/internal/process"
)

// Modules that Open registers.
const (
	ModuleMySQL = "mysql"
	ModuleKafka = "kafka"

	moduleMySQLCheck = "mysql.check"
	moduleKafkaCheck = "kafka.check"
)

// Config says where the services are.
type Config struct {
	Redis registry.Config
	Kafka mq.Config
	MySQL sqlstore.Config
	// Shards is a YAML file that lists several databases and what each holds;
	// "": MySQL.DSN holds everything.
	Shards string
}

// RegisterFlags defines the settings with their defaults.
func (c *Config) RegisterFlags(fs *flag.FlagSet) {
	c.Redis.RegisterFlags(fs, "redis.")
	c.Kafka.RegisterFlags(fs, "kafka.")
	c.MySQL.RegisterFlags(fs, "mysql.")
	fs.StringVar(&c.Shards, "mysql.shards", "",
		"YAML `file` that divides the partitions among several databases: a list of {name, dsn, replica, partitions: {im_messages: 0-1, im_group_chat: 0-1}}, where @FILE reads a dsn or replica from a file; instead of mysql.dsn. Fixed once messages stand, order included.")
}

// Validate names every setting that cannot work.
func (c *Config) Validate() error {
	_, err := c.ShardList()
	return errors.Join(c.Redis.Validate(), c.Kafka.Validate(), err)
}

// Backend is the open services.
type Backend struct {
	Registry    registry.Registry
	Shards      []shards.Shard // what jobs work on
	Store       shards.Store   // all of them together, for logic
	Producer    mq.Producer
	NewConsumer func(group string, topics []string) (mq.Consumer, error)
	Ends        func(ctx context.Context, ps []record.PartitionID) (map[record.PartitionID]int64, error)
}

// Open makes the clients and contacts nobody: the modules of Needs wait for the
// services, and whoever uses them has to start after those.
func Open(ctx context.Context, cfg Config, env *process.Env) (*Backend, error) {
	reg, err := env.Registry(cfg.Redis)
	if err != nil {
		return nil, err
	}
	list, err := openShards(&cfg, env)
	if err != nil {
		return nil, err
	}
	env.Manager.Register(ModuleMySQL, app.Module{Stop: func(context.Context) error { return closeShards(list) }})
	env.Target(ModuleMySQL)
	st, err := shards.New(list, cfg.layout())
	if err != nil {
		return nil, fmt.Errorf("divide the partitions among the shards: %w", err)
	}
	env.Blocks()
	producer, err := mq.NewProducer(context.WithoutCancel(ctx), cfg.Kafka, env.Log.Named("kafka"), env.Metrics)
	if err != nil {
		return nil, fmt.Errorf("make the producer: %w", err)
	}
	env.Manager.Register(ModuleKafka, app.Module{Stop: func(ctx context.Context) error {
		err := producer.Flush(ctx)
		producer.Close()
		if err != nil {
			return fmt.Errorf("flush the log: %w", err)
		}
		return nil
	}})
	env.Target(ModuleKafka)
	cfg.await(env, list)
	return &Backend{
		Registry: reg, Shards: list, Store: st, Producer: producer,
		NewConsumer: func(group string, topics []string) (mq.Consumer, error) {
			env.Blocks()
			return mq.NewConsumer(cfg.Kafka, group, topics, env.Log.Named("kafka"), env.Metrics)
		},
		Ends: func(ctx context.Context, ps []record.PartitionID) (map[record.PartitionID]int64, error) {
			return mq.Ends(ctx, cfg.Kafka, ps)
		},
	}, nil
}

// Needs names the modules that whoever uses a Backend starts after.
func Needs() []string {
	return []string{process.ModuleRedis, moduleMySQLCheck, moduleKafkaCheck, process.ModuleClocks}
}

// await registers the modules that wait for MySQL and Kafka and check them.
func (c *Config) await(env *process.Env, list []shards.Shard) {
	missing := newMissing(list)
	mysql := newAwait(ModuleMySQL, env.Log, missing.some, refused)
	kafka := newAwait(ModuleKafka, env.Log, func(ctx context.Context) error {
		return mq.CheckTopics(ctx, c.Kafka, c.Kafka.Topics())
	}, refused)
	m := mysql.module()
	m.Run = missing.rest
	// Both after the clients, so that these are closed whatever comes of it.
	env.Manager.Register(moduleMySQLCheck, m, ModuleMySQL, ModuleKafka)
	env.Manager.Register(moduleKafkaCheck, kafka.module(), ModuleMySQL, ModuleKafka)
}

// refused says that no waiting cures an error.
func refused(err error) bool {
	return errors.Is(err, sqlstore.ErrRefused) || errors.Is(err, mq.ErrRefused) || errors.Is(err, store.ErrLayout)
}

// layout is how many partitions each topic has.
func (c *Config) layout() map[string]int32 {
	layout := map[string]int32{}
	for _, t := range c.Kafka.Topics() {
		layout[t.Name] = int32(t.Partitions)
	}
	return layout
}
