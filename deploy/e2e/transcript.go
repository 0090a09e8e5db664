package e2e

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// A transcript is a text that says what goes into a system and what must come
// out: the contract of docs/protocol.md by example. Its lines:
//
//	# …                              a remark
//	names alice bob team …           words that are users, groups or rooms of this run alone
//	with KEY=VALUE …                 on a system of its own, with these settings (or none);
//	                                 UNREADY=yes where it cannot become ready, EACH=yes where
//	                                 it cannot be used again in the next framing
//	alice connects                   a connection, nothing sent yet
//	alice joins web [PLATFORM]       a connection, called alice (alice.web where it is called so)
//	alice > OP BODY                  sends a request; its seq is the next
//	alice >N OP BODY                 N times at once; # in the body is the number
//	alice ~ BYTES                    sends bytes in quotes as a message (WebSocket text, or the stream)
//	alice <= OP BODY                 the answer to the last request
//	alice <- OP BODY                 what comes unasked
//	alice <* OP BODY                 at least one of these, and any others of the request's operation before
//	alice . OP …                     from here on these operations are passed over
//	alice sleeps · alice wakes       takes nothing from the connection in between
//	alice quiet                      nothing has come that was not said; what comes by a job may
//	                                 come later: let something that does come by it go first
//	alice syncs CONV FROM TO         sync gives seq FROM to TO whole, and pushes had all before
//	alice ends CODE                  the connection ends, by WebSocket with this code
//	alice leaves                     closes it
//	as alice[:ROLE] METHOD PATH [BODY]   an HTTP request with a token of alice; of "-", without
//	= STATUS BODY                    its answer; a GET is repeated until it is this
//	settle                           until every process knows what was decided
//	later                            by a moment, where what is shown goes by time
//
// Bodies are JSON. In what is sent by a connection {{N}} is N times x, {{deep N}} objects N deep, {{users N}} N ids and
// {{token alice web}} a token. In what is expected "*" is any value, "$x" any too the first time and that value from
// then on, and what is not named must not be there. At the end nothing may have come that was not said.
// Lines of what one connection is given that follow each other may come in any
// order.
type transcript struct {
	name     string
	names    []string
	alone    bool
	settings []string
	lines    []transcriptLine
}

type transcriptLine struct {
	no   int
	who  string // connection; "as", "=", "settle", "later" for what is none's
	verb string
	rest string
}

var transcriptNames = regexp.MustCompile(`[A-Za-z0-9_-]+`)

// loadTranscripts reads all of testdata/transcripts.
func loadTranscripts(t testing.TB) []*transcript {
	t.Helper()
	files, err := filepath.Glob("testdata/transcripts/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	var all []*transcript
	for _, f := range files {
		tr, err := loadTranscript(f)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, tr)
	}
	return all
}

func loadTranscript(file string) (*transcript, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read a transcript: %w", err)
	}
	defer func() { _ = f.Close() }()
	tr := &transcript{name: strings.TrimSuffix(filepath.Base(file), ".txt")}
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for no := 1; sc.Scan(); no++ {
		line := strings.TrimSpace(sc.Text())
		switch who, rest, _ := strings.Cut(line, " "); {
		case line == "" || strings.HasPrefix(line, "#"):
		case who == "names":
			tr.names = append(tr.names, strings.Fields(rest)...)
		case who == "with":
			tr.alone, tr.settings = true, append(tr.settings, strings.Fields(rest)...)
		case who == "as", who == "=", who == "settle", who == "later":
			tr.lines = append(tr.lines, transcriptLine{no: no, who: who, rest: rest})
		default:
			verb, rest, _ := strings.Cut(rest, " ")
			tr.lines = append(tr.lines, transcriptLine{no: no, who: who, verb: verb, rest: strings.TrimSpace(rest)})
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return tr, nil
}

// aMoment is more than any window of time that a transcript's settings leave open.
const aMoment = 50 * time.Millisecond

// expects says whether the line is of what a connection is given.
func (l *transcriptLine) expects() bool { return l.verb == "<=" || l.verb == "<-" || l.verb == "<*" }

// localise gives the transcript's names those of one run.
func localise(text string, names map[string]string) string {
	return transcriptNames.ReplaceAllStringFunc(text, func(word string) string {
		if n, ok := names[word]; ok {
			return n
		}
		return word
	})
}
