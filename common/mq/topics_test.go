package mq_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/starling-im/starling/common/config"
	"github.com/starling-im/starling/common/embedded"
	"github.com/starling-im/starling/common/mq"
)

func admin(t *testing.T, addr string) *kadm.Client {
	t.Helper()
	k, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return kadm.NewClient(k)
}

// TestTopics: topics are made once, by several at once, and checked.
func TestTopics(t *testing.T) { onBrokers(t, topics) }

func topics(b *broker) {
	t := b.t
	c := b.config()
	for _, s := range c.Topics() {
		if !slices.Contains(embedded.Topics(), s.Name) {
			t.Errorf("topic %s is not in the embedded log", s.Name)
		}
	}
	fresh := mq.TopicSpec{Name: b.group + "-fresh", Partitions: 7, Retention: c.Retention}
	specs := append(c.Topics(), fresh)
	err := mq.CheckTopics(t.Context(), c, specs)
	if !errors.Is(err, mq.ErrUnavailable) || errors.Is(err, mq.ErrRefused) || !strings.Contains(err.Error(), fresh.Name+" is missing: run `starling migrate`") {
		t.Errorf("a topic is missing: %v", err)
	}
	var work sync.WaitGroup
	for range 3 {
		work.Go(func() {
			if _, err := mq.CreateTopics(t.Context(), c, specs); err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
	if made, err := mq.CreateTopics(t.Context(), c, specs); err != nil || len(made) > 0 {
		t.Errorf("made again: %v, %v", made, err)
	}
	if err := mq.CheckTopics(t.Context(), c, specs); err != nil {
		t.Error(err)
	}
	c.Partitions = 8
	err = mq.CheckTopics(t.Context(), c, c.Topics())
	if !errors.Is(err, mq.ErrRefused) || !strings.Contains(err.Error(), "im_push has 4 partitions, kafka.partitions says 8") || !strings.Contains(err.Error(), "im_messages") {
		t.Errorf("other number of partitions: %v", err)
	}
	if err := newProducer(t, c).Ready(); !errors.Is(err, mq.ErrRefused) {
		t.Errorf("a producer with another number of partitions: %v", err)
	}
	c = b.config()
	c.SingleBroker = false
	if err := mq.CheckTopics(t.Context(), c, c.Topics()); !errors.Is(err, mq.ErrRefused) || !strings.Contains(err.Error(), "kafka.single-broker") {
		t.Errorf("one replica: %v", err)
	}
	if err := newProducer(t, c).Ready(); !errors.Is(err, mq.ErrRefused) || !strings.Contains(err.Error(), "replicas") {
		t.Errorf("ready with one replica: %v", err)
	}
}

// TestTopicSettings: each setting under which messages would get lost is
// refused, with the command that puts it right.
func TestTopicSettings(t *testing.T) {
	t.Parallel()
	b := realBroker(t)
	c, specs := b.config(), []mq.TopicSpec{b.spec()}
	if err := mq.CheckTopics(t.Context(), c, specs); err != nil {
		t.Fatal(err)
	}
	a := admin(t, b.addr)
	set := func(key, value string) {
		t.Helper()
		rs, err := a.AlterTopicConfigs(t.Context(), []kadm.AlterConfig{{Op: kadm.SetConfig, Name: key, Value: &value}}, b.topic)
		if err != nil || rs[0].Err != nil {
			t.Fatal(err, rs)
		}
	}
	bad := map[string][2]string{ // bad, good
		"message.timestamp.type":         {"CreateTime", "LogAppendTime"},
		"cleanup.policy":                 {"compact", "delete"},
		"unclean.leader.election.enable": {"true", "false"},
		"retention.ms":                   {"691199999", "-1"},
		"retention.bytes":                {"1000000", "-1"},
		"min.insync.replicas":            {"2", "1"},
		"max.message.bytes":              {"1000000", "2000000"},
	}
	for key, v := range bad {
		set(key, v[0])
	}
	var err error
	eventually(t, "all is seen", func() bool {
		err = mq.CheckTopics(t.Context(), c, specs)
		return err != nil && strings.Count(err.Error(), "\n") == len(bad)-1
	})
	t.Log(err)
	for key, v := range bad {
		if !strings.Contains(err.Error(), fmt.Sprintf("topic %s has %s=%s, which must be ", b.topic, key, v[0])) || !strings.Contains(err.Error(), "--add-config "+key+"=") {
			t.Errorf("%s is not told in %v", key, err)
		}
	}
	if !errors.Is(err, mq.ErrRefused) {
		t.Errorf("%v is nothing to wait for", err)
	}
	for key, v := range bad {
		set(key, v[1])
	}
	eventually(t, "all is well", func() bool { return mq.CheckTopics(t.Context(), c, specs) == nil })
}

// TestNoBroker: nobody answers, which waiting may cure.
func TestNoBroker(t *testing.T) {
	t.Parallel()
	b := &broker{addr: "127.0.0.1:9"}
	c := b.config()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := mq.CheckTopics(ctx, c, c.Topics()); !errors.Is(err, mq.ErrUnavailable) || errors.Is(err, mq.ErrRefused) || !strings.Contains(err.Error(), "127.0.0.1:9") {
		t.Errorf("no broker: %v", err)
	}
}

// TestCredentials: what the brokers refuse is told as that, soon, with the
// keys, and without the password.
func TestCredentials(t *testing.T) {
	t.Parallel()
	k := startCluster(t, 1,
		"listeners=SASL_PLAINTEXT://{addr},CONTROLLER://{controller}", "advertised.listeners=SASL_PLAINTEXT://{addr}",
		"inter.broker.listener.name=SASL_PLAINTEXT", "sasl.mechanism.inter.broker.protocol=PLAIN", "sasl.enabled.mechanisms=PLAIN",
		`listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required username="admin" password="adminpw" user_admin="adminpw" user_starling="right" user_nobody="right";`,
		"authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer", "super.users=User:admin;User:starling;User:ANONYMOUS")
	as := func(user, password, mechanism string) mq.Config {
		c := k.config(t)
		c.Security, c.SASL, c.SASLUser, c.SASLPassword = "sasl_plaintext", mechanism, user, config.NewSecret(password)
		return c
	}
	good := as("starling", "right", "PLAIN")
	if _, err := mq.CreateTopics(t.Context(), good, good.Topics()); err != nil {
		t.Fatal(err)
	}
	if err := mq.CheckTopics(t.Context(), good, good.Topics()); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]struct {
		c    mq.Config
		want string
	}{
		"password":  {as("starling", "wrong-secret", "PLAIN"), `do not take user "starling": correct kafka.sasl-username, kafka.sasl-password`},
		"mechanism": {as("starling", "right", "SCRAM-SHA-512"), "kafka.sasl-mechanism"},
		"rights":    {as("nobody", "right", "PLAIN"), `user "nobody" lacks a right`},
	} {
		begin := time.Now()
		err := mq.CheckTopics(t.Context(), bad.c, bad.c.Topics())
		took := time.Since(begin)
		t.Logf("%s, after %v: %v", name, took, err)
		if !errors.Is(err, mq.ErrRefused) || errors.Is(err, mq.ErrUnavailable) || !strings.Contains(err.Error(), bad.want) || strings.Contains(err.Error(), "wrong-secret") {
			t.Errorf("%s: %v", name, err)
		}
		if took > 10*time.Second {
			t.Errorf("%s: after %v", name, took)
		}
		p := newProducer(t, bad.c)
		eventually(t, name+" refused by Ready", func() bool { return errors.Is(p.Ready(), mq.ErrRefused) })
		t.Logf("%s: ready: %v", name, p.Ready())
	}
}
