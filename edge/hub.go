package edge

import (
	"context"
	"errors"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/starling-im/starling/common/limits"
	"github.com/starling-im/starling/common/planted"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/token"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/edge/internal/announce"
	"github.com/starling-im/starling/edge/internal/push"
	"github.com/starling-im/starling/edge/internal/roster"
	"github.com/starling-im/starling/edge/internal/session"
)

const (
	kickReplaced     = "replaced"
	retryUnavailable = 500 // ms
	retryOverloaded  = 1000
	retryTooMany     = 10_000
)

// Authenticate implements session.Hub: the log-in leaves the loop.
func (t *tier) Authenticate(s *session.Session, a wire.Auth) {
	select {
	case t.logins <- struct{}{}:
	default:
		e := wire.Errorf(wire.CodeOverloaded, "too many log-ins at once")
		e.RetryAfterMS = retryOverloaded
		t.refuse(s, e, session.Overloaded)
		return
	}
	t.metrics.logins.Inc()
	t.running.Go(func() {
		start := time.Now()
		if t.login(t.ctx, s, a) {
			t.metrics.seconds.Observe(time.Since(start).Seconds())
		}
		t.metrics.logins.Dec()
		<-t.logins
	})
}

// leaving refuses a log-in at an edge that drains: the clients that are told to
// go elsewhere are those that were here when it began.
func (t *tier) leaving(s *session.Session) bool {
	if !t.draining.Load() {
		return false
	}
	e := wire.Errorf(wire.CodeUnavailable, "this edge takes no more connections")
	e.RetryAfterMS = retryUnavailable
	t.refuse(s, e, session.Drained)
	return true
}

func (t *tier) refuse(s *session.Session, e *wire.Error, r session.Reason) {
	t.metrics.refused.WithLabelValues(string(e.Code)).Inc()
	s.Refuse(e, r)
}

// login brings a session from its token to auth_ok.
func (t *tier) login(ctx context.Context, s *session.Session, a wire.Auth) bool {
	if !t.informed(ctx) {
		t.refuse(s, noLogic(), session.Unavailable)
		return false
	}
	if t.leaving(s) {
		return false
	}
	claims, device, werr := t.judge(a)
	if werr != nil {
		t.refuse(s, werr, refusal(werr))
		return false
	}
	id := session.Identity{
		User: claims.User, Device: device, Conn: t.ids.next(), Platform: a.Platform, Since: nowMS(), Issued: claims.AuthTime.UnixMilli(),
	}
	m, others := t.roster.Connect(s, id, func(o *roster.Member) bool { return t.rivals(id.Device, o.Device, id.Platform, o.Platform) })
	if !s.Identify(id, claims.Expires.UnixMilli()) {
		t.roster.Remove(m) // it ended; nothing else knows of it
		return false
	}
	// From here on decisions and a drain find it; those that came meanwhile have not.
	if t.leaving(s) {
		return false
	}
	if reason, ended := t.control.Ended(subjectOf(m), time.Now()); ended {
		s.Kick(reason, session.Banned)
		return false
	}
	for _, o := range others {
		if o.Conn > id.Conn {
			o = m // two at once: the later one stays
		}
		t.replaced(o)
	}
	beside, ok := t.announcer.Put(ctx, m)
	if !ok {
		t.replaced(m)
		return false
	}
	if most := t.limits.Get().ConnectionsPerUser; most > 0 && len(beside) >= most {
		e := wire.Errorf(wire.CodeRateLimited, "the user has as many connections as it may")
		e.RetryAfterMS = retryTooMany
		t.refuse(s, e, session.TooMany)
		return false
	}
	if s.State() == session.Closing {
		return false // its end has undone all this
	}
	losses := t.roster.Losses()
	reply, err := t.askLogic(ctx, m)
	if err != nil {
		t.log.Debug("log-in without logic", zap.Error(err))
		t.refuse(s, noLogic(), session.Unavailable)
		return false
	}
	return t.admit(ctx, m, reply, losses)
}

// rivals says whether connections of two devices of a user cannot stand beside
// each other.
func (t *tier) rivals(device, other wire.DeviceID, platform, otherPlatform string) bool {
	switch t.limits.Get().Devices {
	case limits.DevicesOne:
		return true
	case limits.DevicesPlatform:
		return device == other || platform == otherPlatform
	}
	return device == other
}

// replaced ends a session in favour of a newer one that it cannot stand beside.
func (t *tier) replaced(m *roster.Member) {
	t.metrics.replaced.Inc()
	m.Session.Kick(kickReplaced, session.Replaced)
}

// grpcServer is the edge for jobs and other edges.
type grpcServer struct {
	*push.Server
	t *tier
}

// Kick implements rpcpb.EdgeServer.
func (g grpcServer) Kick(_ context.Context, req *rpcpb.KickRequest) (*rpcpb.KickReply, error) {
	if m := g.t.roster.ByConn(wire.ConnID(req.GetConn())); m != nil && string(m.User) == req.GetUser() && req.GetBy() > req.GetConn() {
		g.t.replaced(m)
	}
	return &rpcpb.KickReply{}, nil
}

// admit enters a session into its groups and opens it.
func (t *tier) admit(ctx context.Context, m *roster.Member, reply *rpcpb.LoginReply, losses uint64) bool {
	if !t.enter(ctx, m, reply, losses, t.roster.Open) {
		return false
	}
	if t.roster.Stale(m) {
		t.push.Lag(m) // something was lost while it logged in: its groups are read again
	}
	if h := t.history.Load(); h == nil || *h != reply.GetHistoryEpoch() {
		own := reply.GetHistoryEpoch()
		t.history.Store(&own)
	}
	return m.Session.Open(t.authOK(m.Identity))
}

