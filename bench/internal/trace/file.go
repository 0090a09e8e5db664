package trace

import (
	"bufio"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"sync"
	"time"
)

// Version of the format; a Reader takes no other.
const Version = "starling-trace-1"

// bufferSize of files, in bytes.
const bufferSize = 1 << 18

// Writer writes the events of one run. Make it with Create.
type Writer struct {
	start time.Time

	mu   sync.Mutex
	n    int64
	err  error // the first; nothing is written after it
	enc  *json.Encoder
	zip  *gzip.Writer // nil: plain
	buf  *bufio.Writer
	file *os.File
}

// Create begins a record in a new file, gzipped if its name ends in .gz.
func Create(path string, run *Run) (*Writer, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600) //nolint:gosec // the user names it
	if err != nil {
		return nil, fmt.Errorf("create the record: %w", err)
	}
	w := &Writer{start: time.Now(), file: f, buf: bufio.NewWriterSize(f, bufferSize)}
	var to io.Writer = w.buf
	if strings.HasSuffix(path, ".gz") {
		// The fastest level: what the tool costs, the system under test lacks.
		if w.zip, err = gzip.NewWriterLevel(w.buf, gzip.BestSpeed); err != nil {
			return nil, errors.Join(fmt.Errorf("create the record: %w", err), f.Close())
		}
		to = w.zip
	}
	w.enc = json.NewEncoder(to)
	w.enc.SetEscapeHTML(false)
	w.Add(&Event{Kind: Begin, Text: Version, Run: run})
	return w, nil
}

// Add numbers and writes an event, which it changes. Errors are kept for Close:
// a record that cannot be written must not change how the run goes.
func (w *Writer) Add(e *Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return
	}
	w.n++
	e.N, e.T = w.n, time.Since(w.start).Microseconds()
	if err := w.enc.Encode(e); err != nil {
		w.err = fmt.Errorf("write the record: %w", err)
	}
}

// At is a time as Event.At has it, at least 1.
func (w *Writer) At(t time.Time) int64 { return max(1, t.Sub(w.start).Microseconds()) }

// Close writes what is buffered. It returns the first error of all.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	errs := []error{w.err}
	if w.zip != nil {
		errs = append(errs, w.zip.Close())
	}
	errs = append(errs, w.buf.Flush(), w.file.Close())
	w.err = errors.New("the record is closed")
	return errors.Join(errs...)
}

// maxLine bounds one event in a file, in bytes: a page of sync is at most 500
// messages of 16 KiB, and history is one event.
const maxLine = 1 << 30

// Read returns the events of a file in order. The last pair has an error if the
// file is not one of ours, is cut short or is damaged, naming the line.
func Read(path string) iter.Seq2[*Event, error] {
	return func(yield func(*Event, error) bool) {
		f, err := os.Open(path) //nolint:gosec // the user names it
		if err != nil {
			yield(nil, fmt.Errorf("open the record: %w", err))
			return
		}
		defer func() { _ = f.Close() }()
		var from io.Reader = bufio.NewReaderSize(f, bufferSize)
		if strings.HasSuffix(path, ".gz") {
			if from, err = gzip.NewReader(from); err != nil {
				yield(nil, fmt.Errorf("%s: %w", path, err))
				return
			}
		}
		read(path, from, yield)
	}
}

func read(path string, from io.Reader, yield func(*Event, error) bool) {
	lines := bufio.NewScanner(from)
	lines.Buffer(make([]byte, bufferSize), maxLine)
	var last int64
	for lines.Scan() {
		e := new(Event)
		err := json.Unmarshal(lines.Bytes(), e)
		switch {
		case err != nil:
		case last == 0 && (e.Kind != Begin || e.Text != Version || e.Run == nil):
			err = fmt.Errorf("is no record of this version (%s)", Version)
		case e.N != last+1:
			err = fmt.Errorf("event %d follows %d: some are missing", e.N, last)
		}
		if err != nil {
			yield(nil, fmt.Errorf("%s, line %d: %w", path, last+1, err))
			return
		}
		last = e.N
		if !yield(e, nil) {
			return
		}
	}
	if err := lines.Err(); err != nil {
		yield(nil, fmt.Errorf("%s after line %d: %w", path, last, err))
	} else if last == 0 {
		yield(nil, fmt.Errorf("%s: is empty", path))
	}
}
