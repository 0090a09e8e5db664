package deliver

import (
	"context"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/job/internal/machine"
	"github.com/starling-im/starling/job/internal/route"
)

// recentLimit is how many delivered messages are kept for answers "not here",
// which come within a second.
const recentLimit = 8192

// filing is one message that may still have to be filed for somebody.
type filing struct {
	item   machine.Item // head only
	asked  int          // edges that everything was pushed to, because the index had holes; 0: by routes
	absent map[wire.UserID]int
}

type filingKey struct {
	conv wire.ConvID
	seq  int64
}

// recent keeps the newest messages that were pushed to users (not to groups:
// edges answer nothing for those). Guarded by Deliverer.mu.
type recent struct {
	by   map[filingKey]*filing
	keys []filingKey // ring
	next int
}

// remember keeps the items of effects that may be answered.
func (r *recent) remember(e *machine.Effects, t *route.Table) {
	for i := range e.Items {
		it := &e.Items[i]
		if it.Kind != machine.Deliver || it.Group != "" || len(it.File) == 0 {
			continue
		}
		f := &filing{item: *it}
		f.item.Body, f.item.Cache = nil, nil
		if !t.Known {
			f.asked = len(t.All)
		}
		r.put(filingKey{it.Conv, it.Seq}, f)
	}
}

func (r *recent) put(k filingKey, f *filing) {
	if r.by == nil {
		r.by, r.keys = make(map[filingKey]*filing), make([]filingKey, recentLimit)
	}
	if r.by[k] == nil {
		delete(r.by, r.keys[r.next])
		r.keys[r.next] = k
		r.next = (r.next + 1) % recentLimit
	}
	r.by[k] = f
}

// absentNow takes an answer and returns the message and who is to be filed, as
// far as that is certain: pushed to every edge, a user is absent once each of
// them has said so.
func (r *recent) absentNow(n *rpcpb.NotHere) (it machine.Item, routed bool, users []wire.UserID) {
	f := r.by[filingKey{wire.ConvID(n.GetConv()), n.GetSeq()}]
	if f == nil {
		return it, false, nil
	}
	for _, name := range n.GetUsers() {
		u := wire.UserID(name)
		if !slices.Contains(f.item.File, u) {
			continue
		}
		if f.asked > 0 {
			if f.absent == nil {
				f.absent = make(map[wire.UserID]int)
			}
			f.absent[u]++
			if f.absent[u] != f.asked {
				continue
			}
		}
		users = append(users, u)
	}
	return f.item, f.asked == 0, users
}

// notHere files what an edge found no session for. A user whose route names
// another edge has it from there.
func (d *Deliverer) notHere(ctx context.Context, server wire.ServerID, answers []*rpcpb.NotHere) {
	for _, n := range answers {
		d.m.notHere.Add(float64(len(n.GetUsers())))
		d.mu.Lock()
		it, routed, users := d.recent.absentNow(n)
		d.mu.Unlock()
		a := absences{left: len(n.GetUsers()) - len(users)}
		if here := len(users); routed && here > 0 {
			users = d.elsewhere(ctx, server, users)
			a.elsewhere = here - len(users)
		}
		a.filed, a.failed = d.file(ctx, []fileJob{{item: &it, users: users, provider: true}})
		d.mu.Lock()
		d.absences.add(len(n.GetUsers()), &a)
		d.mu.Unlock()
	}
}

// elsewhere leaves out the users that have a session at another edge.
func (d *Deliverer) elsewhere(ctx context.Context, server wire.ServerID, users []wire.UserID) []wire.UserID {
	r, err := d.d.Registry.Lookup(ctx, users, nil)
	if err != nil || !r.Known {
		return users
	}
	return slices.DeleteFunc(users, func(u wire.UserID) bool {
		return slices.ContainsFunc(r.Users[u], func(rt registry.Route) bool { return rt.Server != server })
	})
}

// fileJob is one message and for whom it is filed; provider says that it goes
// to im_offline_messages too.
type fileJob struct {
	item     *machine.Item
	users    []wire.UserID
	provider bool
}

// fileOffline files the messages of a batch for those without a live route.
// Members that were no receivers by name are looked up now, after the pushes.
// Where the index has holes everybody is filed (an ack clears it), but
// providers are told only of those that every edge answers for.
func (d *Deliverer) fileOffline(ctx context.Context, t *route.Table, names *route.Names, effects []machine.Effects) {
	jobs, more := filings(names, effects)
	if len(jobs) == 0 {
		return
	}
	rest, known := t, t.Known
	if known && len(more.Users) > 0 {
		r, err := d.d.Registry.Lookup(ctx, more.Users, nil)
		if err != nil {
			d.m.failed.WithLabelValues("lookup").Inc()
		}
		known = err == nil && r.Known
		rest = route.NewTable(r, nil, nil)
	}
	for i := range jobs {
		jobs[i].provider = known
		for _, u := range jobs[i].item.File {
			if !known || !t.Online(u) && !rest.Online(u) {
				jobs[i].users = append(jobs[i].users, u)
			}
		}
	}
	d.file(ctx, jobs)
}

// filings returns the messages that may have to be filed, and for whom nobody
// has asked the index yet.
func filings(names *route.Names, effects []machine.Effects) (jobs []fileJob, more route.Names) {
	for i := range effects {
		for j := range effects[i].Items {
			it := &effects[i].Items[j]
			if len(it.File) == 0 {
				continue
			}
			jobs = append(jobs, fileJob{item: it})
			for _, u := range it.File {
				if !names.HasUser(u) {
					more.AddUsers([]wire.UserID{u})
				}
			}
		}
	}
	return jobs, more
}

// file writes the offline lists in one call and tells the providers. It returns
// how many entries it wrote and how many it could not.
func (d *Deliverer) file(ctx context.Context, jobs []fileJob) (filed, failed int) {
	var entries []registry.OfflineEntry
	for _, j := range jobs {
		for _, u := range j.users {
			entries = append(entries, registry.OfflineEntry{User: u, Conv: j.item.Conv, Seq: j.item.Seq, ID: j.item.ID})
			if j.provider {
				d.tellProvider(u, j.item)
			}
		}
	}
	if len(entries) == 0 {
		return 0, 0
	}
	if err := d.d.Registry.FileOffline(ctx, entries); err != nil {
		d.m.failed.WithLabelValues("file_offline").Inc()
		return 0, len(entries)
	}
	d.m.filed.Add(float64(len(entries)))
	return len(entries), 0
}

func (d *Deliverer) tellProvider(u wire.UserID, it *machine.Item) {
	if d.d.Producer == nil {
		return
	}
	n := d.d.Producer.Partitions(record.TopicOffline)
	if n <= 0 {
		d.m.failed.WithLabelValues("offline_topic").Inc()
		return
	}
	b, err := proto.Marshal(&recordpb.Offline{
		Version: record.Version, User: string(u), Conv: string(it.Conv), Seq: it.Seq,
		Id: int64(it.ID), From: string(it.From), Type: string(it.Type), Ts: it.TS,
	})
	if err == nil {
		p := record.PartitionID{Topic: record.TopicOffline, Number: record.PartitionOf(string(u), n)}
		err = d.d.Producer.Produce(p, it.TS, b, func(r mq.Delivery) {
			if r.Err != nil {
				d.m.failed.WithLabelValues("offline_topic").Inc()
			}
		})
	}
	if err != nil {
		d.m.failed.WithLabelValues("offline_topic").Inc()
	}
}
