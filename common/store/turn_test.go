package store

import (
	"errors"
	"strings"
	"testing"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/common/wire"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

func long(n int) string { return strings.Repeat("x", n) }

// full is a turn with everything at its limit.
func full() *Turn {
	fresh := &Conversation{
		ID: 1, New: true, Conv: wire.ConvID(long(MaxConv)),
		Group: &Group{
			Name: long(MaxName), Description: long(MaxDescription), Owner: wire.UserID(long(MaxID)),
		},
	}
	stored := &Conversation{ID: 7, Conv: "p:a:b"}
	mention := make([]wire.UserID, MaxMentions)
	for i := range mention {
		mention[i] = wire.UserID(long(MaxID))
	}
	return &Turn{
		Partitions:    []PartitionMove{{PartitionID: record.PartitionID{Topic: long(MaxID)}, From: 5, To: 5}},
		Conversations: []*Conversation{fresh},
		Members:       []MemberChange{{Conv: fresh, Member: Member{User: wire.UserID(long(MaxID)), Role: long(16)}}},
		Rows: []ConvRow{{Conv: stored, Row: Row{
			Seq: 1, Kind: KindMessage, From: wire.UserID(long(MaxID)), Type: wire.MsgType(long(16)), ClientID: long(MaxID),
			Status: long(16), Mention: mention,
		}}},
		Updates: []RowUpdate{{Conv: stored, TargetSeq: 1, Status: long(16)}},
		Outcomes: []Outcome{{
			OutcomeKey: OutcomeKey{Conv: wire.ConvID(long(MaxConv)), From: wire.UserID(long(MaxID)), ClientID: long(MaxID)},
			Code:       wire.Code(long(32)), Partition: record.PartitionID{Topic: long(MaxID)},
		}},
		Refusals: []Refusal{{User: wire.UserID(long(MaxID)), Refused: wire.Refused{
			ClientID: long(MaxID), Conv: wire.ConvID(long(MaxConv)), Code: wire.Code(long(32)),
		}}},
	}
}

func TestCheckTakesWhatFits(t *testing.T) {
	for name, turn := range map[string]*Turn{"empty": {}, "at every limit": full()} {
		if err := turn.Check(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// One step over any limit is a deterministic error that says what it is.
func TestCheckRefuses(t *testing.T) {
	over := wire.UserID(long(MaxID + 1))
	for name, c := range map[string]struct {
		change func(t *Turn)
		text   string
	}{
		"topic":            {func(t *Turn) { t.Partitions[0].Topic += "x" }, "topic"},
		"a step back":      {func(t *Turn) { t.Partitions[0].To = 4 }, "move back"},
		"nil conversation": {func(t *Turn) { t.Conversations = append(t.Conversations, nil) }, "nil"},
		"conv missing":     {func(t *Turn) { t.Conversations[0].Conv = "" }, "without an id"},
		"conv":             {func(t *Turn) { t.Conversations[0].Conv += "x" }, "conv"},
		"max_seq":          {func(t *Turn) { t.Conversations[0].MaxSeq = -1 }, "max_seq"},
		"min_seq":          {func(t *Turn) { t.Conversations[0].MinSeq = -1 }, "min_seq"},
		"name":             {func(t *Turn) { t.Conversations[0].Group.Name += "x" }, "name"},
		"description":      {func(t *Turn) { t.Conversations[0].Group.Description += "x" }, "description"},
		"owner":            {func(t *Turn) { t.Conversations[0].Group.Owner = over }, "owner"},
		"member of no one": {func(t *Turn) { t.Members[0].Conv = nil }, "neither stored nor in the turn"},
		"member of a new one": {
			func(t *Turn) { t.Members[0].Conv = &Conversation{ID: 1, New: true, Conv: "g:other"} }, "neither stored nor in the turn",
		},
		"member":            {func(t *Turn) { t.Members[0].User = over }, "user"},
		"role":              {func(t *Turn) { t.Members[0].Role += "x" }, "role"},
		"joined_seq":        {func(t *Turn) { t.Members[0].JoinedSeq = -1 }, "joined_seq"},
		"left_seq":          {func(t *Turn) { t.Members[0].LeftSeq = -1 }, "left_seq"},
		"row of a new one":  {func(t *Turn) { t.Rows[0].Conv = &Conversation{ID: 1, New: true} }, "neither stored nor in the turn"},
		"row of no id":      {func(t *Turn) { t.Rows[0].Conv = &Conversation{} }, "neither stored nor in the turn"},
		"id":                {func(t *Turn) { t.Conversations[0].ID = 0 }, "id 0"},
		"seq":               {func(t *Turn) { t.Rows[0].Seq = 0 }, "seq"},
		"ts":                {func(t *Turn) { t.Rows[0].TS = -1 }, "ts"},
		"kind":              {func(t *Turn) { t.Rows[0].Kind = 3 }, "kind"},
		"from":              {func(t *Turn) { t.Rows[0].From = over }, "from"},
		"type":              {func(t *Turn) { t.Rows[0].Type += "x" }, "type"},
		"content":           {func(t *Turn) { t.Rows[0].Content = long(MaxContent + 1) }, "content"},
		"client_id":         {func(t *Turn) { t.Rows[0].ClientID += "x" }, "client_id"},
		"status":            {func(t *Turn) { t.Rows[0].Status += "x" }, "status"},
		"mentions":          {func(t *Turn) { t.Rows[0].Mention = append(t.Rows[0].Mention, "a") }, "mentions"},
		"mention":           {func(t *Turn) { t.Rows[0].Mention[3] = over }, "mention"},
		"mention of nobody": {func(t *Turn) { t.Rows[0].Mention[3] = "" }, "no user"},
		"mention of two":    {func(t *Turn) { t.Rows[0].Mention[3] = "a\nb" }, "no user"},
		"update of no one":  {func(t *Turn) { t.Updates[0].Conv = nil }, "neither stored nor in the turn"},
		"target_seq":        {func(t *Turn) { t.Updates[0].TargetSeq = 0 }, "target_seq"},
		"update's status":   {func(t *Turn) { t.Updates[0].Status += "x" }, "status"},
		"update's content":  {func(t *Turn) { t.Updates[0].Content = long(MaxContent + 1) }, "content"},
		"outcome's conv":    {func(t *Turn) { t.Outcomes[0].Conv += "x" }, "conv"},
		"outcome's from":    {func(t *Turn) { t.Outcomes[0].From = over }, "from"},
		"outcome's key":     {func(t *Turn) { t.Outcomes[0].ClientID += "x" }, "client_id"},
		"outcome's code":    {func(t *Turn) { t.Outcomes[0].Code += "x" }, "code"},
		"outcome's topic":   {func(t *Turn) { t.Outcomes[0].Partition.Topic += "x" }, "topic"},
		"outcome's ts":      {func(t *Turn) { t.Outcomes[0].TS = -1 }, "ts"},
		"refusal's user":    {func(t *Turn) { t.Refusals[0].User = over }, "user"},
		"refusal's client":  {func(t *Turn) { t.Refusals[0].ClientID += "x" }, "client_id"},
		"refusal's conv":    {func(t *Turn) { t.Refusals[0].Conv += "x" }, "conv"},
		"refusal's code":    {func(t *Turn) { t.Refusals[0].Code += "x" }, "code"},
		"refusal's ts":      {func(t *Turn) { t.Refusals[0].TS = -1 }, "ts"},
	} {
		t.Run(name, func(t *testing.T) {
			turn := full()
			c.change(turn)
			err := turn.Check()
			if _, ok := errors.AsType[*DeterministicError](err); !ok || !strings.Contains(err.Error(), c.text) {
				t.Errorf("error %.200v, want one of %s", err, c.text)
			}
			if len(err.Error()) > 300 {
				t.Errorf("an error of %d bytes", len(err.Error()))
			}
		})
	}
}

// The first fault is told, whatever follows.
func TestCheckTellsTheFirst(t *testing.T) {
	turn := full()
	turn.Partitions[0].To, turn.Refusals[0].TS = 1, -1
	if err := turn.Check(); err == nil || !strings.Contains(err.Error(), "move back") || strings.Contains(err.Error(), "ts") {
		t.Errorf("error %v", err)
	}
}

func TestDeterministicErrorUnwraps(t *testing.T) {
	cause := errors.New("cause")
	err := error(&DeterministicError{Err: cause})
	if !errors.Is(err, cause) || !strings.Contains(err.Error(), "cause") {
		t.Errorf("%v", err)
	}
}
