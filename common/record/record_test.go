package record

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

func sample() *recordpb.Record {
	return &recordpb.Record{
		Id: 7, Conv: "p:alice:bob", From: "alice", ClientId: "c1", Ts: 1000, Hash: 9,
		Body: &recordpb.Record_Send{Send: &recordpb.Send{Type: "text", Content: "hi"}},
	}
}

func TestRoundTrip(t *testing.T) {
	b, err := Encode(sample())
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	want := sample()
	want.Version = Version
	if !proto.Equal(want, got) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		change  func(*recordpb.Record)
		unknown bool // whose it is can be told
	}{
		"no id":          {change: func(r *recordpb.Record) { r.Id = 0 }},
		"no conv":        {change: func(r *recordpb.Record) { r.Conv = "" }},
		"bad conv":       {change: func(r *recordpb.Record) { r.Conv = "p:bob:alice" }},
		"no sender":      {change: func(r *recordpb.Record) { r.From = "" }},
		"bad client_id":  {change: func(r *recordpb.Record) { r.ClientId = "a b" }},
		"long client_id": {change: func(r *recordpb.Record) { r.ClientId = strings.Repeat("c", 65) }},
		"newer version":  {change: func(r *recordpb.Record) { r.Version = Version + 1 }, unknown: true},
		"no version":     {change: func(r *recordpb.Record) { r.Version = 0 }, unknown: true},
		"no body":        {change: func(r *recordpb.Record) { r.Body = nil }, unknown: true},
	} {
		r := sample()
		r.Version = Version
		tc.change(r)
		b, err := proto.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(b)
		if err == nil || errors.Is(err, ErrUnknown) != tc.unknown || (got != nil) != tc.unknown {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if got, err := Decode([]byte("junk")); err == nil || got != nil {
		t.Errorf("junk: %v, %v", got, err)
	}
}

// The log outlives binaries: these values may never change.
func TestValuesThatStandInTheLog(t *testing.T) {
	for key, want := range map[string]int32{"p:alice:bob": 8, "g:team": 5, "": 5} {
		if got := PartitionOf(key, 16); got != want {
			t.Errorf("PartitionOf(%q, 16) = %d, want %d", key, got, want)
		}
	}
	if got, want := ContentHash("text", "hi"), uint64(0xaeac1e16d97bed63); got != want {
		t.Errorf("ContentHash = %#x, want %#x", got, want)
	}
	if ContentHash("ab", "c") == ContentHash("a", "bc") {
		t.Error("parts are not told apart")
	}
	for conv, want := range map[wire.ConvID]string{"p:a:b": TopicMessages, "g:team": TopicGroups} {
		if got := Topic(conv); got != want {
			t.Errorf("Topic(%s) = %s, want %s", conv, got, want)
		}
	}
	if got := (PartitionID{Topic: TopicGroups, Number: 3}).String(); got != "im_group_chat/3" {
		t.Error(got)
	}
}

func FuzzDecode(f *testing.F) {
	b, err := Encode(sample())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Decode(b)
		if r == nil {
			if err == nil {
				t.Fatal("nothing, without an error")
			}
			return
		}
		if err != nil && !errors.Is(err, ErrUnknown) {
			t.Fatalf("a record comes with %v", err)
		}
		if _, err := wire.ConvID(r.GetConv()).Parse(); err != nil || r.GetId() <= 0 ||
			!wire.ValidID(r.GetFrom()) || !wire.ValidClientID(r.GetClientId()) {
			t.Fatalf("let pass: %v", r)
		}
	})
}
