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
// its kernel made of the slack. Set by others, it switches Raise off.
const mark = "_STARLING_TIMERSLACK=1"

// Raise gives all threads of the process a slack of d: no timer goes off before
// its time, but up to d after. A slack other than the kernel's standard of 50 µs
// was chosen by whoever started the process (systemd: TimerSlackNSec=) and stays.
//
// The runtime's threads are there before main, and a thread can change its own
// slack alone. So the process executes itself once more, which keeps its id, its
// files and the slack of the thread that asks. Where that fails, nothing changes.
func Raise(d time.Duration) {
	if unmark() {
		return
	}
	exe, err := os.Executable()
	if err != nil {
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
	_ = syscall.Exec(exe, os.Args, append(os.Environ(), mark)) //nolint:gosec // this very program
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, standard, 0, 0, 0)
}

// unmark takes the mark out of the environment and says whether it was there.
func unmark() bool {
	name := mark[:len(mark)-len("=1")]
	_, marked := os.LookupEnv(name)
	_ = os.Unsetenv(name)
	return marked
}
