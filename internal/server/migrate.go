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
	"github.com/starling-im/starling/internal/process"
)

// Migrate is `starling migrate`: it brings the schema to this binary's
// version, in MySQL if mysql.dsn is set, else in the data folder, and makes the
// topics that are missing if kafka.brokers is set. Several may run at once.
func Migrate(ctx context.Context, std process.IO) error {
	ctx, stop := app.Signals(ctx)
	defer stop()
	p := &Program{}
	fs, _ := process.Flags("starling migrate", p)
	cfg := &p.backend.MySQL
	log := &p.backend.Kafka
	done, err := config.Run(fs, std.Args, std.Environ, std.Stdout, func() error {
		var err error
		if len(log.Brokers) > 0 {
			err = log.Validate()
		}
		if cfg.DSN.Reveal() == "" {
			return errors.Join(err, p.validateFolder())
		}
		return errors.Join(err, cfg.Validate())
	})
	if err != nil || done {
		return err
	}
	where := "mysql"
	if cfg.DSN.Reveal() == "" {
		where = p.data
		err = migrateFolder(ctx, p.folder(nil), *cfg)
	} else {
		err = sqlstore.Migrate(ctx, *cfg)
	}
	if err != nil {
		return fmt.Errorf("migrate %s: %w", where, err)
	}
	var outcome strings.Builder
	fmt.Fprintf(&outcome, "schema in %s is up to date\n", where)
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
