package timerslack

import (
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// standard is the slack of a process for which nobody chose another, in ns.
const standard = 50_000

// mark says to the process that comes after that it is the second one, whatever
// its kernel made of the slack.
const mark = "_STARLING_TIMERSLACK=1"

// Raise gives all threads of the process a slack of d: no timer goes off before
// its time, but up to d after. A slack that is not the kernel's standard was
// chosen by whoever started the process (systemd: TimerSlackNSec=) and stays.
//
// The runtime's threads are there before main, and a thread can change its own
// slack alone. So the process executes itself once more, which keeps its id, its
// files and the slack of the thread that asks. Where that is refused, nothing
// changes.
func Raise(d time.Duration) {
	if unmark() {
		return
	}
	runtime.LockOSThread() // of prctl and execve
	defer runtime.UnlockOSThread()
	if ns, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil || ns != standard {
		return
	}
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(d.Nanoseconds()), 0, 0, 0); err != nil {
		return
	}
	_ = syscall.Exec("/proc/self/exe", os.Args, append(os.Environ(), mark)) //nolint:gosec // this very program
}

// unmark takes the mark out of the environment and says whether it was there.
func unmark() bool {
	name := mark[:len(mark)-len("=1")]
	_, marked := os.LookupEnv(name)
	_ = os.Unsetenv(name)
	return marked
}
