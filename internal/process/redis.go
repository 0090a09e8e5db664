package process

import (
	"context"
	"errors"
	"fmt"

	"github.com/starling-im/starling/common/app"
	"github.com/starling-im/starling/common/obs"
	"github.com/starling-im/starling/common/registry"
)

// ModuleRedis names the module of the registry's connections.
const ModuleRedis = "redis"

// Registry makes the client of Redis and its module, which also sweeps up after
// dead edges. Redis need not answer yet: it is an index that all can do without.
func (e *Env) Registry(cfg registry.Config) (registry.Registry, error) {
	reg, err := registry.New(cfg, e.Log.Named("redis"), e.Metrics)
	if err != nil {
		return nil, fmt.Errorf("make the Redis client: %w", err)
	}
	start := func(ctx context.Context) error {
		if err := reg.Check(ctx); errors.Is(err, registry.ErrRefused) {
			return err //nolint:wrapcheck // names the keys
		}
		return nil
	}
	e.Manager.Register(ModuleRedis, app.Module{Start: start, Run: reg.Sweep, Stop: func(context.Context) error { return reg.Close() }})
	e.Target(ModuleRedis)
	e.Clock(obs.Clock{Name: "redis", Offset: reg.Clock})
	return reg, nil
}
