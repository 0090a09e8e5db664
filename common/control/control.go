// Package control is what people decide while the system runs, and every logic
// and edge must know within a second: bans, revocations of tokens, ends of
// sessions, settings.
//
// Each decision is an Entry; entries have versions that grow, and State is what
// all of them come to. They are stored in the first shard (package store), read
// by each logic again and again, and streamed from there to the edges.
//
// A State is safe for concurrent use. It holds all bans, revocations and
// settings that count, some 150 bytes each.
package control

import (
	"maps"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/starling-im/starling/common/wire"
)

// Kind says what an Entry decides.
type Kind string

// Kinds of entries.
const (
	// Ban keeps User out until Until (0: for good) and ends the sessions of it.
	Ban Kind = "ban"
	// Unban ends a Ban.
	Unban Kind = "unban"
	// Revoke voids the tokens of User (those of one Device, if it is given) that
	// were issued at or before At, and ends the sessions begun with them.
	Revoke Kind = "revoke"
	// Kick ends the sessions of User (of one Device, or Conn) begun at or before
	// At. They may come back.
	Kick Kind = "kick"
	// Drain sends the clients of the edge Name elsewhere, for good.
	Drain Kind = "drain"
	// Set gives the setting Name the Value; "" gives it back its configured one.
	Set Kind = "set"
)

const (
	// Kept is how long what only undid something or voided tokens is kept: a
	// token that was issued longer ago is taken for void by its own time.
	Kept = 90 * 24 * time.Hour
	// KeptKicks is how long an edge may be cut off and still end the sessions
	// that a Kick or a Drain was for.
	KeptKicks = 24 * time.Hour
)

// Reasons of kick in docs/protocol.md.
const (
	ReasonBanned  = "banned"
	ReasonRevoked = "revoked"
	ReasonAdmin   = "admin"
)

// Entry is one decision. Times are in ms; At is when it was made.
type Entry struct {
	Version int64
	Kind    Kind
	User    wire.UserID
	Device  wire.DeviceID
	Conn    wire.ConnID
	At      int64
	Until   int64
	Name    string
	Value   string
}

// Session is what an Entry is judged against.
type Session struct {
	User   wire.UserID
	Device wire.DeviceID
	Conn   wire.ConnID
	Since  int64 // ms, when it began
	Issued int64 // ms, when its token was, or the first that it was refreshed from
}

// Ends says whether the entry ends a session, and the reason to tell it.
func (e *Entry) Ends(s *Session, now time.Time) (reason string, ends bool) {
	if e.User != s.User || e.Device != "" && e.Device != s.Device {
		return "", false
	}
	switch e.Kind {
	case Ban:
		return ReasonBanned, e.stands(now)
	case Revoke:
		return ReasonRevoked, s.Issued <= e.At
	case Kick:
		if e.Conn != 0 { // there is one with this id: clocks need not agree
			return ReasonAdmin, e.Conn == s.Conn
		}
		return ReasonAdmin, s.Since <= e.At
	case Unban, Set, Drain:
	}
	return "", false
}

// stands says whether a Ban has not ended.
func (e *Entry) stands(now time.Time) bool { return e.Until == 0 || e.Until > now.UnixMilli() }

// State is what the entries come to. The zero value is the state before any.
type State struct {
	mu       sync.RWMutex
	version  int64
	bans     map[wire.UserID]Entry
	revoked  map[wire.UserID]map[wire.DeviceID]int64 // when; device "": all
	settings map[string]string
}

// Apply takes entries in, in order of their versions; those that are known
// already change nothing.
func (s *State) Apply(es []Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range es {
		s.applyLocked(&es[i])
	}
}

// Replace forgets everything and takes entries in that are all that counts.
func (s *State) Replace(es []Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version, s.bans, s.revoked, s.settings = 0, nil, nil, nil
	for i := range es {
		s.applyLocked(&es[i])
	}
}

