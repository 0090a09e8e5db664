package app

import (
	"syscall"
	"testing"
	"time"
)

func TestSignals(t *testing.T) {
	exited := make(chan int, 1)
	ctx, stop := signals(t.Context(), func(code int) { exited <- code })
	defer stop()
	raise := func(s syscall.Signal) {
		t.Helper()
		if err := syscall.Kill(syscall.Getpid(), s); err != nil {
			t.Fatal(err)
		}
	}
	raise(syscall.SIGHUP) // must not end the test binary
	raise(syscall.SIGTERM)
	select {
	case <-ctx.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the first signal did not end the context")
	}
	select {
	case code := <-exited:
		t.Fatalf("exit %d at the first signal", code)
	default:
	}
	raise(syscall.SIGTERM)
	select {
	case code := <-exited:
		if code != 1 {
			t.Errorf("exit code %d", code)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the second signal did not end the process")
	}
}

func TestSignalsStop(t *testing.T) {
	ctx, stop := Signals(t.Context())
	stop()
	stop()
	if ctx.Err() == nil {
		t.Error("the context outlives stop")
	}
}
