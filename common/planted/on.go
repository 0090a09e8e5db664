//go:build planted

package planted

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Built says whether this build can have bugs.
const Built = true

const variable = "STARLING_PLANTED="

// choice is the bug that this process has.
type choice struct {
	bug     Bug
	every   int64
	reached atomic.Int64
}

var chosen atomic.Pointer[choice] //nolint:gochecknoglobals // fault points are everywhere, and only in this build

// Plant takes the choice of a bug out of the environment ("KEY=value" each). An
// error lists the bugs.
func Plant(environ []string) ([]string, Bug, error) {
	i := slices.IndexFunc(environ, func(kv string) bool { return strings.HasPrefix(kv, variable) })
	if i < 0 {
		return environ, "", nil
	}
	c, err := parse(environ[i][len(variable):])
	if err != nil {
		return nil, "", err
	}
	chosen.Store(c)
	return slices.Delete(slices.Clone(environ), i, i+1), c.bug, nil
}

func parse(text string) (*choice, error) {
	name, every, some := strings.Cut(text, ":")
	for _, in := range All() {
		if string(in.Bug) != name {
			continue
		}
		c := &choice{bug: in.Bug, every: in.Every}
		if some {
			n, err := strconv.ParseInt(every, 10, 64)
			if err != nil || n < 1 {
				return nil, fmt.Errorf("STARLING_PLANTED: %q is not NAME:N with N of 1 or more", text)
			}
			c.every = n
		}
		return c, nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "STARLING_PLANTED: %q is no bug; choose NAME or NAME:N (every N-th time) of:", name)
	for _, in := range All() {
		fmt.Fprintf(&b, "\n%-26s %s", in.Bug, in.What)
	}
	return nil, fmt.Errorf("%s", b.String())
}

// Now says whether a bug shows this time.
func Now(b Bug) bool {
	c := chosen.Load()
	return c != nil && c.bug == b && c.reached.Add(1)%c.every == 0
}

// After does something later, beside all else.
func After(d time.Duration, f func()) { time.AfterFunc(d, f) }

// Sleep holds up whoever calls it.
func Sleep(d time.Duration) { time.Sleep(d) } //nolint:forbidigo // to be late is the bug
