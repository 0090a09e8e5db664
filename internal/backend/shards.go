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
	"go.yaml.in/yaml/v3"

	"github.com/starling-im/starling/common/obs"
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
	errs := []error{keyed("dsn", s.MySQL.DSN.Set(e.DSN)), keyed("replica", s.MySQL.ReplicaDSN.Set(e.Replica))}
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

// openShards makes the stores and contacts none; Check of each says later
// whether its database is there and made for what it is to hold.
func openShards(cfg *Config, env *process.Env) (_ []shards.Shard, err error) {
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
	layout := cfg.layout()
	for i := range settings {
		reg := prometheus.Registerer(env.Metrics)
		if len(settings) > 1 {
			reg = prometheus.WrapRegistererWith(prometheus.Labels{"shard": settings[i].Name}, reg)
		}
		st, err := sqlstore.New(settings[i].MySQL, reg)
		if err != nil {
			return nil, fmt.Errorf("open the store: shard %s: %w", settings[i].Name, err)
		}
		list[i].Store = st
		env.Clock(obs.Clock{Name: clockName(settings, i), Offset: st.Clock})
		list[i].Check = shards.Once(func(ctx context.Context) error {
			if err := st.Check(ctx); err != nil {
				return fmt.Errorf("check the store: shard %s: %w", settings[i].Name, err)
			}
			if err := shards.CheckLayout(ctx, list, i, layout); err != nil {
				return fmt.Errorf("kafka.partitions, mysql.shards: compare with what the store was made with: %w", err)
			}
			return nil
		})
	}
	return list, nil
}

// missing is the shards whose database has not been seen yet. A process starts
// with the first that is there: the others' outage is not that one's.
type missing struct {
	shards []shards.Shard
	done   []bool
}

func newMissing(list []shards.Shard) *missing { return &missing{list, make([]bool, len(list))} }

// some returns nil once a shard is there and none is refused.
func (m *missing) some(ctx context.Context) error {
	err := m.all(ctx)
	if refused(err) || !slices.Contains(m.done, true) {
		return err
	}
	return nil
}

// all returns nil once every shard was there.
func (m *missing) all(ctx context.Context) error {
	errs := make([]error, len(m.shards))
	var wg sync.WaitGroup
	for i := range m.shards {
		if !m.done[i] {
			wg.Go(func() {
				errs[i] = m.shards[i].Check(ctx)
				m.done[i] = errs[i] == nil
			})
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

// rest waits for the shards that were not there at the start; one that is
// refused then ends the process.
func (m *missing) rest(ctx context.Context) error {
	t := time.NewTicker(awaitPause)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if !slices.Contains(m.done, false) {
			<-ctx.Done()
			return nil
		}
		if err := m.all(ctx); refused(err) && ctx.Err() == nil {
			return err
		}
	}
}

// clockName names a shard's server in the clocks that are compared.
func clockName(settings []Shard, i int) string {
	if len(settings) == 1 {
		return "mysql"
	}
	return "mysql/" + settings[i].Name
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
