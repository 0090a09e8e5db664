package timerslack

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/starling-im/starling/common/testkit"
)

const raised = 300 * time.Microsecond

// TestMain is also the program that the tests run: "child [chosen ns]".
func TestMain(m *testing.M) {
	switch {
	case len(os.Args) == 3 && os.Args[1] == "child":
		// As whoever starts a process with a slack of its own.
		var ns uintptr
		_, _ = fmt.Sscan(os.Args[2], &ns)
		runtime.LockOSThread()
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, ns, 0, 0, 0)
		_ = syscall.Exec("/proc/self/exe", []string{os.Args[0], "child"}, os.Environ())
	case len(os.Args) == 2 && os.Args[1] == "child":
		Raise(raised)
		tell()
	default:
		testkit.VerifyMain(m)
	}
}

// tell prints the process and the slack of several threads.
func tell() {
	fmt.Println("pid", os.Getpid(), "mark", strings.Contains(strings.Join(os.Environ(), " "), "TIMERSLACK"))
	var wg sync.WaitGroup
	var held sync.WaitGroup
	held.Add(4)
	for range 4 {
		wg.Go(func() {
			runtime.LockOSThread()
			held.Done()
			held.Wait() // four threads at once
			ns, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
			fmt.Println("slack", ns, err)
		})
	}
	wg.Wait()
}

func TestRaise(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"every thread", []string{"child"}, "slack 300000 <nil>"},
		{"a choice stays", []string{"child", "70000"}, "slack 70000 <nil>"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0], c.args...)
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			want := fmt.Sprintf("pid %d mark false\n", cmd.Process.Pid) + strings.Repeat(c.want+"\n", 4)
			if string(out) != want {
				t.Errorf("got\n%swant\n%s", out, want)
			}
		})
	}
}
