// Package server is the composed binary: every tier in one process, or one of
// them, and the commands beside (token, migrate, ledger, deadletter). main.go is thin over it, and
// tests run it in process.
//
// Without an address of Kafka, Redis or MySQL, target all runs them embedded
// with its data in one folder; some but not all of them is an error. Program
// is used once, by one goroutine.
package server

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/starling-im/starling/common/app"
	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/embedded"
	"github.com/starling-im/starling/common/limits"
	"github.com/starling-im/starling/common/store/sqlstore"
	"github.com/starling-im/starling/common/token"
	"github.com/starling-im/starling/edge"
	"github.com/starling-im/starling/internal/backend"
	"github.com/starling-im/starling/internal/process"
	"github.com/starling-im/starling/job"
	"github.com/starling-im/starling/logic"
)

// ModuleEmbedded names the module of the services of the embedded default.
const ModuleEmbedded = "embedded"

// Program is the composed server.
type Program struct {
	target string
	data   string
	list   bool

	auth    process.Auth
	backend backend.Config
	edge    edge.Config
	logic   logic.Config
	job     job.Config
	limits  limits.Config
}

// RegisterFlags defines the settings of all tiers.
func (p *Program) RegisterFlags(fs *flag.FlagSet) {
	fs.StringVar(&p.target, "target", TargetAll, "what to run: all, edge, logic or job")
	fs.StringVar(&p.data, "data", "./data", "data `folder` of the embedded default")
	fs.BoolVar(&p.list, "list-targets", false, "print the targets and exit")
	p.auth.RegisterFlags(fs, "auth.")
	p.backend.RegisterFlags(fs)
	p.edge.RegisterFlags(fs, "edge.")
	p.logic.RegisterFlags(fs, "logic.")
	p.job.RegisterFlags(fs, "job.")
	p.limits.RegisterFlags(fs, limits.Prefix)
}

// ListTargets is what -list-targets prints.
func (p *Program) ListTargets() string {
	if !p.list {
		return ""
	}
	return listTargets()
}

func (p *Program) decide() (plan, error) {
	return decide(p.target, backends{
		kafka: len(p.backend.Kafka.Brokers) > 0, redis: len(p.backend.Redis.Addrs) > 0, mysql: p.backend.MySQL.DSN.Reveal() != "" || p.backend.Shards != "",
	})
}

// Validate names everything that cannot work in what the target runs.
func (p *Program) Validate() error {
	if p.list {
		return nil
	}
	pl, err := p.decide()
	if err != nil {
		return err
	}
	var errs []error
	switch {
	case pl.embedded:
		errs = append(errs, p.validateFolder())
	case pl.need.kafka:
		errs = append(errs, p.backend.Validate())
	default:
		errs = append(errs, p.backend.Redis.Validate())
	}
	if p.auth.JWKS != "" || !pl.embedded && (pl.runs(TargetEdge) || pl.runs(TargetLogic)) {
		errs = append(errs, p.auth.Validate())
	}
	if pl.runs(TargetEdge) || pl.runs(TargetLogic) {
		errs = append(errs, p.limits.Validate())
	}
	for _, t := range []struct {
		tier     string
		validate func() error
	}{{TargetEdge, p.edge.Validate}, {TargetLogic, p.logic.Validate}, {TargetJob, p.job.Validate}} {
		if pl.runs(t.tier) {
			errs = append(errs, t.validate())
		}
	}
	return errors.Join(errs...)
}

// validateFolder checks what the embedded services take of the settings.
func (p *Program) validateFolder() error {
	err := p.withEmbedded([]string{"127.0.0.1:1"}, "127.0.0.1:1", "starling.db").Validate()
	if p.data == "" {
		return errors.Join(errors.New("data: empty; name the folder that keeps the data"), err)
	}
	return err //nolint:wrapcheck // names its keys
}

// embeddedTTL bounds how long the embedded Redis keeps what only saves work: it
// lives in this process, where a thousand messages a second for a day would be
// tens of gigabytes (about 420 bytes a reserved client id).
const embeddedTTL = 10 * time.Minute

// withEmbedded is the backend's settings with the embedded services' addresses.
func (p *Program) withEmbedded(brokers []string, redis, sqlite string) *backend.Config {
	b := p.backend
	b.Kafka.Brokers, b.Kafka.SingleBroker, b.Kafka.Embedded = brokers, true, true
	b.Redis.Addrs = config.Strings{redis}
	b.Redis.ReserveTTL, b.Redis.CacheTTL = min(b.Redis.ReserveTTL, embeddedTTL), min(b.Redis.CacheTTL, embeddedTTL)
	b.MySQL.Driver, b.MySQL.DSN = sqlstore.DriverSQLite, config.NewSecret(sqlite)
	return &b
}

