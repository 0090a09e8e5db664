package server

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/common/record/recordpb"
	"github.com/starling-im/starling/internal/deadletter"
	"github.com/starling-im/starling/internal/process"
)

// letterCommand does what was asked for.
type letterCommand struct {
	*letters
	std process.IO
	o   *deadletter.Office
}

// letterJSON is a letter as list -json and show print it.
type letterJSON struct {
	ID       string           `json:"id"`
	Time     time.Time        `json:"time"` // of the record in the log
	State    deadletter.State `json:"state"`
	Error    string           `json:"error"`
	Conv     string           `json:"conv,omitempty"`
	From     string           `json:"from,omitempty"`
	ClientID string           `json:"client_id,omitempty"`
	Message  int64            `json:"message_id,omitempty,string"`
	Kind     string           `json:"kind,omitempty"`
	Verdict  *verdictJSON     `json:"verdict,omitempty"`
	Cause    string           `json:"unreadable_because,omitempty"`
	Record   json.RawMessage  `json:"record,omitempty"`
	Hex      string           `json:"value_hex,omitempty"`
}

// verdictJSON is what stands under the record's client_id.
type verdictJSON struct {
	Code   string    `json:"code"` // ok, or why not
	Seq    int64     `json:"seq,omitempty"`
	Offset int64     `json:"offset"`
	Time   time.Time `json:"time"`
	ID     int64     `json:"message_id,string"`
}

func describe(l *deadletter.Letter) letterJSON {
	j := letterJSON{ID: l.ID(), Time: time.UnixMilli(l.TS).UTC(), State: l.State, Error: l.Error}
	if r := l.Record; r != nil {
		j.Conv, j.From, j.ClientID, j.Message, j.Kind = r.GetConv(), r.GetFrom(), r.GetClientId(), r.GetId(), kindOf(r)
	}
	if v := l.Verdict; v != nil {
		j.Verdict = &verdictJSON{
			Code: cmp.Or(string(v.Code), "ok"), Seq: v.Seq, Offset: v.Offset, Time: time.UnixMilli(v.TS).UTC(), ID: int64(v.ID),
		}
	}
	if l.Cause != nil {
		j.Cause = l.Cause.Error()
	}
	return j
}

func kindOf(r *recordpb.Record) string {
	switch {
	case r.GetSend() != nil:
		return "send"
	case r.GetUpdate() != nil:
		return "update"
	case r.GetCommand() != nil:
		return "command " + r.GetCommand().GetKind().String()
	}
	return "unknown"
}

// list prints the newest letters, oldest first, and what the ledger misses.
func (c *letterCommand) list(ctx context.Context) error {
	var kept []*record.DeadLetter
	total, counts := 0, make(map[record.PartitionID]int64)
	newest := func() {
		slices.SortStableFunc(kept, func(a, b *record.DeadLetter) int {
			return cmp.Or(cmp.Compare(a.TS, b.TS), strings.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition), cmp.Compare(a.Offset, b.Offset))
		})
		kept = slices.Delete(kept, 0, max(0, len(kept)-c.limit))
	}
	err := c.o.Each(ctx, func(l *record.DeadLetter) error {
		total++
		counts[l.Place()]++
		if kept = append(kept, l); len(kept) >= 2*c.limit {
			newest()
		}
		return nil
	}, c.junk)
	if err != nil {
		return err //nolint:wrapcheck // says what was tried
	}
	newest()
	if err := c.print(ctx, kept); err != nil {
		return err
	}
	if total == 0 {
		c.note("no letters: nothing was set aside within the retention of %s", mq.TopicDeadLetter)
	} else if total > len(kept) {
		c.note("%d letters in all; -limit shows more", total)
	}
	return c.compare(ctx, counts)
}

// compare says where the ledger knows of more than there are letters of.
func (c *letterCommand) compare(ctx context.Context, counts map[record.PartitionID]int64) error {
	ledger, err := c.o.SetAside(ctx)
	if err != nil {
		return err //nolint:wrapcheck // says what was tried
	}
	for _, p := range slices.SortedFunc(maps.Keys(ledger), func(a, b record.PartitionID) int { return strings.Compare(a.String(), b.String()) }) {
		if n := ledger[p]; n > counts[p] {
			c.note("%v: %d were set aside in all, %d letters are here. The others are older than the retention, or could not be written "+
				"(starling_job_dead_letter_failures_total): the job's log, `record set aside`, has their offsets, which show and replay take where they can tell", p, n, counts[p])
		}
	}
	return nil
}

func (c *letterCommand) junk(e record.Entry, err error) {
	c.note("%v/%d is no letter: %v", e.PartitionID, e.Offset, err)
}

// note is for people, beside the answer.
func (c *letterCommand) note(format string, args ...any) {
	_, _ = fmt.Fprintf(c.std.Stderr, format+"\n", args...)
}

