package server

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/starling-im/starling/common/app"
	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/embedded"
	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
	"github.com/starling-im/starling/internal/backend"
	"github.com/starling-im/starling/internal/deadletter"
	"github.com/starling-im/starling/internal/process"
)

// Verbs of `starling deadletter`.
const (
	verbList   = "list"
	verbShow   = "show"
	verbReplay = "replay"
)

const (
	maxLetters    = 10_000           // of one list
	topicsTimeout = 10 * time.Second // for brokers to answer
)

// letters is what `starling deadletter` was asked for.
type letters struct {
	verb string
	ids  []string

	limit int
	json  bool
	all   bool
	wait  time.Duration
}

func (l *letters) RegisterFlags(fs *flag.FlagSet) {
	switch l.verb {
	case verbList:
		fs.IntVar(&l.limit, "limit", 100, "how many to list, the newest; 1 to 10000")
		fs.BoolVar(&l.json, "json", false, "one JSON object a line")
	case verbReplay:
		fs.BoolVar(&l.all, "all", false, "replay all that are open")
		fs.DurationVar(&l.wait, "wait", 10*time.Second, "how long to wait for a job to come to each; 0 does not wait")
	}
}

func (l *letters) validate() error {
	var errs []error
	for _, id := range l.ids {
		_, _, err := record.ParseLetterID(id)
		errs = append(errs, err)
	}
	n := len(l.ids)
	switch l.verb {
	case verbList:
		if n > 0 {
			errs = append(errs, fmt.Errorf("argument %q: list takes none; use show", l.ids[0]))
		}
		if l.limit < 1 || l.limit > maxLetters {
			errs = append(errs, fmt.Errorf("limit: %d; give 1 to %d", l.limit, maxLetters))
		}
	case verbShow:
		if n != 1 {
			errs = append(errs, fmt.Errorf("show: %d ids; give one, as `starling deadletter list` prints it", n))
		}
	case verbReplay:
		if l.all == (n > 0) {
			errs = append(errs, errors.New("replay: give the ids that `starling deadletter list` prints, or -all"))
		}
		if l.wait < 0 {
			errs = append(errs, fmt.Errorf("wait: %v is negative; give for example 10s, or 0", l.wait))
		}
	case "":
		errs = append(errs, errors.New("write the verb first: starling deadletter list -data …, or show ID, or replay ID"))
	default:
		errs = append(errs, fmt.Errorf("deadletter %q: not known; use list, show ID or replay ID", l.verb))
	}
	return errors.Join(errs...)
}

// take reads the verb and the ids, which may stand before and among the flags,
// and returns the rest.
func (l *letters) take(args []string) (rest []string) {
	if len(args) == 0 {
		return nil
	}
	if !strings.HasPrefix(args[0], "-") {
		l.verb, args = args[0], args[1:]
	}
	for len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		l.ids, args = append(l.ids, args[0]), args[1:]
	}
	for _, a := range args {
		if strings.HasPrefix(a, record.TopicMessages+"/") || strings.HasPrefix(a, record.TopicGroups+"/") {
			l.ids = append(l.ids, a)
		} else {
			rest = append(rest, a)
		}
	}
	return rest
}

