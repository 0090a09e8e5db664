package mq

import (
	"errors"
	"flag"
	"fmt"
	"strings"
	"time"

	"github.com/confluentinc/confluent-kafka-go/v2/kafka"

	"github.com/starling-im/starling/common/config"
)

// Config is the settings of the log's clients.
type Config struct {
	Brokers      config.Strings // host:port of some brokers
	ClientID     string
	SingleBroker bool // one replica is enough: a development machine
	Embedded     bool // the log of package embedded, whose topics have few settings to check; no flag
	Partitions   int  // of each topic, fixed at its creation
	Retention    time.Duration

	Security     string // plaintext, ssl, sasl_plaintext, sasl_ssl
	CAFile       string
	SASL         string // PLAIN, SCRAM-SHA-256, SCRAM-SHA-512
	SASLUser     string
	SASLPassword config.Secret

	// Linger is how long a record waits for company. On Apache Kafka with one
	// broker the median acknowledgement takes 0.4 to 1.4 ms with 0 and 1.6 to
	// 3.3 ms with 1ms, at 1,000 and 5,000 records a second; what queues behind
	// requests under way shares a batch anyway.
	Linger         time.Duration
	MessageTimeout time.Duration // after that a record is answered ErrUnavailable
	QueueMessages  int           // records in flight; the next is ErrFull
	BatchMessages  int           // records handed to Owner.Messages at once, at most
	SessionTimeout time.Duration // a consumer silent for so long is out of its group
}

// RegisterFlags registers the settings with their defaults.
func (c *Config) RegisterFlags(fs *flag.FlagSet, prefix string) {
	fs.Var(&c.Brokers, prefix+"brokers", "Kafka brokers to start from, host:port separated by commas")
	fs.StringVar(&c.ClientID, prefix+"client-id", "starling", "name of this client in the brokers' logs and quotas")
	fs.BoolVar(&c.SingleBroker, prefix+"single-broker", false, "accept topics with fewer than 3 replicas or 2 in sync: development only, a broker's loss is a loss of messages")
	fs.IntVar(&c.Partitions, prefix+"partitions", 4, "partitions of each topic; cannot be changed once messages stand")
	fs.DurationVar(&c.Retention, prefix+"retention", minRetention, "how long topics made by Starling keep records; at least 192h")
	fs.StringVar(&c.Security, prefix+"security", "plaintext", "plaintext, ssl, sasl_plaintext or sasl_ssl")
	fs.StringVar(&c.CAFile, prefix+"ca-file", "", "file of the authorities that sign the brokers' certificates; empty: the system's")
	fs.StringVar(&c.SASL, prefix+"sasl-mechanism", "SCRAM-SHA-512", "PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512, where security is sasl_*")
	fs.StringVar(&c.SASLUser, prefix+"sasl-username", "", "user name for SASL")
	fs.Var(&c.SASLPassword, prefix+"sasl-password", "password for SASL. @FILE reads it from a file")
	fs.DurationVar(&c.Linger, prefix+"linger", 0, "how long a record waits for others to share its batch; 0 is fastest at rest")
	fs.DurationVar(&c.MessageTimeout, prefix+"message-timeout", 5*time.Second, "a record not acknowledged after this is answered unavailable")
	fs.IntVar(&c.QueueMessages, prefix+"queue-messages", 100_000, "records in flight to the log, at most; further sends are answered unavailable")
	fs.IntVar(&c.BatchMessages, prefix+"batch-messages", 1000, "records a consumer hands over at once, at most")
	fs.DurationVar(&c.SessionTimeout, prefix+"session-timeout", 6*time.Second, "a consumer silent for this long loses its partitions")
}

// Validate returns all that is wrong, each error naming its key.
func (c *Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("kafka."+format, args...))
		}
	}
	check(len(c.Brokers) > 0, "brokers: none given; name at least one host:port")
	for _, b := range c.Brokers {
		check(strings.LastIndexByte(b, ':') > 0, "brokers: %q has no port; write host:port", b)
	}
	check(c.Partitions >= 1 && c.Partitions <= 10_000, "partitions: %d; give 1 to 10000", c.Partitions)
	check(c.Retention >= minRetention, "retention: %v; give at least 192h, the time in which repeats are judged", c.Retention)
	check(c.Linger >= 0 && c.Linger <= time.Second, "linger: %v; give 0 to 1s", c.Linger)
	check(c.MessageTimeout >= time.Second && c.MessageTimeout <= time.Minute, "message-timeout: %v; give 1s to 1m", c.MessageTimeout)
	check(c.QueueMessages >= 1 && c.QueueMessages <= 10_000_000, "queue-messages: %d; give 1 to 10000000", c.QueueMessages)
	check(c.BatchMessages >= 1 && c.BatchMessages <= 1_000_000, "batch-messages: %d; give 1 to 1000000", c.BatchMessages)
	check(c.SessionTimeout >= 6*time.Second && c.SessionTimeout <= 5*time.Minute, "session-timeout: %v; give 6s to 5m, as brokers allow", c.SessionTimeout)
	switch c.Security {
	case "plaintext", "ssl":
	case "sasl_plaintext", "sasl_ssl":
		check(c.SASLUser != "", "sasl-username: empty; security %s needs one", c.Security)
		check(c.SASL == "PLAIN" || c.SASL == "SCRAM-SHA-256" || c.SASL == "SCRAM-SHA-512",
			"sasl-mechanism: %q; give PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512", c.SASL)
	default:
		check(false, "security: %q; give plaintext, ssl, sasl_plaintext or sasl_ssl", c.Security)
	}
	return errors.Join(errs...)
}

// A broker of a cluster that has just started may know topics and no broker, and
// librdkafka forgets all that an answer does not name (2.10 and later;
// confluentinc/librdkafka#5301). It begins anew with those of the settings when
// nobody has told it of the cluster for a while, by default five minutes: here
// after forgottenAfter, and it asks often enough for that not to happen otherwise.
const (
	askEvery       = 3 * time.Second
	forgottenAfter = 8 * time.Second
)

// base is what all clients have in common.
func (c *Config) base() kafka.ConfigMap {
	m := kafka.ConfigMap{
		"bootstrap.servers":        strings.Join(c.Brokers, ","),
		"client.id":                c.ClientID,
		"security.protocol":        c.Security,
		"socket.nagle.disable":     true,
		"reconnect.backoff.ms":     50,
		"reconnect.backoff.max.ms": 1000,
		"allow.auto.create.topics": false,
		"log.connection.close":     false,
		"log_level":                2, // critical; the rest comes as events

		"topic.metadata.refresh.interval.ms":       int(askEvery.Milliseconds()),
		"metadata.recovery.rebootstrap.trigger.ms": int(forgottenAfter.Milliseconds()),
	}
	if c.CAFile != "" {
		m["ssl.ca.location"] = c.CAFile
	}
	if strings.HasPrefix(c.Security, "sasl_") {
		m["sasl.mechanism"] = c.SASL
		m["sasl.username"] = c.SASLUser
		m["sasl.password"] = c.SASLPassword.Reveal()
	}
	return m
}
