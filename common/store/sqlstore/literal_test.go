package sqlstore

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

// read is the server's side of a literal: the rules of the manual for escapes.
// It fails on a text that goes on behind the literal.
func read(t *testing.T, text string) string {
	t.Helper()
	body, ok := strings.CutPrefix(text, "_binary'")
	if !ok {
		t.Fatalf("%q is no literal", text)
	}
	special := map[byte]byte{'0': 0, 'n': '\n', 'r': '\r', 'Z': 0x1a, 'b': '\b', 't': '\t'}
	var out []byte
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case c == '\'':
			if i != len(body)-1 {
				t.Fatalf("%q ends in the middle", text)
			}
			return string(out)
		case c == '\\' && i+1 < len(body):
			i++
			if s, ok := special[body[i]]; ok {
				out = append(out, s)
			} else {
				out = append(out, body[i])
			}
		default:
			out = append(out, c)
		}
	}
	t.Fatalf("%q does not end", text)
	return ""
}

func FuzzLiteral(f *testing.F) {
	for _, s := range []string{"", "plain", `' OR 1=1 -- \`, "\\", "a?b", "\x00\n\r\x1a\"'\\", "ü\xff\xfe'", strings.Repeat("'", 100)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		text, err := join([]statement{{sql: "?", args: []any{s}}})
		if err != nil {
			t.Fatal(err)
		}
		if got := read(t, text); got != s {
			t.Errorf("%q was written as %s, which is %q", s, text, got)
		}
		if most := weigh([]any{s}); len(text) > most {
			t.Errorf("%s has %d bytes, weighed as %d", text, len(text), most)
		}
	})
}

func TestJoin(t *testing.T) {
	text, err := join([]statement{
		{sql: "a ? b ?", args: []any{int64(-7), "x?y'"}}, {sql: "c"}, {sql: "?", args: []any{math.MaxInt}},
	})
	if want := `a -7 b _binary'x?y\'';c;9223372036854775807`; err != nil || text != want {
		t.Errorf("got %q, %v; want %q", text, err, want)
	}
	for name, st := range map[string]statement{
		"too few":  {sql: "? ?", args: []any{int64(1)}},
		"too many": {sql: "?", args: []any{int64(1), int64(2)}},
		"a float":  {sql: "?", args: []any{1.5}},
	} {
		if text, err := join([]statement{st}); err == nil {
			t.Errorf("%s: %q", name, text)
		}
	}
}

// testLiterals asks the server itself for what it was told.
func testLiterals(on serverTest) {
	t := on.t
	_, st := on.server.migrated(t)
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 200 {
		b := make([]byte, 256+rng.IntN(300))
		for i := range b {
			if b[i] = byte(i); round > 0 { // first every byte, then mostly those that mean something
				b[i] = "\x00\x01\n\r\x1a'\"\\?;-%_ab\x80\xbf\xc3\xe2\xf0\xff"[rng.IntN(21)]
			}
		}
		want, n := string(b), rng.Int64()-math.MaxInt64/2
		text, err := join([]statement{{sql: "SELECT ?, ?", args: []any{want, n}}})
		if err != nil {
			t.Fatal(err)
		}
		var got []byte
		var number int64
		if err := st.read.db.QueryRowContext(t.Context(), text).Scan(&got, &number); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if string(got) != want || number != n {
			t.Fatalf("%q came back as %q, %d as %d", want, got, n, number)
		}
	}
}
