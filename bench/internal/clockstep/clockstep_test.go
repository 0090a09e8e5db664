//go:build linux && amd64

package clockstep

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/starling-im/starling/common/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

const childEnv = "STARLING_TEST_CLOCK_CHILD"

// TestChild is the process whose clock is stepped: for each line it says how many
// seconds its wall clock and its monotonic clock are on. Other goroutines read
// the clock all the time.
func TestChild(t *testing.T) {
	if os.Getenv(childEnv) == "" {
		t.Skip("is run by TestStep")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var busy sync.WaitGroup
	for range 3 {
		busy.Go(func() {
			for ctx.Err() == nil {
				_ = time.Now()
			}
		})
	}
	began := time.Now()
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		now := time.Now()
		fmt.Printf("clock %d %d\n", now.Unix(), now.Sub(began)/time.Second)
	}
	cancel()
	busy.Wait()
}

func TestStep(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestChild$")
	cmd.Env = append(os.Environ(), childEnv+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	began := time.Now()
	for _, by := range []time.Duration{0, 45 * time.Second, -20 * time.Second, 0, time.Hour, 0} {
		if err := Step(t.Context(), cmd.Process.Pid, by); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(in, "\n"); err != nil {
			t.Fatal(err)
		}
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		var wall, mono int64
		if _, err := fmt.Sscanf(line, "clock %d %d", &wall, &mono); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		off := time.Duration(wall-time.Now().Unix()) * time.Second
		if d := off - by; d < -2*time.Second || d > 2*time.Second {
			t.Errorf("stepped by %v: its clock is off by %v", by, off)
		}
		if mono < 0 || time.Duration(mono)*time.Second > time.Since(began)+5*time.Second {
			t.Errorf("stepped by %v: its monotonic clock is at %d s", by, mono)
		}
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(lines)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, rest)
	}
	err = Step(t.Context(), cmd.Process.Pid, time.Second)
	if err == nil || !strings.Contains(err.Error(), "step the clock of process") {
		t.Errorf("a process that has ended: %v", err)
	}
}
