package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/starling-im/starling/common/wire"
)

func (r *Redis) sendKey(q *Reservation) string {
	return r.key("send", string(q.Conv)+"|"+string(q.From)+"|"+q.ClientID)
}
func (r *Redis) msgKey(id wire.MsgID) string      { return r.key("msg:cache", id.String()) }
func (r *Redis) offlineKey(u wire.UserID) string  { return r.key("offline:msg", string(u)) }
func (r *Redis) membersKey(g wire.GroupID) string { return r.key("group:members", string(g)) }
func reservedValue(q *Reservation, at int64) string { // id|hash|time of the send_ack
	return fmt.Sprintf("%d|%d|%d", q.ID, q.Hash, at)
}

func parseReserved(s string) (Reserved, error) {
	f := strings.Split(s, "|")
	if len(f) != 3 {
		return Reserved{}, fmt.Errorf("reservation %q is not id|hash|time", s)
	}
	id, e1 := strconv.ParseInt(f[0], 10, 64)
	hash, e2 := strconv.ParseUint(f[1], 10, 64)
	acked, e3 := strconv.ParseInt(f[2], 10, 64)
	if err := errors.Join(e1, e2, e3); err != nil {
		return Reserved{}, fmt.Errorf("reservation %q: %w", s, err)
	}
	return Reserved{ID: wire.MsgID(id), Hash: hash, Acked: acked}, nil
}

