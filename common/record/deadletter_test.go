package record

import (
	"errors"
	"math"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/starling-im/starling/common/record/recordpb"
)

func letter(t *testing.T, r *recordpb.Record) *DeadLetter {
	t.Helper()
	b, err := proto.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return &DeadLetter{Topic: TopicMessages, Partition: 3, Offset: 41023, TS: 1000, Error: "a bug", Value: b}
}

func TestDeadLetter(t *testing.T) {
	l := letter(t, sample())
	b, err := EncodeDeadLetter(l)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeDeadLetter(b)
	if err != nil || got.ID() != "im_messages/3/41023" || got.TS != 1000 || got.Error != "a bug" || string(got.Value) != string(l.Value) {
		t.Errorf("got %+v, %v", got, err)
	}
	p, offset, err := ParseLetterID(got.ID())
	if err != nil || p != l.Place() || offset != l.Offset {
		t.Errorf("parsed %v %d, %v", p, offset, err)
	}
	for _, bad := range []string{
		"", "null", "{}", "junk", `{"topic":"im_push","partition":1}`, `{"topic":"im_messages","partition":-1}`,
		`{"topic":"im_messages","offset":-1}`, `{"topic":"im_messages","partition":4294967296}`, `{"topic":"im_messages","value":"%"}`,
	} {
		if l, err := DecodeDeadLetter([]byte(bad)); err == nil {
			t.Errorf("%q gave %+v", bad, l)
		}
	}
	for _, bad := range []string{
		"", "3/5", "im_push/3/5", "im_messages/3", "im_messages/-1/5", "im_messages/3/-5", "im_messages/3/5/7", "im_messages/x/5",
		"im_messages/2147483648/5", "im_messages/3/9223372036854775808", "im_messages//",
	} {
		if p, offset, err := ParseLetterID(bad); err == nil {
			t.Errorf("%q gave %v %d", bad, p, offset)
		}
	}
}

func TestReplay(t *testing.T) {
	r := sample()
	r.Version, r.Origin = Version, &recordpb.Origin{Server: "e1", Conn: 7}
	r.Limits = &recordpb.Limits{LargeGroup: 5}
	again := func(l *DeadLetter) *recordpb.Record {
		t.Helper()
		b, err := l.Replay()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(b)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	got := again(letter(t, r))
	want := proto.CloneOf(r)
	want.Origin, want.ReplayOf = nil, 1000
	if !proto.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	// Set aside again: the first time counts.
	l := letter(t, got)
	l.TS = 9000
	if got := again(l); got.GetReplayOf() != 1000 {
		t.Errorf("replay of %d", got.GetReplayOf())
	}
	l = letter(t, r)
	l.TS = 0
	if got := again(l); got.GetReplayOf() == 0 {
		t.Error("without a time it is no replay")
	}
	r.Version++
	if _, err := letter(t, r).Replay(); !errors.Is(err, ErrUnknown) {
		t.Errorf("a newer version: %v", err)
	}
	if _, err := (&DeadLetter{Value: []byte("junk")}).Replay(); err == nil {
		t.Error("junk is written again")
	}
}

// FuzzDeadLetter: whatever stands in im_dead_letter is read or refused; what is
// read keeps its name, and is written again as a record that can be judged.
func FuzzDeadLetter(f *testing.F) {
	b, err := proto.Marshal(sample())
	if err != nil {
		f.Fatal(err)
	}
	for _, l := range []DeadLetter{
		{Topic: TopicMessages, Value: b}, {Topic: TopicGroups, Partition: math.MaxInt32, Offset: math.MaxInt64, TS: -5, Value: []byte("junk")},
	} {
		b, err := EncodeDeadLetter(&l)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"topic":"im_messages","value":"CAEQBw=="}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := DecodeDeadLetter(b)
		if err != nil {
			return
		}
		if p, offset, err := ParseLetterID(l.ID()); err != nil || p != l.Place() || offset != l.Offset {
			t.Fatalf("%s is read as %v %d, %v", l.ID(), p, offset, err)
		}
		again, err := l.Replay()
		if err != nil {
			return
		}
		if r, err := Decode(again); err != nil || r.GetReplayOf() <= 0 || r.GetOrigin() != nil {
			t.Fatalf("written again as %v, %v", r, err)
		}
	})
}
