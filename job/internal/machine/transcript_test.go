package machine

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/common/store"
	"github.com/starling-im/starling/common/store/memstore"
	"github.com/starling-im/starling/common/wire"
)

var update = flag.Bool("update", false, "write the transcripts' expected output")

// TestTranscripts runs every file of testdata: blocks of input lines, a line
// of dashes, the output, a blank line. The language is in script.run.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			in, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			out := runTranscript(t, string(in))
			if *update {
				if err := os.WriteFile(f, []byte(out), 0o600); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(string(in), out); d != "" {
				t.Errorf("%s differs (-want +got); -update writes it:\n%s", f, d)
			}
		})
	}
}

func runTranscript(t *testing.T, in string) string {
	t.Helper()
	s := newScript(t)
	var out bytes.Buffer
	for block := range strings.SplitSeq(strings.TrimRight(in, "\n"), "\n\n") {
		input, _, _ := strings.Cut(block, "----\n")
		input = strings.TrimSuffix(input, "----")
		fmt.Fprint(&out, strings.TrimRight(input, "\n"), "\n")
		if strings.HasPrefix(input, "#") && !strings.Contains(block, "----") {
			fmt.Fprintln(&out)
			continue
		}
		s.out.Reset()
		for line := range strings.SplitSeq(strings.TrimRight(input, "\n"), "\n") {
			if !strings.HasPrefix(line, "#") {
				s.run(line)
			}
		}
		// protobuf writes its error texts with either space, so that nobody relies on them.
		fmt.Fprintf(&out, "----\n%s\n", strings.ReplaceAll(s.out.String(), "\u00a0", " "))
	}
	return strings.TrimRight(out.String(), "\n") + "\n"
}

// script is a store, a log and a machine that owns all partitions of it.
type script struct {
	t      *testing.T
	out    bytes.Buffer
	st     *memstore.Store
	m      *Machine
	limits *recordpb.Limits
	log    map[record.PartitionID][]record.Entry
	queue  []record.Entry
	cfg    Config
}

func newScript(t *testing.T) *script {
	t.Helper()
	s := &script{
		t: t, st: memstore.New(), log: make(map[record.PartitionID][]record.Entry),
		limits: &recordpb.Limits{LargeGroup: 4, MaxMembers: 6, RecallWindowMs: 1000},
	}
	s.start()
	return s
}

func (s *script) start() {
	s.m = New(s.st, s.cfg, zap.NewNop(), prometheus.NewRegistry())
}

// run does one line:
//
//	limits LARGE MAX WINDOW        stamped into the records that follow
//	turn                           hands over what was written since the last one
//	redo                           a new machine gets the whole log again
//	restart                        a new machine goes on after what was applied
//	rows CONV | members CONV | head CONV | ledger
//	refusals USER                  as a sync would tell
//	raw TOPIC NUMBER TEXT          a record that is none
//	CONV FROM CLIENT_ID VERB ARGS… [ts=] [id=] [hash=] [conn=] [type=] [until=] [mention=] [version=] [replay=]
func (s *script) run(line string) {
	s.t.Helper()
	f := strings.Fields(line)
	switch f[0] {
	case "limits":
		s.limits = &recordpb.Limits{LargeGroup: uint32(num(s.t, f[1])), MaxMembers: uint32(num(s.t, f[2])), RecallWindowMs: num(s.t, f[3])}
	case "turn":
		s.turn()
	case "redo", "restart":
		s.start()
		for _, p := range slices.SortedFunc(maps.Keys(s.log), comparePartitions) {
			start := s.claim(p, map[string]int64{"redo": 0, "restart": 1 << 40}[f[0]])
			s.queue = append(s.queue, s.log[p][start:]...)
		}
		if f[0] == "redo" {
			s.turn()
		}
	case "rows", "members", "head", "ledger":
		s.show(f)
	case "refusals":
		list, err := s.st.Refusals(s.t.Context(), wire.UserID(f[1]), 0, 100)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, r := range list {
			fmt.Fprintf(&s.out, "refused %s in %s as %d: %s\n", r.ClientID, r.Conv, r.ID, r.Code)
		}
	case "raw":
		s.write(record.PartitionID{Topic: f[1], Number: int32(num(s.t, f[2]))}, 0, []byte(strings.Join(f[3:], " ")))
	default:
		s.record(f)
	}
}

func num(t *testing.T, v string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		t.Fatalf("number %q: %v", v, err)
	}
	return n
}