// Build starts the embedded services if they are wanted, opens what the
// target needs and registers its tiers.
func (p *Program) Build(ctx context.Context, env *process.Env) error {
	pl, err := p.decide()
	if err != nil {
		return config.Invalid(err)
	}
	keys, be := (*token.Keyring)(nil), &p.backend
	if pl.embedded {
		if keys, be, err = p.startEmbedded(ctx, env); err != nil {
			return err
		}
	} else if p.auth.JWKS != "" {
		if keys, err = p.keyring(); err != nil {
			return err
		}
	}
	if err := p.register(ctx, env, pl, keys, be); err != nil {
		return err
	}
	env.Target(p.target)
	if pl.embedded {
		env.Manager.Register("banner", p.banner(env))
		env.Target("banner")
	}
	return nil
}

// folder is the data folder as the settings want it.
func (p *Program) folder(log *zap.Logger) embedded.Config {
	return embedded.Config{
		Dir: p.data, Partitions: int32(p.backend.Kafka.Partitions), Retention: p.backend.Kafka.Retention, Log: log,
	}
}

// startEmbedded takes the data folder and returns its keys and the settings
// that lead to its services.
func (p *Program) startEmbedded(ctx context.Context, env *process.Env) (*token.Keyring, *backend.Config, error) {
	services, err := embedded.Start(ctx, p.folder(env.Log.Named("embedded")))
	if err != nil {
		return nil, nil, fmt.Errorf("start the embedded services: %w", err)
	}
	env.Manager.Register(ModuleEmbedded, app.Module{Stop: services.Stop})
	env.Target(ModuleEmbedded)
	be := p.withEmbedded(services.KafkaBrokers(), services.RedisAddr(), services.SQLitePath())
	if err := sqlstore.Migrate(ctx, be.MySQL); err != nil {
		return nil, nil, fmt.Errorf("migrate the store: %w", err)
	}
	keys, err := p.keyring()
	if err != nil {
		return nil, nil, err
	}
	return keys, be, nil
}

// keyring returns the keys of auth.jwks, else the data folder's, made where
// there are none.
func (p *Program) keyring() (*token.Keyring, error) {
	if p.auth.JWKS != "" {
		return p.auth.Keyring() //nolint:wrapcheck // names its key
	}
	keys, err := token.LoadOrCreate(p.data)
	if err != nil {
		return nil, fmt.Errorf("data: %w", err)
	}
	return keys, nil
}

// register adds the tiers of the plan over one set of connections.
func (p *Program) register(ctx context.Context, env *process.Env, pl plan, keys *token.Keyring, be *backend.Config) error {
	b := &backend.Backend{}
	var err error
	if pl.runs(TargetLogic) || pl.runs(TargetJob) {
		b, err = backend.Open(ctx, *be, env)
	} else {
		b.Registry, err = env.Registry(be.Redis)
	}
	if err != nil {
		return err
	}
	if p.target == TargetAll {
		// Before anything that waits: /readyz has to say what for.
		env.Manager.Register("admin", app.Module{}, logic.ModuleAdmin, job.ModuleAdmin, edge.ModuleAdmin)
		env.Target("admin")
	}
	build := map[string]func() error{
		TargetLogic: func() error {
			return logic.Register(env.Manager, p.logic, logic.Deps{
				Log: env.Log, Metrics: env.Metrics, Gatherer: env.Metrics, Registry: b.Registry,
				Store: b.Store, Producer: b.Producer, Tokens: keys, Verifier: keys.Verifier(), Limits: p.limits,
				Embedded: pl.embedded && p.auth.JWKS == "", // nobody is given tokens of a configured key
				After:    backend.Needs(),
			})
		},
		TargetJob: func() error {
			return job.Register(env.Manager, p.job, job.Deps{
				Log: env.Log, Metrics: env.Metrics, Gatherer: env.Metrics, Registry: b.Registry,
				Shards: b.Shards, Producer: b.Producer, NewConsumer: b.NewConsumer, Ends: b.Ends, After: backend.Needs(),
			})
		},
		TargetEdge: func() error {
			return edge.Register(env.Manager, p.edge, edge.Deps{
				Log: env.Log, Metrics: env.Metrics, Gatherer: env.Metrics, Registry: b.Registry, Tokens: keys.Verifier(), Limits: p.limits,
				After: []string{process.ModuleRedis, process.ModuleClocks},
			})
		},
	}
	for _, tier := range tiers { // in the order of their start
		if !slices.Contains(pl.tiers, tier) {
			continue
		}
		if err := build[tier](); err != nil {
			return err
		}
	}
	if p.target == TargetAll {
		env.Manager.Register(TargetAll, app.Module{}, tiers...)
	}
	env.Log.Info("built", zap.String("target", p.target), zap.Bool("embedded", pl.embedded))
	return nil
}
