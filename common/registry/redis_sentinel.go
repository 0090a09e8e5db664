package registry

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/starling-im/starling/common/wire"
)

// Keys of the sentinel:
//
//	index:sentinel         the present index as JSON: its name, whether it is
//	                       known, and its masters
//	index:<name>:{<tag>}   on a Cluster one for each master, with a tag whose slot
//	                       is that master's: it goes when the master is emptied.
//	                       Every look-up reads all of them, after the routes, and
//	                       so asks every master; one that is away is an error of
//	                       all look-ups until its replica has its place
//	index:settling         stands for a lease's ttl from the begin of an index
//	index:announced        hash of edge -> "epoch/name" it has announced under
//
// An index begins, unknown and under a new name, when an edge's renewal finds
// that a key above is missing, that a master has another run id (it was started
// again or a replica took its place, and may have lost what was written last),
// or that the masters are others. Then every edge announces at its next renewal.
// The index is known once all live edges have announced under its name, and not
// before every edge that lived when it began has renewed its lease or lost it:
// the leases may have been lost as well, and who is missing in them would not
// be waited for.
func (r *Redis) sentinelKey() string  { return r.cfg.Prefix + "index:sentinel" }
func (r *Redis) settlingKey() string  { return r.cfg.Prefix + "index:settling" }
func (r *Redis) announcedKey() string { return r.cfg.Prefix + "index:announced" }
func (r *Redis) markerKey(index, tag string) string {
	return r.key("index:"+index, tag)
}

func announcement(epoch uint64, index string) string {
	return strconv.FormatUint(epoch, 10) + "/" + index
}

// replaceIfEqual sets a key that has this value ("": is missing) and returns
// what stands then.
const replaceIfEqual = `local v=redis.call('GET',KEYS[1])
if (v or '')~=ARGV[1] then return v end redis.call('SET',KEYS[1],ARGV[2]) return ARGV[2]`

// sentinel is the value of that key as it was read. Masters are in the order of
// their tags.
type sentinel struct {
	Index   string   `json:"index"`
	Known   bool     `json:"known"`
	Masters []master `json:"masters"`

	raw   string // as it stands; empty: it does not
	whole bool   // all markers stand
}

type master struct {
	Run string `json:"run"`           // run id
	Tag string `json:"tag,omitempty"` // of its marker; none where there is one master
}

func parseSentinel(raw string) sentinel {
	s := sentinel{}
	if json.Unmarshal([]byte(raw), &s) != nil || s.Index == "" {
		s = sentinel{} // something else wrote it: it counts as unknown and is replaced
	}
	s.raw = raw
	return s
}

func (r *Redis) markers(s *sentinel) []string {
	var keys []string
	for _, m := range s.Masters {
		if m.Tag != "" {
			keys = append(keys, r.markerKey(s.Index, m.Tag))
		}
	}
	return keys
}

// sentinelRead is a sentinel on its way, with the markers of the last one seen.
type sentinelRead struct {
	r     *Redis
	value *redis.StringCmd
	last  sentinel
	marks []*redis.IntCmd
}

// readSentinel adds the sentinel to a pipeline, after the keys it is to vouch
// for: what is emptied between them shows.
func (r *Redis) readSentinel(ctx context.Context, p redis.Pipeliner) *sentinelRead {
	r.mu.Lock()
	rd := &sentinelRead{r: r, last: r.sentinel}
	r.mu.Unlock()
	rd.marks = r.readMarkers(ctx, p, &rd.last)
	rd.value = p.Get(ctx, r.sentinelKey())
	return rd
}

func (r *Redis) readMarkers(ctx context.Context, p redis.Pipeliner, s *sentinel) []*redis.IntCmd {
	var cmds []*redis.IntCmd
	for _, k := range r.markers(s) {
		cmds = append(cmds, p.Exists(ctx, k))
	}
	return cmds
}

func allStand(marks []*redis.IntCmd) bool {
	return !slices.ContainsFunc(marks, func(c *redis.IntCmd) bool { return c.Val() == 0 })
}

// result returns what the pipeline read; a second one reads the markers of a
// sentinel not seen before.
func (rd *sentinelRead) result(ctx context.Context) (sentinel, error) {
	if raw := rd.value.Val(); raw == "" || raw == rd.last.raw {
		s := rd.last
		if raw == "" {
			s = sentinel{}
		}
		s.whole = s.Index != "" && allStand(rd.marks)
		return s, nil
	}
	s := parseSentinel(rd.value.Val())
	p := rd.r.c.Pipeline()
	marks := rd.r.readMarkers(ctx, p, &s)
	if err := exec(ctx, p); err != nil {
		return sentinel{}, err
	}
	rd.r.mu.Lock()
	rd.r.sentinel = s
	rd.r.mu.Unlock()
	s.whole = s.Index != "" && allStand(marks)
	return s, nil
}