// DeadLetters is `starling deadletter`: it lists the records that were set
// aside, shows one of them, and writes some into the log again. It works on the
// servers of the settings, or on the data folder, whether a server has it or not.
func DeadLetters(ctx context.Context, std process.IO) (err error) {
	ctx, stop := app.Signals(ctx)
	defer stop()
	p, l := &Program{}, &letters{}
	args := l.take(std.Args)
	fs, _ := process.Flags("starling deadletter", p)
	l.RegisterFlags(fs)
	err = config.Load(fs, args, std.Environ)
	if errors.Is(err, flag.ErrHelp) {
		return lettersHelp(std.Stdout)
	}
	if err := config.Invalid(err, l.validate(), p.validateLetters()); err != nil {
		return err
	}
	b, err := p.joinBackend(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if !b.running {
		l.wait = 0 // no job can come
	}
	c := &letterCommand{letters: l, std: std, o: b.office}
	switch l.verb {
	case verbList:
		return c.list(ctx)
	case verbShow:
		return c.show(ctx)
	default:
		return c.replay(ctx)
	}
}

// external says whether the settings name servers, rather than none.
func (p *Program) external() (bool, error) {
	given := backends{kafka: len(p.backend.Kafka.Brokers) > 0, mysql: p.backend.MySQL.DSN.Reveal() != "" || p.backend.Shards != ""}
	if !given.kafka && !given.mysql {
		return false, nil
	}
	var errs []error
	for _, key := range given.missing(backends{kafka: true, mysql: true}) {
		errs = append(errs, fmt.Errorf("%s: not set; give its address, or none at all for the data folder", key))
	}
	return true, errors.Join(errs...)
}

func (p *Program) validateLetters() error {
	external, err := p.external()
	if err != nil {
		return err
	}
	errs := []error{p.job.Validate()}
	if external {
		_, serr := p.backend.ShardList()
		errs = append(errs, p.backend.Kafka.Validate(), serr)
	} else {
		errs = append(errs, p.validateFolder())
	}
	return errors.Join(errs...)
}

// joined is the log and the stores, as a command beside the servers has them.
type joined struct {
	office  *deadletter.Office
	running bool // jobs may be at work
	close   func() error
}

// joinBackend connects to the servers of the settings, or to those of the data
// folder, which it starts if nobody has.
func (p *Program) joinBackend(ctx context.Context) (_ *joined, err error) {
	be, running, leave := &p.backend, true, func() error { return nil }
	if external, _ := p.external(); !external {
		var services *embedded.Services
		if services, running, err = embedded.Join(ctx, p.folder(zap.NewNop())); err != nil {
			return nil, fmt.Errorf("data: %w", err)
		}
		leave = func() error { return services.Stop(ctx) }
		be = p.withEmbedded(services.KafkaBrokers(), "", services.SQLitePath())
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, leave())
		}
	}()
	check, cancel := context.WithTimeout(ctx, topicsTimeout)
	defer cancel()
	if err := mq.CheckTopics(check, be.Kafka, be.Kafka.Topics()); err != nil {
		return nil, fmt.Errorf("look at the topics: %w", err)
	}
	return p.openOffice(ctx, be, running, leave)
}

func (p *Program) openOffice(ctx context.Context, be *backend.Config, running bool, leave func() error) (*joined, error) {
	list, release, err := be.OpenShards(ctx)
	if err != nil {
		return nil, err //nolint:wrapcheck // names the shard
	}
	return &joined{
		office: &deadletter.Office{
			Kafka: be.Kafka, Shards: list, Window: p.job.Machine.RepeatWindow, Retention: p.job.OutcomeRetention, Now: time.Now,
		},
		running: running,
		close:   func() error { return errors.Join(release(), leave()) },
	}, nil
}

// lettersHelp names the verbs and their own flags.
func lettersHelp(out io.Writer) error {
	if _, err := fmt.Fprintln(out, `Usage of starling deadletter: records that no job could apply, and what has become of them
  starling deadletter list [-limit N] [-json]
  starling deadletter show ID
  starling deadletter replay ID… | -all [-wait 10s]
Settings (-config, -data, -kafka.…, -mysql.…, -job.repeat-window, -job.outcome-retention) are the server's. An ID is topic/partition/offset.`); err != nil {
		return fmt.Errorf("write the help: %w", err)
	}
	for _, verb := range []string{verbList, verbReplay} {
		fs := flag.NewFlagSet(verb, flag.ContinueOnError)
		fs.SetOutput(out)
		(&letters{verb: verb}).RegisterFlags(fs)
		if _, err := fmt.Fprintf(out, "Flags of %s:\n", verb); err != nil {
			return fmt.Errorf("write the help: %w", err)
		}
		fs.PrintDefaults()
	}
	return nil
}
