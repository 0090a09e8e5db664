package ledger

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/starling-im/starling/common/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

func part(number int32, first, applied, end int64, c Columns) Partition {
	return Partition{Topic: "im_messages", Partition: number, First: first, Applied: applied, End: end, Columns: c}
}

// Every way not to balance is found, by how much, and where.
func TestPartition(t *testing.T) {
	all := Columns{Stored: 1, Updates: 2, Commands: 3, Repeats: 4, Refused: 5, SetAside: 6} // 21
	for name, c := range map[string]struct {
		p               Partition
		lag, difference int64
		text            []string
	}{
		"nothing yet":                    {part(0, 0, -1, 0, Columns{}), 0, 0, nil},
		"nothing applied":                {part(0, 0, -1, 5, Columns{}), 5, 0, nil},
		"all applied":                    {part(0, 0, 20, 21, all), 0, 0, nil},
		"behind":                         {part(0, 0, 20, 30, all), 9, 0, nil},
		"an old log, nothing applied":    {part(0, 100, -1, 103, Columns{}), 3, 0, nil},
		"an old log":                     {part(0, 100, 120, 123, all), 2, 0, nil},
		"one in no column":               {part(3, 0, 21, 25, all), 3, 1, []string{"im_messages/3: +1: 22 records were applied from offset 0 on, and the columns count 21"}},
		"one twice":                      {part(3, 0, 19, 25, all), 5, -1, []string{"im_messages/3: -1: "}},
		"the end was lost":               {part(3, 0, 20, 19, all), 0, -2, []string{"im_messages/3: -2: applied up to offset 20, but the log ends at 19"}},
		"neither hides the other":        {part(3, 0, 22, 21, all), 0, 2, []string{"+2", "-2"}},
		"an end that nobody could read":  {part(0, 0, 20, -1, all), 0, 0, nil},
		"that does not hide a miscount":  {part(0, 0, 25, -1, all), 0, 5, []string{"+5"}},
		"counted before the first claim": {part(0, 100, -1, 100, Columns{Stored: 1}), 0, -1, []string{"-1"}},
	} {
		c.p.Settle()
		if c.p.Lag != c.lag || c.p.Difference != c.difference {
			t.Errorf("%s: lag %d, difference %d, want %d, %d", name, c.p.Lag, c.p.Difference, c.lag, c.difference)
		}
		got := c.p.Differences()
		if len(got) != len(c.text) {
			t.Errorf("%s: %q, want %q", name, got, c.text)
			continue
		}
		for i := range got {
			if !strings.Contains(got[i], c.text[i]) {
				t.Errorf("%s: %q does not say %q", name, got[i], c.text[i])
			}
		}
	}
}

func TestSum(t *testing.T) {
	job := func(name string, ps ...Partition) Process { return Process{Process: name, Partitions: ps} }
	one, later := part(1, 0, 1, 5, Columns{Stored: 2}), part(1, 0, 3, 5, Columns{Stored: 3, Updates: 1})
	zero := part(0, 10, 11, 12, Columns{Commands: 2})
	l := Sum([]Process{job("a", later, zero), job("b", one, zero)}, nil)
	want := Totals{End: 17, Lag: 1, Columns: Columns{Stored: 3, Updates: 1, Commands: 2}}
	if !l.Balanced || l.Totals != want || len(l.Log) != 2 || l.Log[0].Partition != 0 || l.Log[1].Applied != 3 {
		t.Errorf("%+v", l)
	}
	// What one reading shows is not hidden by a newer one.
	bad := part(1, 0, 1, 5, Columns{Stored: 1})
	for _, answers := range [][]Process{{job("a", later), job("b", bad)}, {job("b", bad), job("a", later)}} {
		if l := Sum(answers, nil); l.Balanced || len(l.Differences) != 1 || !strings.HasPrefix(l.Differences[0], "im_messages/1: +1") {
			t.Errorf("%+v", l)
		}
	}
	e := Process{
		Process: "edge e", Pushes: []Push{
			NewPush("edge e", "frames", 3, map[string]int64{"applied": 2, "repeats": 1}),
			NewPush("edge e", "users", 3, map[string]int64{"here": 2}),
		}, Problems: []string{"shard b: away"},
	}
	l = Sum([]Process{e}, []string{"http://x: does not answer"})
	for _, d := range []string{"http://x: does not answer", "edge e: shard b: away", "edge e: users: +1 of 3"} {
		if !slices.Contains(l.Differences, d) {
			t.Errorf("%q lacks %q", l.Differences, d)
		}
	}
	if l.Balanced || len(l.Differences) != 3 || len(l.Unread) != 2 {
		t.Errorf("%+v", l)
	}
}

func TestParseURLs(t *testing.T) {
	got, err := ParseURLs(" 127.0.0.1:3190, http://job:3192/ ,")
	if err != nil || !slices.Equal(got, []string{"http://127.0.0.1:3190", "http://job:3192"}) {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"", ",", "ftp://x", "http://x/ledger", "a b:1", "http://?x"} {
		if got, err := ParseURLs(bad); err == nil {
			t.Errorf("%q: %v", bad, got)
		}
	}
	for addr, want := range map[string]string{":1": "127.0.0.1:1", "0.0.0.0:1": "127.0.0.1:1", "[::]:1": "127.0.0.1:1", "10.0.0.1:1": "10.0.0.1:1", "job:1": "job:1"} {
		if got := Reachable(addr); got != want {
			t.Errorf("%s: %s, want %s", addr, got, want)
		}
	}
}

func TestAsk(t *testing.T) {
	answer := Process{Process: "job j", Partitions: []Partition{part(0, 0, 1, 2, Columns{Stored: 2})}}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != Path:
			http.NotFound(w, r)
		default:
			_ = json.NewEncoder(w).Encode(answer)
		}
	}))
	defer srv.Close()
	if l := Ask(t.Context(), []string{srv.URL}); !l.Balanced || l.Totals.Stored != 2 || l.Totals.End != 2 {
		t.Errorf("%+v", l)
	}
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") }))
	defer other.Close()
	none := httptest.NewServer(http.NotFoundHandler())
	defer none.Close()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	l := Ask(t.Context(), []string{srv.URL, other.URL, none.URL, gone.URL})
	if l.Balanced || len(l.Differences) != 3 || l.Totals.Stored != 2 {
		t.Fatalf("%+v", l)
	}
	for i, want := range []string{other.URL + ": answers with no ledger", none.URL + ": has no ledger", gone.URL + ": does not answer"} {
		if !strings.HasPrefix(l.Differences[i], want) {
			t.Errorf("%q, want %q", l.Differences[i], want)
		}
	}
}
