// Package mq is Kafka as Starling uses it: a producer that chooses the
// partition itself and answers after the broker's own acknowledgement, a
// consumer that is told where to start and never loses its place, and topics
// made and checked explicitly. It is the only user of confluent-kafka-go, and
// so the only cgo of the system.
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
