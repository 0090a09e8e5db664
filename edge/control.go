package edge

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/starling-im/starling/common/control"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/roster"
	"github.com/starling-im/starling/edge/internal/session"
)

// Decided implements uplink.Sink: sessions that a ban, a revocation or an
// administrator ends are ended. The first of a stream holds bans that are over,
// too: of bans and revocations what they come to counts there.
func (t *tier) Decided(es []control.Entry, first bool) {
	if first {
		t.control.Replace(es)
		t.endDecided()
	} else {
		t.control.Apply(es)
	}
	if err := t.limits.Change(t.control.Settings()); err != nil {
		t.log.Warn("settings that this edge does not know are left out", zap.Error(err))
	}
	t.metrics.control.Set(float64(t.control.Version()))
	for i := range es {
		e := &es[i]
		if e.Kind == control.Drain && wire.ServerID(e.Name) == t.lease.Server && e.At > t.began {
			t.drainAside()
		}
		if e.User == "" || first && e.Kind != control.Kick {
			continue
		}
		for _, m := range t.roster.ByUser(e.User, nil) {
			if reason, ends := e.Ends(subjectOf(m), time.Now()); ends {
				m.Session.Kick(reason, session.Banned)
			}
		}
	}
	t.tellInformed.Do(func() { close(t.isInformed) })
}

// drainAside drains while the process goes on: whoever runs it ends it then.
func (t *tier) drainAside() {
	if t.draining.Load() {
		return
	}
	t.log.Info("drains, as an administrator has decided")
	t.running.Go(func() {
		if err := t.drain(t.ctx); err != nil {
			t.log.Warn("drain", zap.Error(err))
		}
	})
}

// endDecided ends what was decided while nobody told this edge.
func (t *tier) endDecided() {
	now := time.Now()
	for _, m := range t.roster.All(nil) {
		if reason, ended := t.control.Ended(subjectOf(m), now); ended {
			m.Session.Kick(reason, session.Banned)
		}
	}
}

// informed waits until this edge knows what has been decided. False: no logic
// has told in time.
func (t *tier) informed(ctx context.Context) bool {
	select {
	case <-t.isInformed:
		return true
	default:
	}
	late := time.NewTimer(t.cfg.LoginWait)
	defer late.Stop()
	select {
	case <-t.isInformed:
		return true
	case <-late.C:
	case <-ctx.Done():
	}
	return false
}

// refusal is the reason with which a log-in ends that judge refuses.
func refusal(werr *wire.Error) session.Reason {
	if werr.Code == wire.CodeBanned {
		return session.Banned
	}
	return session.AuthFailed
}

func noLogic() *wire.Error {
	e := wire.Errorf(wire.CodeUnavailable, "no logic answered")
	e.RetryAfterMS = retryUnavailable
	return e
}

func subjectOf(m *roster.Member) *control.Session {
	return &control.Session{User: m.User, Device: m.Device, Conn: m.Conn, Since: m.Since, Issued: m.Issued}
}
