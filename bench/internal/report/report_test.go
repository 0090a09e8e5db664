package report

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/HdrHistogram/hdrhistogram-go"

	"github.com/starling-im/starling/common/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

func TestReport(t *testing.T) {
	h := hdrhistogram.New(1, 1_000_000, 3)
	for us := int64(1000); us <= 100_000; us += 1000 {
		if err := h.RecordValue(us); err != nil {
			t.Fatal(err)
		}
	}
	l := Latencies(h)
	if l.Count != 100 || l.P50 < 49 || l.P50 > 51.1 || l.P99 < 98 || l.P99 > 100.1 || l.Max < 100 {
		t.Errorf("latencies of 1…100 ms: %+v", l)
	}
	r := &Report{Scenario: "chat", Connections: 2, Sent: 5, Acked: 5, Delivery: l, FirstFailure: "no"}
	if !r.Clean() {
		t.Error("a run without a fault is not clean")
	}
	var text, js bytes.Buffer
	if err := r.Text(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"due → delivered", "lost 0", "first failure: no"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in:\n%s", want, text.String())
		}
	}
	if err := r.JSON(&js); err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(js.Bytes(), &back); err != nil || back != *r {
		t.Errorf("JSON: %v, %+v", err, back)
	}
	r.Holes = 1
	if r.Clean() {
		t.Error("a run with a hole is clean")
	}
}
