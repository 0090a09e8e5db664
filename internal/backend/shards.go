package backend

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.yaml.in/yaml/v3"

	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/store/shards"
	"github.com/starling-im/starling/common/store/sqlstore"
	"github.com/starling-im/starling/internal/process"
)

// shardEntry is one element of the list in mysql.shards.
type shardEntry struct {
	Name       string            `yaml:"name"`
	DSN        string            `yaml:"dsn"`     // @FILE reads it from a file
	Replica    string            `yaml:"replica"` // as DSN; "": none
	Partitions map[string]string `yaml:"partitions"`
}

// Shard is the settings of one shard.
type Shard struct {
	Name  string
	Holds shards.Partitions // nil: all
	MySQL sqlstore.Config
}

// ShardList returns the shards that the settings name: those of mysql.shards, or
// mysql.dsn as the only one. It names all that is wrong with them.
func (c *Config) ShardList() ([]Shard, error) {
	if c.Shards == "" {
		return []Shard{{Name: shards.DefaultName, MySQL: c.MySQL}}, c.MySQL.Validate()
	}
	if c.MySQL.DSN.Reveal() != "" {
		return nil, errors.New("mysql.shards: mysql.dsn is set too; take one of them away")
	}
	if c.MySQL.ReplicaDSN.Reveal() != "" {
		return nil, errors.New("mysql.shards: mysql.replica-dsn is set too; give each shard of the list its replica")
	}
	list, err := c.readShards()
	if err != nil {
		return nil, fmt.Errorf("mysql.shards: %s: %w", c.Shards, err)
	}
	return list, nil
}

func (c *Config) readShards() ([]Shard, error) {
	b, err := os.ReadFile(c.Shards)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what was tried
	}
	var entries []shardEntry
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(&entries); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w; write a list of {name, dsn, partitions}", err)
	}
	if len(entries) == 0 {
		return nil, errors.New("no shard is listed; write a list of {name, dsn, partitions}")
	}
	var errs []error
	list := make([]Shard, len(entries))
	places := make(map[string]string)
	for i := range entries {
		e := &entries[i]
		what := fmt.Sprintf("shard %s: ", cmp.Or(e.Name, fmt.Sprintf("number %d", i+1)))
		list[i], err = e.shard(c.MySQL)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s%w", what, err))
			continue
		}
		errs = append(errs, list[i].MySQL.ValidateKeys(what))
		dsn := list[i].MySQL.DSN.Reveal()
		if other, ok := places[dsn]; ok && dsn != "" {
			errs = append(errs, fmt.Errorf("%sits dsn is that of shard %s; give it a database of its own", what, other))
		}
		places[dsn] = e.Name
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return list, shards.CheckMap(mapOf(list), c.counts()) //nolint:wrapcheck // names what is wrong
}

// shard returns the settings of one entry, over those of all.
func (e *shardEntry) shard(all sqlstore.Config) (Shard, error) {
	s := Shard{Name: e.Name, Holds: make(shards.Partitions), MySQL: all}
	var replica config.Secret
	errs := []error{keyed("dsn", s.MySQL.DSN.Set(e.DSN)), keyed("replica", replica.Set(e.Replica))}
	s.MySQL.ReplicaDSN = replica
	for topic, numbers := range e.Partitions {
		var err error
		s.Holds[topic], err = shards.ParseNumbers(numbers)
		errs = append(errs, keyed("partitions: "+topic, err))
	}
	return s, errors.Join(errs...)
}

func keyed(key string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", key, err)
}

// counts is how many partitions the topics have that are divided among shards.
func (c *Config) counts() map[string]int32 {
	out := make(map[string]int32)
	for _, topic := range shards.Topics() {
		out[topic] = int32(c.Kafka.Partitions)
	}
	return out
}

func mapOf(list []Shard) []shards.Shard {
	out := make([]shards.Shard, len(list))
	for i := range list {
		out[i] = shards.Shard{Name: list[i].Name, Holds: list[i].Holds}
	}
	return out
}

// checkTime is what a shard gets to answer at the start of a process.
const checkTime = 10 * time.Second

// openShards makes the stores of all shards and checks them. One that does not
// answer is no reason not to begin, where there are others: whoever uses it asks
// Check first. What was opened is closed after an error.
func openShards(ctx context.Context, cfg *Config, env *process.Env, layout map[string]int32) (_ []shards.Shard, err error) {
	settings, err := cfg.ShardList()
	if err != nil {
		return nil, err
	}
	list := mapOf(settings)
	defer func() {
		if err != nil {
			err = errors.Join(err, closeShards(list))
		}
	}()
	for i := range settings {
		reg := prometheus.Registerer(env.Metrics)
		if len(settings) > 1 {
			reg = prometheus.WrapRegistererWith(prometheus.Labels{"shard": list[i].Name}, reg)
		}
		st, err := sqlstore.New(settings[i].MySQL, reg)
		if err != nil {
			return nil, fmt.Errorf("open the store: shard %s: %w", list[i].Name, err)
		}
		list[i].Store = st
		list[i].Check = shards.Once(func(ctx context.Context) error {
			if err := st.Check(ctx); err != nil {
				return err //nolint:wrapcheck // says what was tried
			}
			return shards.CheckLayout(ctx, list, i, layout) //nolint:wrapcheck // says what was tried
		})
	}
	return list, checkShards(ctx, env.Log, list)
}

// checkShards checks all at once. It fails for what a person has to put right,
// and if no shard answers.
func checkShards(ctx context.Context, log *zap.Logger, list []shards.Shard) error {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	for i := range list {
		wg.Go(func() { errs[i] = keyed("shard "+list[i].Name, list[i].Check(ctx)) })
	}
	wg.Wait()
	if !slices.Contains(errs, nil) || slices.ContainsFunc(errs, refused) {
		return fmt.Errorf("check the store: %w", errors.Join(errs...))
	}
	for _, err := range errs {
		if err != nil {
			log.Error("beginning without a shard: what it holds waits", zap.Error(err))
		}
	}
	return nil
}

// refused says whether no waiting cures an error.
func refused(err error) bool {
	for _, target := range []error{sqlstore.ErrRefused, sqlstore.ErrSchemaOld, sqlstore.ErrSchemaNew, store.ErrLayout} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

func closeShards(list []shards.Shard) error {
	var errs []error
	for i := range list {
		if list[i].Store != nil {
			errs = append(errs, list[i].Store.Close())
		}
	}
	return errors.Join(errs...)
}
