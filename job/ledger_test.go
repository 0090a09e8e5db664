package job

import (
	"context"
	"flag"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/store/memstore"
	"github.com/starling-im/starling/common/store/shards"
)

// houseStore notes what housekeeping asks for.
type houseStore struct {
	store.Store
	prepared, purged, retired []time.Time
}

func (s *houseStore) Prepare(_ context.Context, now int64) error {
	s.prepared = append(s.prepared, time.UnixMilli(now).UTC())
	return nil
}

func (s *houseStore) Purge(_ context.Context, before int64) error {
	s.purged = append(s.purged, time.UnixMilli(before).UTC())
	return nil
}

func (s *houseStore) Retire(_ context.Context, before int64) error {
	s.retired = append(s.retired, time.UnixMilli(before).UTC())
	return nil
}

// Partitions are made ahead at once and then every hour; what is old goes every
// hour: verdicts by the slowest partition's time, history only if it is to.
func TestKeepsHouse(t *testing.T) {
	for _, history := range []time.Duration{0, 40 * 24 * time.Hour} {
		synctest.Test(t, func(t *testing.T) {
			s := &houseStore{Store: memstore.New()}
			cfg := &Config{OutcomeRetention: 8 * 24 * time.Hour, HistoryRetention: history}
			house := newHouse(zap.NewNop(), prometheus.NewRegistry(), shards.Shard{Store: s}, cfg)
			start := time.Now().UTC()
			behind := start.Add(-50 * time.Hour)
			p := record.PartitionID{Topic: record.TopicMessages}
			st, err := s.Claim(t.Context(), p, "id", 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := s.Commit(t.Context(), &store.Turn{
				Partitions: []store.PartitionMove{{PartitionID: p, Epoch: st.Epoch, From: -1, To: 0}},
				Outcomes:   []store.Outcome{{OutcomeKey: store.OutcomeKey{Conv: "g:g"}, Partition: p, TS: behind.UnixMilli()}},
			}); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Hour+time.Minute)
			defer cancel()
			house.keep(ctx)
			one, two := start.Add(time.Hour), start.Add(2*time.Hour)
			old := behind.Add(-8 * 24 * time.Hour)
			want := [][]time.Time{{start, one, two}, {old, old}, nil}
			if history > 0 {
				want[2] = []time.Time{behind.Add(-history), behind.Add(-history)}
			}
			if d := cmp.Diff(want, [][]time.Time{s.prepared, s.purged, s.retired}); d != "" {
				t.Errorf("history %v: prepared, purged, retired (-want +got):\n%s", history, d)
			}
		})
	}
}

func TestRecordTime(t *testing.T) {
	now := time.UnixMilli(1_794_000_000_000)
	ago := func(d time.Duration) store.PartitionState {
		return store.PartitionState{AppliedTS: now.Add(-d).UnixMilli()}
	}
	for name, c := range map[string]struct {
		states []store.PartitionState
		lag    time.Duration
	}{
		"no partitions":          {nil, 0},
		"one without verdicts":   {[]store.PartitionState{{}, ago(time.Minute)}, time.Minute},
		"the slowest":            {[]store.PartitionState{ago(time.Hour), ago(9 * 24 * time.Hour), ago(0)}, 9 * 24 * time.Hour},
		"a clock ahead of ours":  {[]store.PartitionState{ago(-time.Hour)}, 0},
		"one that nobody writes": {[]store.PartitionState{ago(400 * 24 * time.Hour)}, longestLag},
	} {
		if got := now.Sub(recordTime(c.states, now)); got != c.lag {
			t.Errorf("%s: %v behind, want %v", name, got, c.lag)
		}
	}
}

func TestHistoryRetentionSetting(t *testing.T) {
	for value, bad := range map[string]bool{"0": false, "744h": false, "743h": true, "-1h": true} {
		var cfg Config
		fs := flag.NewFlagSet("", flag.ContinueOnError)
		cfg.RegisterFlags(fs, "job.")
		if err := fs.Parse([]string{"-job.history-retention=" + value}); err != nil {
			t.Fatal(err)
		}
		err := cfg.Validate()
		if bad != (err != nil) || bad && !strings.Contains(err.Error(), "job.history-retention") {
			t.Errorf("%s: %v", value, err)
		}
	}
}
