package job

import (
	"context"
	"fmt"
	"time"

	"github.com/starling-im/starling/common/ledger"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/store/shards"
)

// accountTime bounds one answer to GET /ledger.
const accountTime = 8 * time.Second

// account is the answer to GET /ledger: the partitions of every shard, whoever
// owns them, and the pushes of this process. Rows are read before the log's end,
// so that nothing applied meanwhile is beyond it.
func (t *tier) account(ctx context.Context) ledger.Process {
	ctx, cancel := context.WithTimeout(ctx, accountTime)
	defer cancel()
	out := ledger.Process{Process: "job " + t.cfg.ID}
	for _, w := range t.workers {
		states, err := w.states(ctx)
		if err != nil {
			out.Problems = append(out.Problems, fmt.Sprintf("the rows of shard %s cannot be read: %v", w.shard.Name, err))
			continue
		}
		out.Partitions = append(out.Partitions, w.partitions(states, t.d.Producer.Partitions)...)
	}
	if err := t.ends(ctx, out.Partitions); err != nil {
		out.Problems = append(out.Problems, fmt.Sprintf("the log's end cannot be read: %v", err))
	}
	for i := range out.Partitions {
		out.Partitions[i].Settle()
	}
	for _, w := range t.workers {
		out.Pushes = append(out.Pushes, w.deliverer.Ledger("job "+string(w.server))...)
	}
	return out
}

// ends fills in where the log ends: one asks at a time, as each connects anew.
func (t *tier) ends(ctx context.Context, ps []ledger.Partition) error {
	if t.d.Ends == nil {
		return nil
	}
	select {
	case t.asking <- struct{}{}:
		defer func() { <-t.asking }()
	case <-ctx.Done():
		return ctx.Err()
	}
	ids := make([]record.PartitionID, len(ps))
	for i := range ps {
		ids[i] = record.PartitionID{Topic: ps[i].Topic, Number: ps[i].Partition}
	}
	ends, err := t.d.Ends(ctx, ids)
	if err != nil {
		return err
	}
	for i := range ps {
		if end, ok := ends[ids[i]]; ok {
			ps[i].End = end
		}
	}
	return nil
}

// states are the rows of the shard's partitions, if its database may be used.
func (w *worker) states(ctx context.Context) ([]store.PartitionState, error) {
	if w.shard.Check != nil {
		if err := w.shard.Check(ctx); err != nil {
			return nil, err
		}
	}
	return w.shard.Store.Partitions(ctx) //nolint:wrapcheck // says what was tried
}

// partitions are the accounts of rows, and of the shard's partitions that nobody
// has claimed yet: all in those is lag.
func (w *worker) partitions(states []store.PartitionState, count func(topic string) int32) []ledger.Partition {
	var out []ledger.Partition
	claimed := make(map[record.PartitionID]bool, len(states))
	for i := range states {
		claimed[states[i].PartitionID] = true
		out = append(out, accountOf(&states[i]))
	}
	for _, topic := range shards.Topics() {
		for n := range count(topic) {
			if p := (record.PartitionID{Topic: topic, Number: n}); !claimed[p] && w.shard.Holds.Has(p) {
				out = append(out, accountOf(&store.PartitionState{PartitionID: p, Applied: -1}))
			}
		}
	}
	return out
}

// accountOf is the account of a row; nothing is said of the log's end.
func accountOf(s *store.PartitionState) ledger.Partition {
	return ledger.Partition{
		Topic: s.Topic, Partition: s.Number, First: s.First, Applied: s.Applied, End: -1,
		Columns: ledger.Columns{
			Stored: s.Stored, Updates: s.Updates, Commands: s.Commands,
			Repeats: s.Repeats, Refused: s.Refused, SetAside: s.SetAside,
		},
	}
}
