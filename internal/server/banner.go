package server

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/starling-im/starling/common/app"
	"github.com/starling-im/starling/internal/process"
)

// banner is a module that tells people where to go, once all tiers are ready.
func (p *Program) banner(env *process.Env) app.Module {
	return app.Module{Run: func(ctx context.Context) error {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for env.Manager.Ready(p.target) != nil {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
		}
		if err := p.welcome(env.Stdout); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	}}
}

// welcome writes where to go and how to get in.
func (p *Program) welcome(w io.Writer) error {
	lines := []string{
		"Starling is ready (everything in this process, listening on loopback only).",
		"",
		"  chat page    http://" + p.logic.HTTPAddr + "/",
		"  HTTP API     http://" + p.logic.HTTPAddr + "/v1",
		"  WebSocket    ws://" + p.edge.ListenAddr + "/ws",
		"  metrics      http://" + p.edge.AdminAddr + "/metrics (edge), " + p.logic.AdminAddr + " (logic), " + p.job.AdminAddr + " (job)",
		"  data folder  " + p.data,
		"",
		"  mint a token: starling token -data " + p.data + " -user alice -device web-1",
		"",
	}
	if _, err := fmt.Fprint(w, strings.Join(lines, "\n")); err != nil {
		return fmt.Errorf("print where to go: %w", err)
	}
	return nil
}
