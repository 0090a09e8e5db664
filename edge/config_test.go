package edge

import (
	"flag"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/starling-im/starling/common/registry/memregistry"
	"github.com/starling-im/starling/common/wire"
)

func defaults(t *testing.T) *Config {
	t.Helper()
	c := new(Config)
	fs := flag.NewFlagSet("test", flag.ContinueOnError)
	c.RegisterFlags(fs, Prefix)
	fs.VisitAll(func(f *flag.Flag) {
		if f.Usage == "" || !strings.HasPrefix(f.Name, Prefix) {
			t.Errorf("flag %s has no prefix or no usage", f.Name)
		}
	})
	return c
}

func TestDefaultsAreValid(t *testing.T) {
	if err := defaults(t).Validate(); err != nil {
		t.Fatal(err)
	}
}

func TestValidateNamesEveryFaultAtOnce(t *testing.T) {
	c := defaults(t)
	c.ListenAddr, c.GRPCAddr, c.AdminAddr = "0.0.0.0:1", ":2", "nonsense"
	c.ID, c.Heartbeat, c.QueueBytes, c.LogicAddrs = "a b", 0, 1, []string{"x"}
	err := c.Validate()
	if err == nil {
		t.Fatal("valid")
	}
	for _, key := range []string{"advertise-url", "advertise-rpc", "admin-addr", "id", "heartbeat", "queue-bytes", "logic-addrs"} {
		if !strings.Contains(err.Error(), "edge."+key+": ") {
			t.Errorf("nothing about %s in:\n%v", key, err)
		}
	}
	c = defaults(t)
	c.AdvertiseURL, c.AdvertiseRPC = "http://x", "y"
	if err := c.Validate(); err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("want two faults, got:\n%v", err)
	}
}

func TestRegisterRefusesWhatCannotWork(t *testing.T) {
	if err := Register(modules{}, *defaults(t), Deps{Metrics: prometheus.NewRegistry()}); err == nil {
		t.Error("no registry, no tokens: registered")
	}
	c := defaults(t)
	c.GRPCAddr = ""
	if err := Register(modules{}, *c, Deps{Registry: memregistry.New()}); err == nil || !strings.Contains(err.Error(), "edge.grpc-addr") {
		t.Errorf("got %v", err)
	}
}

func TestPortInUseIsOneLine(t *testing.T) {
	r := startRig(t, nil)
	ms := modules{}
	c := defaults(t)
	c.ListenAddr, c.GRPCAddr, c.AdminAddr = r.addrs.WS, "127.0.0.1:0", "127.0.0.1:0"
	if err := Register(ms, *c, Deps{Metrics: prometheus.NewRegistry(), Registry: r.reg, Tokens: r.keys.Verifier()}); err != nil {
		t.Fatal(err)
	}
	err := ms[Module].Start(t.Context())
	if err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "edge.listen-addr: "+r.addrs.WS+" is in use") {
		t.Errorf("got %v", err)
	}
	if err := ms[Module].Stop(t.Context()); err != nil {
		t.Errorf("stop of what never started: %v", err)
	}
}

func TestConnIDsGrow(t *testing.T) {
	var a, b connIDs
	a.init("edge-a")
	b.init("edge-b")
	seen := map[wire.ConnID]bool{}
	last := wire.ConnID(0)
	for range 20000 { // more than a millisecond has
		id := a.next()
		if id <= last {
			t.Fatalf("%d after %d", id, last)
		}
		last = id
		seen[id] = true
	}
	if id := b.next(); seen[id] {
		t.Error("two edges made one id")
	}
}
