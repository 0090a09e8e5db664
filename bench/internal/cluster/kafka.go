package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// InSync waits until every broker says that all have what they are to have a copy
// of.
func (c *Cluster) InSync(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, restoreTime)
	defer cancel()
	for broker := range strings.SplitSeq(c.brokers, ",") {
		if err := await(ctx, func() error { return askBroker(ctx, broker) }); err != nil {
			return fmt.Errorf("broker %s: %w", broker, err)
		}
	}
	return nil
}

// askBroker asks a broker for what it knows of all topics (Metadata, version 5)
// and says which copies are behind.
func askBroker(ctx context.Context, addr string) error {
	d := net.Dialer{Timeout: endTime}
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(endTime)) // fails where the rest does
	body := []byte{
		0, 3, 0, 5, // Metadata, version
		0, 0, 0, 1, // correlation
		0, 5, 'b', 'e', 'n', 'c', 'h',
		0xff, 0xff, 0xff, 0xff, // all topics
		0, // make none
	}
	if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)); err != nil {
		return fmt.Errorf("ask: %w", err)
	}
	var size [4]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > 1<<24 {
		return fmt.Errorf("an answer of %d bytes", n)
	}
	answer := make([]byte, n)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return fmt.Errorf("read the answer: %w", err)
	}
	return readMetadata(answer)
}

// fields reads the fixed encoding of Kafka's answers; what is cut short is bad.
type fields struct {
	b   []byte
	bad bool
}

func (f *fields) take(n int) []byte {
	if f.bad || n < 0 || n > len(f.b) {
		f.bad = true
		return make([]byte, 4)
	}
	out := f.b[:n]
	f.b = f.b[n:]
	return out
}

func (f *fields) int16() int { return int(int16(binary.BigEndian.Uint16(f.take(2)))) }
func (f *fields) int32() int { return int(int32(binary.BigEndian.Uint32(f.take(4)))) }

func (f *fields) text() string {
	n := f.int16()
	if n < 0 {
		return "" // null
	}
	return string(f.take(n))
}

// list reads a list's length and each of its elements.
func (f *fields) list(each func()) (n int) {
	n = f.int32()
	for i := 0; i < n && !f.bad; i++ {
		each()
	}
	return n
}

func readMetadata(answer []byte) error {
	f := &fields{b: answer}
	var behind []error
	f.take(8) // correlation, throttle time
	f.list(func() { f.int32(); f.text(); f.int32(); f.text() })
	f.text()  // the cluster's id
	f.int32() // the controller
	topics := f.list(func() {
		code, topic := f.int16(), f.text()
		f.take(1) // internal
		if code != 0 {
			behind = append(behind, fmt.Errorf("topic %s: error %d", topic, code))
		}
		f.list(func() {
			code, partition, leader := f.int16(), f.int32(), f.int32()
			one := func() { f.int32() }
			copies, inSync := f.list(one), f.list(one)
			f.list(one)
			if code != 0 || leader < 0 || inSync < copies {
				behind = append(behind, fmt.Errorf("%s/%d: error %d, leader %d, %d of %d copies in sync", topic, partition, code, leader, inSync, copies))
			}
		})
	})
	if f.bad || topics == 0 {
		return errors.New("an answer that cannot be read, or without topics")
	}
	return errors.Join(behind...)
}
