package server

import (
	"context"
	"errors"
	"fmt"

	"github.com/starling-im/starling/common/app"
	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/embedded"
	"github.com/starling-im/starling/common/store/sqlstore"
	"github.com/starling-im/starling/internal/backend"
	"github.com/starling-im/starling/internal/process"
)

// Migrate is `starling migrate`: it brings the schema to this binary's
// version, in every shard if mysql.dsn or mysql.shards is set, else in the data
// folder.
func Migrate(ctx context.Context, std process.IO) error {
	ctx, stop := app.Signals(ctx)
	defer stop()
	p := &Program{}
	fs, _ := process.Flags("starling migrate", p)
	own := func() bool { return p.backend.MySQL.DSN.Reveal() != "" || p.backend.Shards != "" }
	var list []backend.Shard
	done, err := config.Run(fs, std.Args, std.Environ, std.Stdout, func() error {
		if !own() {
			return p.validateFolder()
		}
		var err error
		list, err = p.backend.ShardList()
		return err //nolint:wrapcheck // names its keys
	})
	if err != nil || done {
		return err
	}
	where := "mysql"
	if !own() {
		where = p.data
		if err := migrateFolder(ctx, p.folder(nil), p.backend.MySQL); err != nil {
			return fmt.Errorf("migrate %s: %w", where, err)
		}
	}
	for i := range list {
		if err := sqlstore.Migrate(ctx, list[i].MySQL); err != nil {
			return fmt.Errorf("migrate shard %s: %w", list[i].Name, err)
		}
	}
	if _, err := fmt.Fprintf(std.Stdout, "schema in %s is up to date\n", where); err != nil {
		return fmt.Errorf("print the outcome: %w", err)
	}
	return nil
}

// migrateFolder takes the folder's lock by starting its services, so that no
// running server has it open.
func migrateFolder(ctx context.Context, folder embedded.Config, cfg sqlstore.Config) (err error) {
	services, err := embedded.Start(ctx, folder)
	if err != nil {
		return fmt.Errorf("take the data folder: %w", err)
	}
	defer func() { err = errors.Join(err, services.Stop(ctx)) }()
	cfg.Driver, cfg.DSN = sqlstore.DriverSQLite, config.NewSecret(services.SQLitePath())
	return sqlstore.Migrate(ctx, cfg)
}
