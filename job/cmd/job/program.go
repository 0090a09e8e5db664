package main

import (
	"context"
	"errors"
	"flag"

	"github.com/starling-im/starling/internal/backend"
	"github.com/starling-im/starling/internal/process"
	"github.com/starling-im/starling/job"
)

// program is the tier with what it needs.
type program struct {
	cfg     job.Config
	backend backend.Config
}

// RegisterFlags defines the settings.
func (p *program) RegisterFlags(fs *flag.FlagSet) {
	p.cfg.RegisterFlags(fs, "job.")
	p.backend.RegisterFlags(fs)
}

// Validate names every setting that cannot work.
func (p *program) Validate() error {
	return errors.Join(p.cfg.Validate(), p.backend.Validate())
}

// Build connects and registers the tier.
func (p *program) Build(ctx context.Context, env *process.Env) error {
	b, err := backend.Open(ctx, p.backend, env)
	if err != nil {
		return err
	}
	err = job.Register(env.Manager, p.cfg, job.Deps{
		Log: env.Log, Metrics: env.Metrics, Gatherer: env.Metrics, Registry: b.Registry,
		Shards: b.Shards, Producer: b.Producer, NewConsumer: b.NewConsumer, Ends: b.Ends, After: backend.Needs(),
	})
	if err != nil {
		return err
	}
	env.Target("job")
	return nil
}
