// Package report is what a run of the bench tool found, as a table and as
// JSON. Values only; safe for concurrent use once made.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Latency is a distribution in milliseconds.
type Latency struct {
	Count int64   `json:"count"`
	P50   float64 `json:"p50_ms"`
	P90   float64 `json:"p90_ms"`
	P99   float64 `json:"p99_ms"`
	P999  float64 `json:"p999_ms"`
	Max   float64 `json:"max_ms"`
}

// Latencies reads a histogram of microseconds.
func Latencies(h *hdrhistogram.Histogram) Latency {
	ms := func(q float64) float64 { return float64(h.ValueAtQuantile(q)) / 1000 }
	return Latency{
		Count: h.TotalCount(), P50: ms(50), P90: ms(90), P99: ms(99), P999: ms(99.9),
		Max: float64(h.Max()) / 1000,
	}
}

// Report is one run. Latencies count from the moment a send was due, so a
// stall of the system or of the tool shows in all that waited.
type Report struct {
	Scenario       string  `json:"scenario"`
	Connections    int     `json:"connections"`
	Rate           float64 `json:"rate"`
	Seconds        float64 `json:"seconds"`
	ConnectSeconds float64 `json:"connect_seconds"`
	Sent           int64   `json:"sent"`
	Acked          int64   `json:"acked"`
	Failed         int64   `json:"failed"`
	Unanswered     int64   `json:"unanswered"`
	Refused        int64   `json:"refused"`
	Lost           int64   `json:"lost"`      // acknowledged, not delivered
	Repeated       int64   `json:"repeated"`  // delivered to one connection again
	Reordered      int64   `json:"reordered"` // a seq below one seen before
	Holes          int64   `json:"holes"`     // a seq skipped
	FIFO           int64   `json:"fifo"`      // sends of one connection overtaken
	Lagged         int64   `json:"lagged"`
	Frames         int64   `json:"frames"`
	Late           float64 `json:"late_ms"` // how far the tool itself fell behind
	Delivery       Latency `json:"delivery"`
	Ack            Latency `json:"ack"`
	FirstFailure   string  `json:"first_failure,omitempty"`
}

// Clean says whether every send was acknowledged and reached its receiver
// once, in order.
func (r *Report) Clean() bool {
	return r.Failed+r.Unanswered+r.Refused+r.Lost+r.Repeated+r.Reordered+r.Holes+r.FIFO == 0
}

// JSON writes the report as one object.
func (r *Report) JSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(r); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

// Text writes the report as a table.
func (r *Report) Text(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(format string, a ...any) { _, _ = fmt.Fprintf(tw, format+"\n", a...) } // errors show in Flush
	line("%s: %d connections (up in %.1f s), %.0f messages/s for %.0f s\t", r.Scenario, r.Connections, r.ConnectSeconds, r.Rate, r.Seconds)
	line("\tcount\tp50\tp90\tp99\tp99.9\tmax\tms\t")
	for _, l := range []struct {
		name string
		Latency
	}{{"due → delivered", r.Delivery}, {"due → send_ack", r.Ack}} {
		line("%s\t%d\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t\t", l.name, l.Count, l.P50, l.P90, l.P99, l.P999, l.Max)
	}
	if err := tw.Flush(); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	_, err := fmt.Fprintf(w, "sent %d, acknowledged %d, failed %d, unanswered %d, refused %d\n"+
		"lost %d, repeated %d, reordered %d, holes %d, FIFO broken %d, lagged %d; the tool was at most %.1f ms late\n",
		r.Sent, r.Acked, r.Failed, r.Unanswered, r.Refused, r.Lost, r.Repeated, r.Reordered, r.Holes, r.FIFO, r.Lagged, r.Late)
	if err == nil && r.FirstFailure != "" {
		_, err = fmt.Fprintf(w, "first failure: %s\n", r.FirstFailure)
	}
	if err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}
