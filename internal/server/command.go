package server

import (
	"context"
	"fmt"
	"strings"

	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/internal/process"
)

// Commands beside the server.
const (
	commandToken      = "token"
	commandMigrate    = "migrate"
	commandLedger     = "ledger"
	commandDeadLetter = "deadletter"
	commandVersion    = "version"
)

// Main runs the server, or the command that the first argument names, and
// returns the exit code. Any bare word is a command, so that a misspelt one is
// not run as a server.
func Main(ctx context.Context, build string, std process.IO) int {
	if len(std.Args) == 0 || strings.HasPrefix(std.Args[0], "-") {
		return process.Main(ctx, "starling", &Program{}, std)
	}
	name := std.Args[0]
	std.Args = std.Args[1:]
	return process.Report("starling", command(ctx, name, build, std), std.Stderr)
}

func command(ctx context.Context, name, build string, std process.IO) error {
	switch name {
	case commandToken:
		return Token(std)
	case commandMigrate:
		return Migrate(ctx, std)
	case commandLedger:
		return Ledger(ctx, std)
	case commandDeadLetter:
		return DeadLetters(ctx, std)
	case commandVersion:
		if _, err := fmt.Fprintln(std.Stdout, build); err != nil {
			return fmt.Errorf("print the version: %w", err)
		}
		return nil
	default:
		return config.Invalid(fmt.Errorf("command %q: not known; use token, migrate, ledger, deadletter, version, or flags alone to run the server", name))
	}
}
