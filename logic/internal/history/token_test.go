package history

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/wire"
)

type mqDelivery = mq.Delivery

func nowAt(ms int64) func() time.Time { return func() time.Time { return time.UnixMilli(ms) } }

func TestTokenCarriesWhatIsToCome(t *testing.T) {
	in := &token{user: "bob", limit: 7, newDevice: true, after: "g:m", cursors: map[wire.ConvID]int64{"g:a": 1, "g:m": 2, "g:z": 3, "p:a:bob": 1 << 40}}
	s, err := in.encode()
	if err != nil {
		t.Fatal(err)
	}
	out, err := decodeToken(s)
	if err != nil {
		t.Fatal(err)
	}
	want := &token{user: "bob", limit: 7, newDevice: true, after: "g:m", cursors: map[wire.ConvID]int64{"g:z": 3, "p:a:bob": 1 << 40}}
	if diff := cmp.Diff(want, out, cmp.AllowUnexported(token{})); diff != "" {
		t.Error(diff)
	}
}

// A client that filled a frame with cursors can send the token back.
func TestTokenFitsAFrame(t *testing.T) {
	cursors := map[wire.ConvID]int64{}
	size := 0
	for i := 0; size < wire.MaxFrame-1000; i++ {
		c := wire.GroupConv(wire.GroupID(fmt.Sprintf("%032x", uint64(i)*0x9e3779b97f4a7c15)))
		cursors[c] = int64(i)
		size += len(c) + 8
	}
	s, err := (&token{user: "bob", limit: 100, cursors: cursors}).encode()
	if err != nil || len(s) > wire.MaxFrame-1000 {
		t.Errorf("a token of %d bytes for %d cursors, %v", len(s), len(cursors), err)
	}
}

func FuzzToken(f *testing.F) {
	for _, tok := range []*token{
		{user: "bob", limit: 1},
		{user: "bob", limit: 500, newDevice: true, after: "g:m", cursors: map[wire.ConvID]int64{"g:z": 3, "p:a:bob": 9}},
	} {
		s, err := tok.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(s, []byte(s))
	}
	f.Add("", []byte{1, 0, 1, 3, 'b', 'o', 'b', 0, 1, 3, 'g', ':', 'z', 5})
	f.Fuzz(func(t *testing.T, s string, raw []byte) {
		if tok, err := decodeToken(s); err == nil {
			check(t, tok)
		}
		if tok, err := parseToken(raw); err == nil {
			check(t, tok)
		}
	})
}

// check: what decodes is valid and survives another round.
func check(t *testing.T, tok *token) {
	t.Helper()
	if tok.limit < 1 || tok.limit > wire.MaxSyncLimit || !wire.ValidID(string(tok.user)) {
		t.Fatalf("decoded %+v", tok)
	}
	for c, s := range tok.cursors {
		if _, err := c.Parse(); err != nil || s < 0 || c <= tok.after {
			t.Fatalf("decoded cursor %q %d", c, s)
		}
	}
	s, err := tok.encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := decodeToken(s)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(tok, again, cmp.AllowUnexported(token{})); diff != "" {
		t.Fatal(diff)
	}
}
