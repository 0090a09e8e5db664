package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

const usage = `usage: bench chat|verify|check [flags]
  chat    load, and how long deliveries take
  verify  a seeded workload of everything, recorded and checked against every promise
  check   checks a record of verify again
bench COMMAND -h lists its flags.`

// Exit codes: 0 clean, 1 the run failed or found faults, 2 bad flags.
const (
	exitOK = iota
	exitFaults
	exitUsage
)

func run(ctx context.Context, args []string) int {
	commands := map[string]func(context.Context, []string) int{"chat": chat, "verify": verify, "check": check}
	if len(args) == 0 || commands[args[0]] == nil {
		fmt.Fprintln(os.Stderr, usage)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends it at once, whatever it leaves behind
	return commands[args[0]](ctx, args[1:])
}