func (s *script) record(f []string) {
	s.t.Helper()
	opts := make(map[string]string)
	var args []string
	for _, a := range f[3:] {
		if k, v, ok := strings.Cut(a, "="); ok {
			opts[k] = v
		} else {
			args = append(args, a)
		}
	}
	p := record.PartitionID{Topic: record.Topic(wire.ConvID(f[0]))}
	opt := func(k string, or int64) int64 {
		if v, ok := opts[k]; ok {
			return num(s.t, v)
		}
		return or
	}
	offset := int64(len(s.log[p]))
	r := &recordpb.Record{
		Id: opt("id", 100+offset), Conv: f[0], From: f[1], ClientId: f[2], Limits: s.limits,
		Hash: uint64(opt("hash", int64(record.ContentHash(args...)>>1))),
	}
	if c := opt("conn", 1); c > 0 {
		r.Origin = &recordpb.Origin{Server: "e1", Epoch: 1, Conn: uint64(c)}
	}
	r.ReplayOf = opt("replay", 0)
	s.body(r, args, opts, opt("until", 0))
	b, err := record.Encode(r)
	if v := opt("version", 0); v > 0 {
		r.Version = uint32(v)
		b, err = proto.Marshal(r)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.write(p, opt("ts", 1000*(offset+1)), b)
}

func (s *script) body(r *recordpb.Record, args []string, opts map[string]string, until int64) {
	s.t.Helper()
	command := func(k recordpb.Command_Kind, c *recordpb.Command) {
		c.Kind = k
		for i := 1; i < len(c.Users); i++ {
			c.EventIds = append(c.EventIds, 1000*r.GetId()+int64(i))
		}
		r.Body = &recordpb.Record_Command{Command: c}
	}
	rest := args[1:]
	switch args[0] {
	case "send":
		snd := &recordpb.Send{Type: "text", Content: strings.Join(rest, " ")}
		if v := opts["type"]; v != "" {
			snd.Type = v
		}
		if v := opts["mention"]; v != "" {
			snd.Mention = strings.Split(v, ",")
		}
		r.Body = &recordpb.Record_Send{Send: snd}
	case "recall":
		r.Body = &recordpb.Record_Update{Update: &recordpb.Update{TargetId: num(s.t, rest[0]), Status: wire.StatusRecalled}}
	case "edit":
		r.Body = &recordpb.Record_Update{Update: &recordpb.Update{
			TargetId: num(s.t, rest[0]), Status: wire.StatusEdited, Content: strings.Join(rest[1:], " "),
		}}
	case "revise":
		r.Body = &recordpb.Record_Update{Update: &recordpb.Update{TargetId: num(s.t, rest[0]), Status: "revised"}}
	case "create":
		command(recordpb.Command_CREATE, &recordpb.Command{Name: &rest[0], Users: rest[1:]})
	case "add":
		command(recordpb.Command_ADD, &recordpb.Command{Users: rest})
	case "remove":
		command(recordpb.Command_REMOVE, &recordpb.Command{Users: rest})
	case "role":
		command(recordpb.Command_ROLE, &recordpb.Command{Users: rest[:len(rest)-1], Role: rest[len(rest)-1]})
	case "rename":
		command(recordpb.Command_RENAME, &recordpb.Command{Name: new(strings.Join(rest, " "))})
	case "mute":
		command(recordpb.Command_MUTE, &recordpb.Command{Users: rest, Until: until})
	case "dismiss":
		command(recordpb.Command_DISMISS, &recordpb.Command{})
	case "block":
		command(recordpb.Command_BLOCK, &recordpb.Command{})
	case "unblock":
		command(recordpb.Command_UNBLOCK, &recordpb.Command{})
	case "join":
		command(recordpb.Command_JOIN, &recordpb.Command{})
	case "nothing":
		command(recordpb.Command_KIND_UNSPECIFIED, &recordpb.Command{})
	case "alien": // of a kind that this binary has no word for
	case "future":
		command(99, &recordpb.Command{})
	default:
		s.t.Fatalf("verb %q", args[0])
	}
}

func (s *script) write(p record.PartitionID, ts int64, value []byte) {
	if _, ok := s.log[p]; !ok {
		s.log[p] = nil
		s.claim(p, -1)
	}
	e := record.Entry{PartitionID: p, Offset: int64(len(s.log[p])), TS: ts, Value: value}
	s.log[p] = append(s.log[p], e)
	s.queue = append(s.queue, e)
}

func (s *script) claim(p record.PartitionID, committed int64) int64 {
	s.t.Helper()
	start, err := s.m.Claim(s.t.Context(), p, "T", 0, int64(len(s.log[p])), committed)
	if err != nil {
		s.t.Fatal(err)
	}
	return start
}

func (s *script) turn() {
	s.t.Helper()
	es := s.queue
	s.queue = nil
	res, err := s.m.Turn(s.t.Context(), es)
	if err != nil {
		fmt.Fprintf(&s.out, "error: %v\n", err)
		return
	}
	for _, e := range res.Effects {
		s.effects(e)
	}
	for _, p := range res.Poison {
		fmt.Fprintf(&s.out, "poison %v@%d: %v\n", p.Entry.PartitionID, p.Entry.Offset, p.Err)
	}
}

func (s *script) effects(e Effects) {
	s.t.Helper()
	fmt.Fprintf(&s.out, "%d:", e.Offset)
	if rec, _ := record.Decode(s.log[e.At][e.Offset].Value); rec != nil {
		key := store.OutcomeKey{Conv: wire.ConvID(rec.GetConv()), From: wire.UserID(rec.GetFrom()), ClientID: rec.GetClientId()}
		o, err := s.st.Outcome(s.t.Context(), key)
		switch {
		case err != nil:
			fmt.Fprint(&s.out, " no verdict")
		case o.Offset != e.Offset:
			fmt.Fprintf(&s.out, " first was %d", o.Offset)
		case o.Code != "":
			fmt.Fprintf(&s.out, " %s", o.Code)
		default:
			fmt.Fprintf(&s.out, " ok seq %d+%d", o.Seq, o.N)
		}
	}
	fmt.Fprintln(&s.out)
	for _, i := range e.Items {
		fmt.Fprintf(&s.out, "  %s\n", itemText(i))
	}
}

func itemText(i Item) string {
	var b strings.Builder
	b.WriteString([]string{"deliver", "reply", "join", "leave", "drop"}[i.Kind])
	if i.Op != 0 {
		fmt.Fprintf(&b, " %s", i.Op)
	}
	if i.Group != "" {
		fmt.Fprintf(&b, " group %s", i.Group)
	}
	if len(i.Users) > 0 {
		fmt.Fprintf(&b, " %v", i.Users)
	}
	if i.Origin != nil {
		fmt.Fprintf(&b, " conn %d", i.Origin.GetConn())
	}
	if i.Seq > 0 {
		fmt.Fprintf(&b, " seq %d", i.Seq)
	}
	if i.Members != nil {
		fmt.Fprintf(&b, " members %v", i.Members)
	}
	if i.File != nil {
		fmt.Fprintf(&b, " file %v", i.File)
	}
	if c := i.Cache; c != nil {
		fmt.Fprintf(&b, " cache %d v%d %q", c.ID, c.Version, c.Content)
	}
	if i.Body != nil {
		fmt.Fprintf(&b, " %s", i.Body)
	}
	return b.String()
}

func (s *script) show(f []string) {
	s.t.Helper()
	ctx := s.t.Context()
	if f[0] == "ledger" {
		for _, p := range slices.SortedFunc(maps.Keys(s.log), comparePartitions) {
			st, err := s.st.State(ctx, p)
			if err != nil {
				s.t.Fatal(err)
			}
			c := st.Counts
			fmt.Fprintf(&s.out, "%v: applied %d of %d: stored %d updates %d commands %d repeats %d refused %d set aside %d\n",
				p, st.Applied, len(s.log[p]), c.Stored, c.Updates, c.Commands, c.Repeats, c.Refused, c.SetAside)
		}
		return
	}
	c, err := s.st.Conversation(ctx, wire.ConvID(f[1]))
	if err != nil {
		fmt.Fprintf(&s.out, "%v\n", err)
		return
	}
	switch f[0] {
	case "head":
		fmt.Fprintf(&s.out, "max %d min %d ts %d last message %d", c.MaxSeq, c.MinSeq, c.LastTS, c.LastMsg)
		if c.BlockedByA || c.BlockedByB {
			fmt.Fprintf(&s.out, " blocked by the first %t by the second %t", c.BlockedByA, c.BlockedByB)
		}
		if g := c.Group; g != nil {
			fmt.Fprintf(&s.out, " group %q owner %s members %d muted until %d dismissed %t", g.Name, g.Owner, g.Members, g.MutedUntil, g.Dismissed)
		}
		fmt.Fprintln(&s.out)
	case "members":
		users := []wire.UserID{"alice", "bob", "carol", "dave", "erin", "fred", "gina"}
		all, err := s.st.Intervals(ctx, c.ID, users)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, m := range all {
			fmt.Fprintf(&s.out, "%s %s [%d,%d] muted until %d\n", m.User, m.Role, m.JoinedSeq, m.LeftSeq, m.MutedUntil)
		}
	case "rows":
		rows, err := s.st.Rows(ctx, c.ID, 1, c.MaxSeq)
		if err != nil {
			s.t.Fatal(err)
		}
		for _, r := range rows {
			fmt.Fprintf(&s.out, "%d %s %d %s %s %q ts %d v%d %s target %d\n",
				r.Seq, map[int]string{1: "msg", 2: "upd"}[r.Kind], r.ID, r.From, r.Type, r.Content, r.TS, r.Version, r.Status, r.TargetSeq)
		}
	}
}
