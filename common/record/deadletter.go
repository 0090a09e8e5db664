package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// DeadLetter is the JSON of an entry of im_dead_letter: a record that the
// machine set aside, as it was, and where it stands in the log.
type DeadLetter struct {
	Topic     string `json:"topic"`
	Partition int32  `json:"partition"`
	Offset    int64  `json:"offset"`
	TS        int64  `json:"ts"`    // ms, of the record in the log
	Error     string `json:"error"` // why
	Value     []byte `json:"value"`
}

// Place returns the partition where the record stands.
func (l *DeadLetter) Place() PartitionID { return PartitionID{Topic: l.Topic, Number: l.Partition} }

// ID names the letter by the place of its record: topic/partition/offset.
func (l *DeadLetter) ID() string { return fmt.Sprintf("%v/%d", l.Place(), l.Offset) }

// EncodeDeadLetter returns the bytes of an entry.
func EncodeDeadLetter(l *DeadLetter) ([]byte, error) {
	b, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("encode a dead letter: %w", err)
	}
	return b, nil
}

// DecodeDeadLetter reads an entry and checks that it names a place where
// records stand.
func DecodeDeadLetter(b []byte) (*DeadLetter, error) {
	l := new(DeadLetter)
	if err := json.Unmarshal(b, l); err != nil {
		return nil, fmt.Errorf("decode a dead letter: %w", err)
	}
	if l.Topic != TopicMessages && l.Topic != TopicGroups || l.Partition < 0 || l.Offset < 0 {
		return nil, fmt.Errorf("decode a dead letter: %q is no place of a record", l.ID())
	}
	return l, nil
}

// ParseLetterID reads what DeadLetter.ID wrote.
func ParseLetterID(id string) (PartitionID, int64, error) {
	f := strings.Split(id, "/")
	if len(f) != 3 || f[0] != TopicMessages && f[0] != TopicGroups {
		return PartitionID{}, 0, fmt.Errorf("%q is no id of a dead letter; write topic/partition/offset, as `starling deadletter list` prints it", id)
	}
	n, err := strconv.ParseUint(f[1], 10, 31)
	offset, oerr := strconv.ParseUint(f[2], 10, 63)
	if err := errors.Join(err, oerr); err != nil {
		return PartitionID{}, 0, fmt.Errorf("%q is no id of a dead letter: %w; write topic/partition/offset, as `starling deadletter list` prints it", id, err)
	}
	return PartitionID{Topic: f[0], Number: int32(n)}, int64(offset), nil
}

// Replay returns the record to be written again into the same partition. It
// speaks to no connection: its sender has had an answer. An error says that
// this binary cannot judge the record either.
func (l *DeadLetter) Replay() ([]byte, error) {
	r, err := Decode(l.Value)
	if err != nil {
		return nil, err
	}
	if r.GetReplayOf() <= 0 { // else it was set aside again: the first time counts
		r.ReplayOf = max(l.TS, 1)
	}
	r.Origin = nil
	return Encode(r)
}