func (s *State) applyLocked(e *Entry) {
	if e.Version <= s.version {
		return
	}
	s.version = e.Version
	if s.bans == nil {
		s.bans, s.revoked, s.settings = map[wire.UserID]Entry{}, map[wire.UserID]map[wire.DeviceID]int64{}, map[string]string{}
	}
	switch e.Kind {
	case Ban:
		s.bans[e.User] = *e
	case Unban:
		delete(s.bans, e.User)
	case Revoke:
		of := s.revoked[e.User]
		if of == nil {
			of = map[wire.DeviceID]int64{}
			s.revoked[e.User] = of
		}
		of[e.Device] = max(of[e.Device], e.At) // clocks differ
	case Set:
		if e.Value == "" {
			delete(s.settings, e.Name)
		} else {
			s.settings[e.Name] = e.Value
		}
	case Kick, Drain:
	}
}

// Version is that of the newest entry taken in, 0 before the first.
func (s *State) Version() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.version
}

// Settings returns the settings that were changed; the map is the caller's.
func (s *State) Settings() map[string]string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	out := make(map[string]string, len(s.settings))
	maps.Copy(out, s.settings)
	return out
}

// Banned returns the ban of a user, if it stands.
func (s *State) Banned(u wire.UserID, now time.Time) (Entry, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e, ok := s.bans[u]
	return e, ok && e.stands(now)
}

// Bans returns the bans that stand.
func (s *State) Bans(now time.Time) []Entry {
	s.mu.RLock()
	defer s.mu.RUnlock()
	var out []Entry
	for _, e := range s.bans {
		if e.stands(now) {
			out = append(out, e)
		}
	}
	return out
}

// Deny says why a token opens nothing, nil if it does. device is that of the
// session, which need not be in the token; issued is Session.Issued.
func (s *State) Deny(u wire.UserID, device wire.DeviceID, issued, now time.Time) *wire.Error {
	switch reason, _ := s.Ended(&Session{User: u, Device: device, Issued: issued.UnixMilli()}, now); reason {
	case "":
		return nil
	case ReasonBanned:
		return wire.Errorf(wire.CodeBanned, "the user is banned")
	default:
		return wire.Errorf(wire.CodeUnauthenticated, "the token was revoked")
	}
}

// Ended says whether what has been decided ends a session, and the reason to
// tell it. Kicks are not kept: they end sessions when they come.
func (s *State) Ended(se *Session, now time.Time) (reason string, ended bool) {
	if _, ok := s.Banned(se.User, now); ok {
		return ReasonBanned, true
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	of := s.revoked[se.User]
	for _, d := range []wire.DeviceID{"", se.Device} {
		if at, ok := of[d]; ok && se.Issued <= at {
			return ReasonRevoked, true
		}
	}
	return "", false
}

// Revoked returns when a user's tokens were revoked for the last time (ms), those
// of one device or ("") of all, and for how many devices that is known.
func (s *State) Revoked(u wire.UserID, d wire.DeviceID) (at int64, devices int) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.revoked[u][d], len(s.revoked[u])
}

// Forget drops what is over (OverAt).
func (s *State) Forget(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ms := now.UnixMilli()
	maps.DeleteFunc(s.bans, func(_ wire.UserID, e Entry) bool { return e.OverAt() < ms })
	maps.DeleteFunc(s.revoked, func(_ wire.UserID, of map[wire.DeviceID]int64) bool {
		maps.DeleteFunc(of, func(_ wire.DeviceID, at int64) bool { return at+Kept.Milliseconds() < ms })
		return len(of) == 0
	})
}

// Subject is what the entry is about: a later entry about the same takes its
// place.
func (e *Entry) Subject() string {
	switch e.Kind {
	case Ban, Unban:
		return "ban:" + string(e.User)
	case Revoke:
		return "revoke:" + string(e.User) + ":" + string(e.Device)
	case Kick:
		return "kick:" + string(e.User) + ":" + string(e.Device) + ":" + strconv.FormatUint(uint64(e.Conn), 10)
	case Set, Drain:
	}
	return string(e.Kind) + ":" + e.Name
}

// OverAt is when the entry counts for nothing any more (ms), math.MaxInt64 for
// never.
func (e *Entry) OverAt() int64 {
	switch e.Kind {
	case Ban:
		if e.Until != 0 {
			return e.Until
		}
		return math.MaxInt64
	case Set:
		if e.Value != "" {
			return math.MaxInt64
		}
	case Kick, Drain:
		return e.At + KeptKicks.Milliseconds()
	case Unban, Revoke:
	}
	return e.At + Kept.Milliseconds()
}