// enter brings a session into the groups that logic has read, by Open or
// Regroup.
func (t *tier) enter(ctx context.Context, m *roster.Member, reply *rpcpb.LoginReply, losses uint64,
	into func(*roster.Member, []roster.Joined, uint64) (bool, []roster.Left, []wire.GroupID),
) bool {
	groups := make([]roster.Joined, len(reply.GetGroups()))
	for i, g := range reply.GetGroups() {
		groups[i].Group = wire.GroupID(g)
		if i < len(reply.GetJoinedSeqs()) {
			groups[i].Seq = reply.GetJoinedSeqs()[i]
		}
	}
	if len(groups) > 0 && planted.Now(planted.EdgeForgetsGroups) {
		groups = nil
	}
	t.announcer.AddGroups(ctx, t.roster.Reserve(groups))
	ok, left, fresh := into(m, groups, losses)
	t.announcer.GroupsLeft(left)
	t.announcer.AddGroups(ctx, fresh)
	return ok
}

// groups implements push.Groups.
type groups struct {
	*announce.Announcer
	t *tier
}

// Regroup implements push.Groups: the groups of a session are read again,
// because changes may have been lost. False: not now.
func (g groups) Regroup(ctx context.Context, m *roster.Member) bool {
	t := g.t
	losses := t.roster.Losses()
	reply, err := t.askLogic(ctx, m)
	if err != nil {
		t.log.Debug("groups cannot be read again", zap.Error(err))
		return false
	}
	t.enter(ctx, m, reply, losses, t.roster.Regroup)
	return true
}

func (t *tier) askLogic(ctx context.Context, m *roster.Member) (*rpcpb.LoginReply, error) {
	return t.uplink.Login(ctx, &rpcpb.LoginRequest{
		Server: string(t.lease.Server), Conn: uint64(m.Conn), User: string(m.User), Device: string(m.Device), Platform: m.Platform,
	})
}

func (t *tier) authOK(id session.Identity) wire.AuthOK {
	ok := wire.AuthOK{
		User: id.User, Device: id.Device, Conn: strconv.FormatUint(uint64(id.Conn), 10), Server: t.lease.Server,
		HeartbeatMS: t.cfg.Heartbeat.Milliseconds(), TS: nowMS(), V: wire.Version,
	}
	if h := t.history.Load(); h != nil {
		ok.HistoryEpoch = *h
	}
	return ok
}

// judge verifies a token and decides the device: the token's binds.
func (t *tier) judge(a wire.Auth) (token.Claims, wire.DeviceID, *wire.Error) {
	claims, err := t.d.Tokens.Verify(a.Token, time.Now())
	if err != nil {
		text := "token is not good"
		if errors.Is(err, token.ErrExpired) {
			text = "token has expired"
		}
		return claims, "", wire.Errorf(wire.CodeUnauthenticated, text)
	}
	device := a.Device
	if claims.Device != "" {
		if device != "" && device != claims.Device {
			return claims, "", wire.Errorf(wire.CodeForbidden, "the token is for another device")
		}
		device = claims.Device
	}
	if device == "" {
		return claims, "", wire.Errorf(wire.CodeBadRequest, "neither token nor auth names a device")
	}
	return claims, device, t.control.Deny(claims.User, device, claims.AuthTime, time.Now())
}

// Renew implements session.Hub.
func (t *tier) Renew(s *session.Session, a wire.Auth) (wire.AuthOK, *wire.Error) {
	id := s.ID()
	if werr := a.Validate(); werr != nil {
		return wire.AuthOK{}, werr
	}
	if a.Device == "" {
		a.Device = id.Device
	}
	claims, device, werr := t.judge(a)
	if werr != nil {
		return wire.AuthOK{}, werr
	}
	if claims.User != id.User || device != id.Device {
		return wire.AuthOK{}, wire.Errorf(wire.CodeForbidden, "the token is for another user or device")
	}
	s.SetExpires(claims.Expires.UnixMilli())
	return t.authOK(id), nil
}

// Pin implements session.Hub.
func (t *tier) Pin() session.Peer { return t.uplink.Pin() }

// Closed implements session.Hub: a session that ends counts no more at once,
// whatever its socket does.
func (t *tier) Closed(s *session.Session) {
	id := s.ID()
	if id.Conn == 0 {
		return
	}
	t.log.Debug("session ended", zap.Uint64("conn", uint64(id.Conn)), zap.Stringer("reason", s.Reason()))
	m := t.roster.ByConn(id.Conn)
	if m == nil {
		return
	}
	ok, left := t.roster.Remove(m)
	if !ok {
		return
	}
	t.watch.Forget(m)
	t.announcer.GroupsLeft(left)
	t.announcer.Drop(m, nowMS())
}

// Answers implements uplink.Sink: all frames of a batch are queued before any
// is written.
func (t *tier) Answers(frames []*rpcpb.Down) {
	told := make([]*session.Session, 0, len(frames))
	for _, d := range frames {
		if m := t.roster.ByConn(wire.ConnID(d.GetConn())); m != nil && m.Session.Down(d) {
			told = append(told, m.Session)
		}
	}
	for _, s := range told {
		if planted.Now(planted.EdgeCutsSession) {
			s.Close(session.Overloaded)
		}
		s.Flush()
	}
}

// Broken implements uplink.Sink.
func (t *tier) Broken(p session.Peer) {
	for _, m := range t.roster.All(nil) {
		m.Session.PeerBroken(p)
	}
}
