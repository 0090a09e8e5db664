// Package mq is Kafka as Starling uses it: a producer that chooses the
// partition itself and answers after the broker's own acknowledgement, a
// consumer that is told where to start and never loses its place, and topics
// made and checked explicitly. It is the only user of confluent-kafka-go, and
// so the only cgo of the system.
//
// Limits, met on Apache Kafka 4.1 with three brokers. A record answered with
// ErrUnavailable may come all the same, and records of a time in which some
// were answered so may stand twice in the log, acknowledged ones too: the
// client numbers what is in flight anew then. Readers judge repeats. A member
// killed is replaced once its session ends (kafka.session-timeout). If a
// group's coordinator is away for longer than that, as the brokers' own
// sessions are longer, the members lose their partitions and get them back a
// session later. What waits in a consumer is 16 MiB and 8 MiB a broker, over
// all partitions, before decompression; in a producer 256 MiB.
package mq

import "errors"

// Delivery is the broker's answer to one Produce. Err is nil once the record
// is acknowledged by all in-sync replicas.
type Delivery struct {
	Offset int64
	TS     int64 // ms, as given to Produce: the client tells the log's append time only to consumers
	Err    error
}

// ErrUnavailable is the reason of a Delivery whose record may or may not have
// reached the log: retry with the same client_id.
var ErrUnavailable = errors.New("log unavailable")

// ErrRefused is the reason for what waiting does not cure: credentials, rights
// or topics that a person has to put right.
var ErrRefused = errors.New("refused")
