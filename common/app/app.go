// Package app runs the modules of a process in order: start after
// dependencies, drain and stop before them, every error kept.
//
// A module goes through
//
//	new -> starting -> running -> draining -> stopping -> stopped
//	          |           |                                 |
//	          +-----------+----------> failed <-------------+
//
// Register everything, then call Manager.Run once; it blocks until the process
// is to end. Register is not for concurrent use and not for use after Run;
// States and Ready may be called at any time from any goroutine. Modules start
// one after another, by dependency and, among equals, in the order of their
// registration, so two starts of one build never differ.
package app

import "context"

// Module is one part of a process. Any function may be nil.
type Module struct {
	// Start returns when the module is ready to be used.
	Start func(ctx context.Context) error
	// Run works until ctx ends, in a goroutine of its own, from the moment Start
	// returned. ctx ends after every module has drained, just before Stop.
	// Returning earlier, with or without an error, stops the process in order.
	Run func(ctx context.Context) error
	// Drain takes no new work and finishes what is in hand.
	Drain func(ctx context.Context) error
	// Stop releases what Start took. It is called also when Run or Drain failed,
	// never when Start did.
	Stop func(ctx context.Context) error
	// Ready says why the module is not ready, nil when it is; asked by /readyz,
	// from the moment that Start is called.
	Ready func() error
}

// Registrar takes modules; Manager is the one of a process, tests may bring
// their own.
type Registrar interface {
	// Register names a module and what must start before it.
	Register(name string, m Module, deps ...string)
}

// ReadyOf returns what /readyz asks: Manager.Ready for the names if r is a
// Manager (so draining shows), and always ready if it is another Registrar.
func ReadyOf(r Registrar, names ...string) func() error {
	m, ok := r.(*Manager)
	if !ok {
		return func() error { return nil }
	}
	return func() error { return m.Ready(names...) }
}

// StatesOf returns what /modules shows of r, nil if r is not a Manager.
func StatesOf(r Registrar) func() any {
	m, ok := r.(*Manager)
	if !ok {
		return nil
	}
	return func() any { return m.States() }
}
