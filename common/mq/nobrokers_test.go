package mq_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
)

// TestNoBrokersInMetadata: a broker of a cluster that has just started, whose
// controller has registered none yet, knows its topics and not one broker.
// librdkafka from 2.10 on forgets all brokers then, and nothing but the time since
// it last heard of the cluster has it ask those of the settings again
// (confluentinc/librdkafka#5301): by default five minutes.
func TestNoBrokersInMetadata(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(3), kfake.SeedTopics(4, record.TopicMessages))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	var starting atomic.Bool
	var told atomic.Int32
	cluster.ControlKey(int16(kmsg.Metadata), func(r kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if !starting.Load() {
			return nil, nil, false
		}
		told.Add(1)
		return noBrokers(r), nil, true
	})
	cluster.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		cluster.KeepControl()
		if !starting.Load() {
			return nil, nil, false
		}
		return notLeader(r), nil, true // has clients ask where the leader is
	})

	b := &broker{t: t, topic: record.TopicMessages, group: "group", addrs: cluster.ListenAddrs()}
	o := &owner{ledger: newLedger()}
	join(t, b, b.config(), o)
	p := newProducer(t, b.config())
	produce(t, p, b.part(0), "before")
	eventually(t, "read", func() bool { return o.ledger.count() == 1 })

	// Whether a client is left with nobody to ask is a matter of luck, one time in
	// five.
	for round := range 10 {
		told.Store(0)
		starting.Store(true)
		if err := p.Produce(b.part(0), time.Now().UnixMilli(), []byte("meanwhile"), func(mq.Delivery) {}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "both clients are told of no brokers", func() bool { return int(told.Load()) >= 2+round%4 })
		starting.Store(false)
		began := time.Now()
		answers := make(chan error, 1)
		if err := p.Produce(b.part(1), time.Now().UnixMilli(), []byte("after"), func(d mq.Delivery) { answers <- d.Err }); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-answers:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("sends are not taken again within 20 s")
		}
		eventually(t, "read", func() bool { return len(o.ledger.values(b.part(1))) > round })
		t.Logf("%d answers without brokers; works again %v after the last", told.Load(), time.Since(began).Round(time.Millisecond))
	}
}

// noBrokers answers a request for metadata with topics alone.
func noBrokers(r kmsg.Request) kmsg.Response {
	resp, _ := r.ResponseKind().(*kmsg.MetadataResponse)
	topic := kmsg.NewMetadataResponseTopic()
	topic.Topic = kmsg.StringPtr(record.TopicMessages)
	for n := range int32(4) {
		part := kmsg.NewMetadataResponseTopicPartition()
		part.Partition, part.Leader, part.ErrorCode = n, -1, kerr.LeaderNotAvailable.Code
		topic.Partitions = append(topic.Partitions, part)
	}
	resp.Topics = append(resp.Topics, topic)
	resp.ControllerID = -1
	return resp
}

// notLeader answers a produce request.
func notLeader(r kmsg.Request) kmsg.Response {
	req, _ := r.(*kmsg.ProduceRequest)
	resp, _ := r.ResponseKind().(*kmsg.ProduceResponse)
	for _, t := range req.Topics {
		topic := kmsg.NewProduceResponseTopic()
		topic.Topic, topic.TopicID = t.Topic, t.TopicID
		for _, p := range t.Partitions {
			part := kmsg.NewProduceResponseTopicPartition()
			part.Partition, part.ErrorCode = p.Partition, kerr.NotLeaderForPartition.Code
			topic.Partitions = append(topic.Partitions, part)
		}
		resp.Topics = append(resp.Topics, topic)
	}
	return resp
}