// print writes a table, or a JSON object a line.
func (c *letterCommand) print(ctx context.Context, list []*record.DeadLetter) error {
	w := tabwriter.NewWriter(c.std.Stdout, 0, 0, 2, ' ', 0)
	enc := json.NewEncoder(c.std.Stdout)
	if !c.json && len(list) > 0 {
		_, _ = fmt.Fprintln(w, "ID\tTIME\tSTATE\tKIND\tCONVERSATION\tWHY") // Flush tells
	}
	for _, d := range list {
		l, err := c.o.Look(ctx, d)
		if err != nil {
			return err //nolint:wrapcheck // says what was tried
		}
		j := describe(l)
		if c.json {
			if err := enc.Encode(j); err != nil {
				return fmt.Errorf("print the letters: %w", err)
			}
			continue
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", j.ID, j.Time.Format(time.RFC3339), j.State,
			cmp.Or(j.Kind, "-"), cmp.Or(j.Conv, "-"), strings.Join(strings.Fields(j.Error), " "))
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("print the letters: %w", err)
	}
	return nil
}

// show prints all of one letter.
func (c *letterCommand) show(ctx context.Context) error {
	l, err := c.o.Find(ctx, c.ids[0])
	if err != nil {
		return err //nolint:wrapcheck // names the id and the remedy
	}
	j := describe(l)
	r := new(recordpb.Record)
	if err := proto.Unmarshal(l.Value, r); err == nil {
		if j.Record, err = protojson.Marshal(r); err != nil {
			return fmt.Errorf("print the record: %w", err)
		}
	}
	if j.Record == nil || l.Cause != nil || len(r.ProtoReflect().GetUnknown()) > 0 {
		j.Hex = hex.EncodeToString(l.Value)
	}
	enc := json.NewEncoder(c.std.Stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(j); err != nil {
		return fmt.Errorf("print the letter: %w", err)
	}
	return nil
}

// replay writes letters again, one after another, and says what each came to.
func (c *letterCommand) replay(ctx context.Context) (err error) {
	p, err := mq.NewProducer(context.WithoutCancel(ctx), c.o.Kafka, zap.NewNop(), prometheus.NewRegistry())
	if err != nil {
		return fmt.Errorf("make the producer: %w", err)
	}
	defer p.Close()
	if c.all {
		return c.replayAll(ctx, p)
	}
	var errs []error
	for _, id := range c.ids {
		l, err := c.o.Find(ctx, id)
		if err == nil {
			err = c.replayOne(ctx, p, l)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// replayAll goes on after a letter that failed, but not without the log, nor
// where jobs are not fixed: each that is set aside again is one letter more.
func (c *letterCommand) replayAll(ctx context.Context, p deadletter.Producer) error {
	open := 0
	var errs []error
	err := c.o.Each(ctx, func(d *record.DeadLetter) error {
		l, err := c.o.Look(ctx, d)
		if err != nil {
			return err //nolint:wrapcheck // says what was tried
		}
		if l.State == deadletter.Unreadable || l.State == deadletter.Late {
			c.note("left: %s is %s", l.ID(), l.State)
		}
		if l.State != deadletter.Open {
			return nil
		}
		open++
		err = c.replayOne(ctx, p, l)
		if errors.Is(err, mq.ErrUnavailable) || errors.Is(err, deadletter.ErrAgain) || ctx.Err() != nil {
			return err
		}
		errs = append(errs, err)
		return nil
	}, c.junk)
	if err == nil && open == 0 {
		err = errors.New("nothing to replay: no letter is open; `starling deadletter list` shows what has become of each")
	}
	return errors.Join(append(errs, err)...)
}

func (c *letterCommand) replayOne(ctx context.Context, p deadletter.Producer, l *deadletter.Letter) error {
	offset, err := c.o.Replay(ctx, p, l)
	if err != nil {
		return err //nolint:wrapcheck // names the letter
	}
	outcome := "it is judged once a job comes to it"
	if c.wait > 0 {
		wait, cancel := context.WithTimeout(ctx, c.wait)
		defer cancel()
		now, err := c.o.Await(wait, l, offset)
		switch {
		case errors.Is(err, deadletter.ErrNotJudged):
			c.wait = 0 // nor will it come to the others
		case err != nil:
			return err //nolint:wrapcheck // names the letter
		default:
			outcome = fate(now)
		}
	}
	return printLine(c.std.Stdout, "%s: written again at offset %d: %s", l.ID(), offset, outcome)
}

func fate(l *deadletter.Letter) string {
	switch {
	case l.State == deadletter.Applied && l.Verdict.N > 0:
		return fmt.Sprintf("applied, as seq %d", l.Verdict.Seq)
	case l.State == deadletter.Applied:
		return "applied"
	case l.State == deadletter.Refused:
		return "refused: " + string(l.Verdict.Code)
	}
	return string(l.State)
}

func printLine(w io.Writer, format string, args ...any) error {
	if _, err := fmt.Fprintf(w, format+"\n", args...); err != nil {
		return fmt.Errorf("print the outcome: %w", err)
	}
	return nil
}
