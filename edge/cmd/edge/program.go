package main

import (
	"context"
	"errors"
	"flag"

	"github.com/starling-im/starling/common/limits"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/edge"
	"github.com/starling-im/starling/internal/process"
)

// program is the tier with what it needs.
type program struct {
	cfg    edge.Config
	limits limits.Config
	redis  registry.Config
	auth   process.Auth
}

// RegisterFlags defines the settings.
func (p *program) RegisterFlags(fs *flag.FlagSet) {
	p.cfg.RegisterFlags(fs, "edge.")
	p.limits.RegisterFlags(fs, limits.Prefix)
	p.redis.RegisterFlags(fs, "redis.")
	p.auth.RegisterFlags(fs, "auth.")
}

// Validate names every setting that cannot work.
func (p *program) Validate() error {
	return errors.Join(p.cfg.Validate(), p.limits.Validate(), p.redis.Validate(), p.auth.Validate())
}

// Build connects and registers the tier.
func (p *program) Build(_ context.Context, env *process.Env) error {
	keys, err := p.auth.Keyring()
	if err != nil {
		return err
	}
	reg, err := env.Registry(p.redis)
	if err != nil {
		return err
	}
	err = edge.Register(env.Manager, p.cfg, edge.Deps{
		Log: env.Log, Metrics: env.Metrics, Gatherer: env.Metrics, Registry: reg, Tokens: keys.Verifier(), Limits: p.limits,
		After: []string{process.ModuleRedis, process.ModuleClocks},
	})
	if err != nil {
		return err
	}
	env.Target("edge")
	return nil
}
