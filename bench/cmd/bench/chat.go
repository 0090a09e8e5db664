package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/starling-im/starling/bench/internal/scenario"
)

func chat(ctx context.Context, args []string) int {
	fs := flag.NewFlagSet("bench chat", flag.ContinueOnError)
	var load scenario.Chat
	load.RegisterFlags(fs)
	asJSON := fs.Bool("json", false, "print the report as JSON")
	if err := fs.Parse(args); err != nil {
		return exitUsage
	}
	if err := load.Validate(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitUsage
	}
	r, err := load.Run(ctx)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench chat:", err)
		return exitFaults
	}
	write := r.Text
	if *asJSON {
		write = r.JSON
	}
	if err := write(os.Stdout); err != nil || !r.Clean() {
		return exitFaults
	}
	return exitOK
}
