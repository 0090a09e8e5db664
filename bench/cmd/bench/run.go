package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"github.com/starling-im/starling/bench/internal/scenario"
)

const usage = "usage: bench chat [flags]   (bench chat -h lists them)"

// run returns the exit code: 0 clean, 1 the run failed or found faults, 2 bad
// flags.
func run(ctx context.Context, args []string) int {
	if len(args) == 0 || args[0] != "chat" {
		fmt.Fprintln(os.Stderr, usage)
		return 2
	}
	fs := flag.NewFlagSet("bench chat", flag.ContinueOnError)
	var chat scenario.Chat
	chat.RegisterFlags(fs)
	asJSON := fs.Bool("json", false, "print the report as JSON")
	if err := fs.Parse(args[1:]); err != nil {
		return 2
	}
	if err := chat.Validate(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	r, err := chat.Run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench chat:", err)
		return 1
	}
	write := r.Text
	if *asJSON {
		write = r.JSON
	}
	if err := write(os.Stdout); err != nil || !r.Clean() {
		return 1
	}
	return 0
}