// sound returns s if nothing can have been lost under it, else the index that
// began in its place, by this call or by somebody else's.
func (r *Redis) sound(ctx context.Context, s sentinel, ttl time.Duration) (sentinel, error) {
	ms, err := r.masters(ctx)
	if err != nil {
		return sentinel{}, err
	}
	if s.whole && slices.Equal(ms, s.Masters) {
		return s, nil
	}
	next := sentinel{Index: rand.Text(), Masters: ms}
	b, err := json.Marshal(next)
	if err != nil {
		return sentinel{}, err
	}
	// Markers first: an index without them would be replaced at once.
	p := r.c.Pipeline()
	p.Set(ctx, r.settlingKey(), next.Index, ttl)
	for _, k := range r.markers(&next) {
		p.Set(ctx, k, "", 0)
	}
	if err := exec(ctx, p); err != nil {
		return sentinel{}, err
	}
	now, err := redis.NewScript(replaceIfEqual).Run(ctx, r.c, []string{r.sentinelKey()}, s.raw, b).Text()
	if err != nil && !errors.Is(err, redis.Nil) {
		return sentinel{}, err
	}
	p = r.c.Pipeline()
	if now == string(b) {
		r.log.Warn("the index counts as unknown until all edges have announced")
		p.Del(ctx, r.announcedKey())
		r.delMarkers(ctx, p, &s)
	} else {
		r.delMarkers(ctx, p, &next)
	}
	return parseSentinel(now), exec(ctx, p)
}

func (r *Redis) delMarkers(ctx context.Context, p redis.Pipeliner, s *sentinel) {
	for _, k := range r.markers(s) {
		p.Del(ctx, k)
	}
}

// complete makes an index known that all live edges have announced under, and
// says whether it is.
func (r *Redis) complete(ctx context.Context, s sentinel) (bool, error) {
	p := r.c.Pipeline()
	settling, all := p.Exists(ctx, r.settlingKey()), p.HGetAll(ctx, r.announcedKey())
	if err := exec(ctx, p); err != nil || settling.Val() > 0 {
		return false, err
	}
	live, err := r.live(ctx, TierEdge)
	if err != nil || len(live) == 0 {
		return false, err
	}
	gone := all.Val()
	for _, l := range live {
		if gone[string(l.Server)] != announcement(l.Epoch, s.Index) {
			return false, nil
		}
		delete(gone, string(l.Server))
	}
	known := sentinel{Index: s.Index, Known: true, Masters: s.Masters}
	b, err := json.Marshal(known)
	if err != nil {
		return false, err
	}
	now, err := redis.NewScript(replaceIfEqual).Run(ctx, r.c, []string{r.sentinelKey()}, s.raw, b).Text()
	if err != nil || now != string(b) { // somebody else was first, or it is lost again
		return false, ignoreNil(err)
	}
	r.log.Info("all edges have announced: the index is known")
	if len(gone) == 0 {
		return true, nil
	}
	fields := make([]string, 0, len(gone))
	for server := range gone {
		fields = append(fields, server)
	}
	return true, r.c.HDel(ctx, r.announcedKey(), fields...).Err()
}

func ignoreNil(err error) error {
	if errors.Is(err, redis.Nil) {
		return nil
	}
	return err
}

// Announced implements Leases.
func (r *Redis) Announced(ctx context.Context, server wire.ServerID, epoch uint64, index string) error {
	return r.do(ctx, "announced", func(ctx context.Context) error {
		p := r.c.Pipeline()
		p.HSet(ctx, r.announcedKey(), string(server), announcement(epoch, index))
		read := r.readSentinel(ctx, p)
		if err := exec(ctx, p); err != nil {
			return err
		}
		s, err := read.result(ctx)
		if err != nil || s.Known || s.Index != index || !s.whole {
			return err
		}
		_, err = r.complete(ctx, s)
		return err
	})
}

// maxTags is how many tags are tried for one with a slot of each master; with
// so many a master of a single slot is missed once in 10 million times.
const maxTags = 1 << 18

// masters returns the run ids of all masters and, on a Cluster, for each the
// first tag whose slot it has.
func (r *Redis) masters(ctx context.Context) ([]master, error) {
	cluster, ok := r.c.(*redis.ClusterClient)
	if !ok {
		run, err := runID(ctx, r.c)
		return []master{{Run: run}}, err
	}
	var mu sync.Mutex
	runs := map[string]string{}                                                          // address -> run id
	err := cluster.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error { // reads the slots anew
		run, err := runID(ctx, c)
		mu.Lock()
		defer mu.Unlock()
		runs[c.Options().Addr] = run
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the masters' run ids: %w", err)
	}
	var out []master
	for n := 0; len(out) < len(runs) && n < maxTags; n++ {
		tag := strconv.Itoa(n)
		c, err := cluster.MasterForKey(ctx, r.markerKey("", tag))
		if err != nil {
			return nil, err
		}
		m := master{Run: runs[c.Options().Addr], Tag: tag}
		if m.Run == "" || slices.ContainsFunc(out, func(o master) bool { return o.Run == m.Run }) {
			continue
		}
		out = append(out, m)
	}
	return out, nil
}

// runID returns a server's run id, "-" where it has none to tell (miniredis,
// which keeps nothing over a run).
func runID(ctx context.Context, c redis.Cmdable) (string, error) {
	info, err := c.Info(ctx, "server").Result()
	if err != nil {
		if _, answered := errors.AsType[redis.Error](err); answered { // it knows no such section
			return "-", nil
		}
		return "", err
	}
	for line := range strings.Lines(info) {
		if id, ok := strings.CutPrefix(strings.TrimSpace(line), "run_id:"); ok {
			return id, nil
		}
	}
	return "-", nil
}
