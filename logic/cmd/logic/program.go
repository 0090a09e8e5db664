package main

import (
	"context"
	"errors"
	"flag"

	"github.com/starling-im/starling/common/limits"
	"github.com/starling-im/starling/internal/backend"
	"github.com/starling-im/starling/internal/process"
	"github.com/starling-im/starling/logic"
)

// program is the tier with what it needs.
type program struct {
	cfg     logic.Config
	limits  limits.Config
	backend backend.Config
	auth    process.Auth
}

// RegisterFlags defines the settings.
func (p *program) RegisterFlags(fs *flag.FlagSet) {
	p.cfg.RegisterFlags(fs, "logic.")
	p.limits.RegisterFlags(fs, limits.Prefix)
	p.backend.RegisterFlags(fs)
	p.auth.RegisterFlags(fs, "auth.")
}

// Validate names every setting that cannot work.
func (p *program) Validate() error {
	return errors.Join(p.cfg.Validate(), p.limits.Validate(), p.backend.Validate(), p.auth.Validate())
}

// Build connects and registers the tier.
func (p *program) Build(ctx context.Context, env *process.Env) error {
	keys, err := p.auth.Keyring()
	if err != nil {
		return err
	}
	b, err := backend.Open(ctx, p.backend, env)
	if err != nil {
		return err
	}
	err = logic.Register(env.Manager, p.cfg, logic.Deps{
		Log: env.Log, Metrics: env.Metrics, Gatherer: env.Metrics, Registry: b.Registry,
		Store: b.Store, Producer: b.Producer, Tokens: keys, Verifier: keys.Verifier(), Limits: p.limits,
		After: backend.Needs(),
	})
	if err != nil {
		return err
	}
	env.Target("logic")
	return nil
}
