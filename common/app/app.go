// Package app runs the modules of a process in order: start after
// dependencies, drain and stop before them, every error kept. (Skeleton: see
// Manager.)
package app

import "context"

// Module is one part of a process. Any function may be nil.
type Module struct {
	// Start returns when the module is ready to be used.
	Start func(ctx context.Context) error
	// Run works until ctx ends. Returning earlier, with or without an error,
	// stops the process in order.
	Run func(ctx context.Context) error
	// Drain takes no new work and finishes what is in hand.
	Drain func(ctx context.Context) error
	// Stop releases what Start took.
	Stop func(ctx context.Context) error
	// Ready says why the module is not ready, nil when it is; asked by /readyz.
	Ready func() error
}

// Registrar takes modules; Manager is the one of a process, tests may bring
// their own.
type Registrar interface {
	// Register names a module and what must start before it.
	Register(name string, m Module, deps ...string)
}
