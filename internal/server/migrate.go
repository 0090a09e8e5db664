package server

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/starling-im/starling/common/app"
	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/embedded"
	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/store/sqlstore"
	"github.com/starling-im/starling/internal/backend"
	"github.com/starling-im/starling/internal/process"
)

// Migrate is `starling migrate`: it brings the schema to this binary's
// version, in every shard if mysql.dsn or mysql.shards is set, else in the data
// folder, and makes the topics that are missing if kafka.brokers is set. Several
// may run at once.
func Migrate(ctx context.Context, std process.IO) error {
	ctx, stop := app.Signals(ctx)
	defer stop()
	p := &Program{}
	fs, _ := process.Flags("starling migrate", p)
	var list []backend.Shard // none: the data folder
	log := &p.backend.Kafka
	done, err := config.Run(fs, std.Args, std.Environ, std.Stdout, func() error {
		var err error
		if len(log.Brokers) > 0 {
			err = log.Validate()
		}
		if p.backend.MySQL.DSN.Reveal() == "" && p.backend.Shards == "" {
			return errors.Join(err, p.validateFolder())
		}
		var serr error
		list, serr = p.backend.ShardList()
		return errors.Join(err, serr)
	})
	if err != nil || done {
		return err
	}
	schemas, err := p.migrateStore(ctx, list)
	if err != nil {
		return err
	}
	var outcome strings.Builder
	outcome.WriteString(schemas)
	var topicsErr error
	if len(log.Brokers) > 0 {
		var made []string
		made, topicsErr = migrateTopics(ctx, log)
		for _, name := range made {
			fmt.Fprintf(&outcome, "made topic %s with %d partitions\n", name, log.Partitions)
		}
		if topicsErr == nil {
			outcome.WriteString("topics are as they must be\n")
		}
	}
	if _, err := fmt.Fprint(std.Stdout, outcome.String()); err != nil {
		return errors.Join(topicsErr, fmt.Errorf("print the outcome: %w", err))
	}
	return topicsErr
}

// migrateStore migrates the shards, or the data folder without any.
func (p *Program) migrateStore(ctx context.Context, list []backend.Shard) (outcome string, err error) {
	if len(list) == 0 {
		if err := migrateFolder(ctx, p.folder(nil), p.backend.MySQL); err != nil {
			return "", fmt.Errorf("migrate %s: %w", p.data, err)
		}
		return fmt.Sprintf("schema in %s is up to date\n", p.data), nil
	}
	for i := range list {
		if err := sqlstore.Migrate(ctx, list[i].MySQL); err != nil {
			return "", fmt.Errorf("migrate shard %s: %w", list[i].Name, err)
		}
		outcome += fmt.Sprintf("schema in shard %s is up to date\n", list[i].Name)
	}
	return outcome, nil
}

// migrateTopics makes the topics and checks those that stood.
func migrateTopics(ctx context.Context, cfg *mq.Config) (made []string, err error) {
	specs := cfg.Topics()
	if made, err = mq.CreateTopics(ctx, *cfg, specs); err == nil {
		err = mq.CheckTopics(ctx, *cfg, specs)
	}
	if err != nil {
		return made, fmt.Errorf("migrate the topics: %w", err)
	}
	return made, nil
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
