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
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/store"
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
}

// RegisterFlags defines the settings with their defaults.
func (c *Config) RegisterFlags(fs *flag.FlagSet) {
	c.Redis.RegisterFlags(fs, "redis.")
	c.Kafka.RegisterFlags(fs, "kafka.")
	c.MySQL.RegisterFlags(fs, "mysql.")
}

// Validate names every setting that cannot work.
func (c *Config) Validate() error {
	return errors.Join(c.Redis.Validate(), c.Kafka.Validate(), c.MySQL.Validate())
}

// Backend is the open services.
type Backend struct {
	Registry    registry.Registry
	Store       store.Store
	Producer    mq.Producer
	NewConsumer func(group string, topics []string) (mq.Consumer, error)
}

// Open makes the clients and contacts nobody: the modules of Needs wait for the
// services, and whoever uses them has to start after those.
func Open(ctx context.Context, cfg Config, env *process.Env) (*Backend, error) {
	reg, err := env.Registry(cfg.Redis)
	if err != nil {
		return nil, err
	}
	st, err := sqlstore.New(cfg.MySQL, env.Metrics)
	if err != nil {
		return nil, fmt.Errorf("open the store: %w", err)
	}
	env.Manager.Register(ModuleMySQL, app.Module{Stop: func(context.Context) error { return st.Close() }})
	env.Target(ModuleMySQL)
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
	cfg.await(env, st)
	return &Backend{
		Registry: reg, Store: st, Producer: producer,
		NewConsumer: func(group string, topics []string) (mq.Consumer, error) {
			return mq.NewConsumer(cfg.Kafka, group, topics, env.Log.Named("kafka"), env.Metrics)
		},
	}, nil
}

// Needs names the modules that whoever uses a Backend starts after.
func Needs() []string { return []string{process.ModuleRedis, moduleMySQLCheck, moduleKafkaCheck} }

// await registers the modules that wait for MySQL and Kafka and check them.
func (c *Config) await(env *process.Env, st *sqlstore.Store) {
	topics := c.Kafka.Topics()
	layout := map[string]int32{}
	for _, t := range topics {
		layout[t.Name] = int32(t.Partitions)
	}
	mysql := newAwait(ModuleMySQL, env.Log, func(ctx context.Context) error {
		if err := st.Check(ctx); err != nil {
			return fmt.Errorf("check the store: %w", err)
		}
		if err := st.CheckLayout(ctx, layout); err != nil {
			return fmt.Errorf("kafka.partitions: compare with what the store was made with: %w", err)
		}
		return nil
	}, func(err error) bool { return errors.Is(err, sqlstore.ErrRefused) || errors.Is(err, store.ErrLayout) })
	kafka := newAwait(ModuleKafka, env.Log, func(ctx context.Context) error {
		return mq.CheckTopics(ctx, c.Kafka, topics)
	}, func(err error) bool { return errors.Is(err, mq.ErrRefused) })
	// Both after the clients, so that these are closed whatever comes of it.
	env.Manager.Register(moduleMySQLCheck, mysql.module(), ModuleMySQL, ModuleKafka)
	env.Manager.Register(moduleKafkaCheck, kafka.module(), ModuleMySQL, ModuleKafka)
}
