// Package record defines what stands in the log: versioned protobuf records of
// im_messages and im_group_chat, the entries of im_push and
// im_offline_messages, and which partition a conversation belongs to.
//
// All functions are pure and safe for concurrent use. The log outlives
// binaries: a record of an unknown version or without a body decodes to
// ErrUnknown, which the machine sets aside instead of guessing.
package record

import (
	"errors"
	"fmt"
	"hash/fnv"

	"google.golang.org/protobuf/proto"

	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/wire"
)

// Version is the version of what this binary writes.
const Version = 1

// Topics of the log.
const (
	TopicMessages = "im_messages"         // private conversations
	TopicGroups   = "im_group_chat"       // group conversations and group commands
	TopicOffline  = "im_offline_messages" // what met nobody online
	TopicPush     = "im_push"             // not stored, at most once
)

// ErrUnknown is returned for a record that this binary cannot judge.
var ErrUnknown = errors.New("record of an unknown version or kind")

// Topic returns the topic that carries a conversation.
func Topic(conv wire.ConvID) string {
	if conv.IsGroup() {
		return TopicGroups
	}
	return TopicMessages
}

// PartitionID names one partition of the log.
type PartitionID struct {
	Topic  string
	Number int32
}

// String returns topic/number, as logs and errors show it.
func (p PartitionID) String() string { return fmt.Sprintf("%s/%d", p.Topic, p.Number) }

// Entry is one record as it stands in the log. Value belongs to the receiver.
type Entry struct {
	PartitionID
	Offset int64
	TS     int64 // ms: the log's append time where the topic sets it, else the producer's clock
	Value  []byte
}

// PartitionOf returns the partition of a key (a conversation, a user) among n.
// It is FNV-1a, kept here because librdkafka's and Java's hashes differ: the
// producer sets the number itself.
func PartitionOf(key string, n int32) int32 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(key)) // never fails
	return int32(h.Sum64() % uint64(n))
}

// ContentHash hashes what a retry must repeat: another hash under the same
// client_id is a conflict. Parts are length-prefixed, so ("ab","c") and
// ("a","bc") differ.
func ContentHash(parts ...string) uint64 {
	h := fnv.New64a()
	for _, p := range parts {
		_, _ = fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return h.Sum64()
}

// Encode returns the bytes of a record for the log.
func Encode(r *recordpb.Record) ([]byte, error) {
	r.Version = Version
	b, err := proto.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode record %d: %w", r.GetId(), err)
	}
	return b, nil
}

// Decode reads a record and checks that it can be judged: conversation id,
// sender, client_id, version and body. With ErrUnknown comes the record: whose
// it is can be told, just not what it says.
func Decode(b []byte) (*recordpb.Record, error) {
	r := new(recordpb.Record)
	if err := proto.Unmarshal(b, r); err != nil {
		return nil, fmt.Errorf("decode record: %w", err)
	}
	if r.GetId() <= 0 {
		return nil, fmt.Errorf("record has id %d", r.GetId())
	}
	if _, err := wire.ConvID(r.GetConv()).Parse(); err != nil {
		return nil, fmt.Errorf("record %d: %w", r.GetId(), err)
	}
	if !wire.ValidClientID(r.GetClientId()) || !wire.ValidID(r.GetFrom()) {
		return nil, fmt.Errorf("record %d: bad sender or client_id", r.GetId())
	}
	if r.GetVersion() != Version || r.GetBody() == nil {
		return r, fmt.Errorf("%w: record %d of version %d", ErrUnknown, r.GetId(), r.GetVersion())
	}
	return r, nil
}