// Reserve implements Cache. Two reservations of one key in one call are
// answered in their order.
func (r *Redis) Reserve(ctx context.Context, rs []Reservation) ([]Reserved, error) {
	cmds := make([]*redis.StatusCmd, len(rs))
	err := r.pipe(ctx, "reserve", func(p redis.Pipeliner) {
		for i := range rs {
			cmds[i] = p.SetArgs(ctx, r.sendKey(&rs[i]), reservedValue(&rs[i], 0),
				redis.SetArgs{Mode: "NX", Get: true, TTL: r.cfg.ReserveTTL})
		}
	})
	if err != nil {
		return nil, err
	}
	out := make([]Reserved, len(rs))
	for i, c := range cmds {
		if errors.Is(c.Err(), redis.Nil) { // nothing stood before
			out[i] = Reserved{ID: rs[i].ID, Hash: rs[i].Hash, First: true}
			continue
		}
		if out[i], err = parseReserved(c.Val()); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// MarkAcked implements Cache. ID and Hash of a reservation are the winner's.
func (r *Redis) MarkAcked(ctx context.Context, rs []Reservation, ts []int64) error {
	return r.pipe(ctx, "mark_acked", func(p redis.Pipeliner) {
		for i := range rs {
			p.Set(ctx, r.sendKey(&rs[i]), reservedValue(&rs[i], ts[i]), r.cfg.ReserveTTL)
		}
	})
}

// PutMessages implements Cache.
func (r *Redis) PutMessages(ctx context.Context, ms []CachedMsg) error {
	vals := make([][]byte, len(ms))
	for i := range ms {
		b, err := json.Marshal(&ms[i])
		if err != nil {
			return fmt.Errorf("encode message %d: %w", ms[i].ID, err)
		}
		vals[i] = b
	}
	return r.pipe(ctx, "put_messages", func(p redis.Pipeliner) {
		for i := range ms {
			p.Set(ctx, r.msgKey(ms[i].ID), vals[i], r.cfg.CacheTTL)
		}
	})
}

// GetMessages implements Cache.
func (r *Redis) GetMessages(ctx context.Context, ids []wire.MsgID) (map[wire.MsgID]CachedMsg, error) {
	cmds := make([]*redis.StringCmd, len(ids))
	err := r.pipe(ctx, "get_messages", func(p redis.Pipeliner) {
		for i, id := range ids {
			cmds[i] = p.Get(ctx, r.msgKey(id))
		}
	})
	if err != nil {
		return nil, err
	}
	out := make(map[wire.MsgID]CachedMsg, len(ids))
	for i, c := range cmds {
		var m CachedMsg
		if b, err := c.Bytes(); err == nil && json.Unmarshal(b, &m) == nil && m.ID == ids[i] {
			out[m.ID] = m
		}
	}
	return out, nil
}

// An offline list is a sorted set of "conv|seq|id", by the time in the id, so
// an entry filed twice stands once.
func offlineMember(e *OfflineEntry) string {
	return fmt.Sprintf("%s|%d|%d", e.Conv, e.Seq, e.ID)
}

func parseOffline(u wire.UserID, s string) (OfflineEntry, bool) {
	rest, idText, ok1 := cutLast(s)
	conv, seqText, ok2 := cutLast(rest)
	seq, err1 := strconv.ParseInt(seqText, 10, 64)
	id, err2 := strconv.ParseInt(idText, 10, 64)
	return OfflineEntry{User: u, Conv: wire.ConvID(conv), Seq: seq, ID: wire.MsgID(id)},
		ok1 && ok2 && err1 == nil && err2 == nil
}

func cutLast(s string) (before, after string, ok bool) {
	i := strings.LastIndexByte(s, '|')
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}

// idTimeBits is where the milliseconds of a message id begin; the rest would
// not fit a score, which is a float64.
const idTimeBits = 22

// FileOffline implements Cache.
func (r *Redis) FileOffline(ctx context.Context, es []OfflineEntry) error {
	return r.pipe(ctx, "file_offline", func(p redis.Pipeliner) {
		seen := map[wire.UserID]bool{}
		for i := range es {
			p.ZAdd(ctx, r.offlineKey(es[i].User), redis.Z{Score: float64(es[i].ID >> idTimeBits), Member: offlineMember(&es[i])})
			seen[es[i].User] = true
		}
		for u := range seen {
			p.ZRemRangeByRank(ctx, r.offlineKey(u), 0, int64(-r.cfg.OfflineLimit-1))
			p.Expire(ctx, r.offlineKey(u), r.cfg.OfflineTTL)
		}
	})
}

// Offline implements Cache; oldest message first.
func (r *Redis) Offline(ctx context.Context, u wire.UserID) ([]OfflineEntry, error) {
	var out []OfflineEntry
	err := r.do(ctx, "offline", func(ctx context.Context) error {
		ms, err := r.c.ZRange(ctx, r.offlineKey(u), 0, -1).Result()
		for _, m := range ms {
			if e, ok := parseOffline(u, m); ok {
				out = append(out, e)
			}
		}
		return err
	})
	return out, err
}

// ClearOffline implements Cache: it reads the list, bounded as it is, and
// deletes what is named; most lists are empty.
func (r *Redis) ClearOffline(ctx context.Context, u wire.UserID, conv wire.ConvID, upto int64) error {
	return r.do(ctx, "clear_offline", func(ctx context.Context) error {
		ms, err := r.c.ZRange(ctx, r.offlineKey(u), 0, -1).Result()
		if err != nil {
			return err
		}
		var gone []any
		for _, m := range ms {
			if e, ok := parseOffline(u, m); !ok || e.Conv == conv && e.Seq <= upto {
				gone = append(gone, m)
			}
		}
		if len(gone) == 0 {
			return nil
		}
		return r.c.ZRem(ctx, r.offlineKey(u), gone...).Err()
	})
}

// membersChunk bounds one command: a group may have 100,000 members.
const membersChunk = 1000

// PutMembers implements Cache.
func (r *Redis) PutMembers(ctx context.Context, g wire.GroupID, all []wire.UserID) error {
	return r.do(ctx, "put_members", func(ctx context.Context) error {
		p := r.c.TxPipeline()
		p.Del(ctx, r.membersKey(g))
		r.addMembers(ctx, p, g, all)
		return exec(ctx, p)
	})
}

// ChangeMembers implements Cache. A set begun by a change is only a part of
// the members; that is well, as false is never the last word.
func (r *Redis) ChangeMembers(ctx context.Context, g wire.GroupID, add, remove []wire.UserID) error {
	return r.pipe(ctx, "change_members", func(p redis.Pipeliner) {
		if len(remove) > 0 {
			p.SRem(ctx, r.membersKey(g), anys(remove)...)
		}
		r.addMembers(ctx, p, g, add)
	})
}

func (r *Redis) addMembers(ctx context.Context, p redis.Pipeliner, g wire.GroupID, us []wire.UserID) {
	for len(us) > 0 {
		n := min(len(us), membersChunk)
		p.SAdd(ctx, r.membersKey(g), anys(us[:n])...)
		if us = us[n:]; len(us) == 0 {
			p.Expire(ctx, r.membersKey(g), r.cfg.MembersTTL)
		}
	}
}

func anys(us []wire.UserID) []any {
	out := make([]any, len(us))
	for i, u := range us {
		out[i] = string(u)
	}
	return out
}

// AreMembers implements Cache.
func (r *Redis) AreMembers(ctx context.Context, pairs []Membership) ([]bool, error) {
	cmds := make([]*redis.BoolCmd, len(pairs))
	err := r.pipe(ctx, "are_members", func(p redis.Pipeliner) {
		for i, q := range pairs {
			cmds[i] = p.SIsMember(ctx, r.membersKey(q.Group), string(q.User))
		}
	})
	if err != nil {
		return nil, err
	}
	out := make([]bool, len(pairs))
	for i, c := range cmds {
		out[i] = c.Val()
	}
	return out, nil
}
