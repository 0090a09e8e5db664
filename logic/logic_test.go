package logic

import (
	"context"
	"errors"
	"flag"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc/metadata"

	"github.com/starling-im/starling/common/app"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/registry/memregistry"
	"github.com/starling-im/starling/common/rpc"
	"github.com/starling-im/starling/common/rpc/rpcpb"
	"github.com/starling-im/starling/common/store/memstore"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/token"
	"github.com/starling-im/starling/common/wire"
	"github.com/starling-im/starling/logic/internal/logictest"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

const patience = 30 * time.Second

// modules takes what Register gives and runs it as a process would.
type modules struct {
	names []string
	mods  map[string]app.Module
}

func (m *modules) Register(name string, mod app.Module, _ ...string) {
	m.names = append(m.names, name)
	if m.mods == nil {
		m.mods = map[string]app.Module{}
	}
	m.mods[name] = mod
}

type world struct {
	store *memstore.Store
	reg   *memregistry.Registry
	log   *logictest.Log
	keys  *token.Keyring
	mods  modules
	end   func()
}

func testConfig(t *testing.T) Config {
	t.Helper()
	var cfg Config
	fs := flag.NewFlagSet("test", flag.ContinueOnError)
	cfg.RegisterFlags(fs, Prefix)
	err := fs.Parse([]string{"-logic.http-addr", "127.0.0.1:0", "-logic.grpc-addr", "127.0.0.1:0", "-logic.admin-addr", "127.0.0.1:0", "-logic.id", "logic-1"})
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// start runs all modules; end drains and stops them in reverse.
func start(t *testing.T) *world {
	t.Helper()
	w := &world{store: memstore.New(), reg: memregistry.New()}
	w.log = logictest.New(t.Context(), w.store)
	var err error
	if w.keys, err = token.LoadOrCreate(t.TempDir()); err != nil {
		t.Fatal(err)
	}
	preg := prometheus.NewRegistry()
	err = Register(&w.mods, testConfig(t), Deps{
		Log: zap.NewNop(), Metrics: preg, Gatherer: preg, Registry: w.reg, Store: w.store, Producer: w.log,
		Tokens: w.keys, Verifier: w.keys.Verifier(), Embedded: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, n := range w.mods.names {
		mod := w.mods.mods[n]
		if mod.Start != nil {
			if err := mod.Start(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if mod.Run != nil {
			wg.Go(func() {
				if err := mod.Run(ctx); err != nil {
					t.Errorf("run %s: %v", n, err)
				}
			})
		}
	}
	var once sync.Once
	w.end = func() {
		once.Do(func() {
			for _, n := range slices.Backward(w.mods.names) {
				if f := w.mods.mods[n].Drain; f != nil {
					if err := f(ctx); err != nil {
						t.Errorf("drain: %v", err)
					}
				}
			}
			cancel()
			wg.Wait()
			for _, n := range slices.Backward(w.mods.names) {
				if f := w.mods.mods[n].Stop; f != nil {
					if err := f(context.Background()); err != nil {
						t.Errorf("stop: %v", err)
					}
				}
			}
			w.log.Close()
		})
	}
	t.Cleanup(w.end)
	return w
}

// lease waits for the tier's lease.
func (w *world) lease(t *testing.T) registry.Lease {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		live, err := w.reg.Live(t.Context(), registry.TierLogic)
		if err == nil && len(live) == 1 {
			return live[0]
		}
	}
	t.Fatal("no lease")
	return registry.Lease{}
}

func TestServesEdgesByItsLease(t *testing.T) {
	w := start(t)
	l := w.lease(t)
	if l.Server != "logic-1" || l.RPCAddr == "" || l.Epoch == 0 {
		t.Fatalf("lease %+v", l)
	}
	cc, err := rpc.Dial(l.RPCAddr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cc.Close() }()
	edge := rpcpb.NewLogicClient(cc)
	ctx := metadata.AppendToOutgoingContext(t.Context(), "server", "edge-1")
	reply, err := edge.Login(ctx, &rpcpb.LoginRequest{User: "alice"})
	if err != nil || reply.GetHistoryEpoch() == "" {
		t.Fatalf("login: %v %v", reply, err)
	}
	st, err := edge.Uplink(ctx)
	if err != nil {
		t.Fatal(err)
	}
	err = st.Send(&rpcpb.UpBatch{Frames: []*rpcpb.Up{{
		Conn: 7, User: "alice", Device: "d", Op: int32(wire.OpSend), Seq: 3,
		Body: []byte(`{"to":"bob","client_id":"c1","type":"text","content":"hi"}`),
	}}})
	if err != nil {
		t.Fatal(err)
	}
	b, err := st.Recv()
	if err != nil {
		t.Fatal(err)
	}
	d := b.GetFrames()[0]
	var ack wire.SendAck
	if err := wire.Unmarshal(d.GetBody(), &ack); err != nil || wire.Op(d.GetOp()) != wire.OpSendAck || d.GetSeq() != 3 || ack.Conv != "p:alice:bob" {
		t.Fatalf("answer %v %v", d, err)
	}
	w.end() // with a stream open: it ends in good order
	if _, err := st.Recv(); err == nil || errors.Is(err, io.EOF) {
		t.Fatalf("a drained stream says %v, want unavailable", err)
	}
	live, err := w.reg.Live(t.Context(), registry.TierLogic)
	if err != nil || len(live) != 0 {
		t.Errorf("lease after the end: %v %v", live, err)
	}
}

func TestReady(t *testing.T) {
	w := start(t)
	ready := w.mods.mods[Module].Ready
	for deadline := time.Now().Add(patience); ready() != nil && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if err := ready(); err != nil {
		t.Fatalf("not ready: %v", err)
	}
	w.log.SetDown(errors.New("no broker"))
	if err := ready(); err == nil || !strings.Contains(err.Error(), "log: no broker") {
		t.Errorf("ready says %v with the log away", err)
	}
	w.log.SetDown(nil)
	w.end()
	if err := ready(); err == nil || !strings.Contains(err.Error(), "draining") {
		t.Errorf("ready says %v after draining", err)
	}
}

func TestPortInUse(t *testing.T) {
	w := start(t)
	cfg := testConfig(t)
	cfg.GRPCAddr = w.lease(t).RPCAddr
	d := Deps{Registry: w.reg, Store: w.store, Producer: w.log, Verifier: w.keys.Verifier()}
	second, err := newTier(cfg, d)
	if err != nil {
		t.Fatal(err)
	}
	err = second.serve.start(t.Context())
	if err == nil || !strings.Contains(err.Error(), "logic.grpc-addr") || strings.Contains(err.Error(), "\n") {
		t.Errorf("start on a used port: %v", err)
	}
}

func TestConfigNamesEveryFault(t *testing.T) {
	cfg := testConfig(t)
	if err := cfg.Validate(); err != nil {
		t.Fatalf("defaults: %v", err)
	}
	cfg.HTTPAddr, cfg.GRPCAddr, cfg.ID, cfg.Workers, cfg.Limits.LargeGroup, cfg.Limits.LookBudget = "nonsense", "0.0.0.0:1", "a b", 0, 0, 0
	err := cfg.Validate()
	for _, key := range []string{"logic.http-addr", "logic.advertise-rpc", "logic.id", "logic.workers", "logic.large-group", "logic.look-budget"} {
		if err == nil || !strings.Contains(err.Error(), key) {
			t.Errorf("%s is not named in %v", key, err)
		}
	}
}
