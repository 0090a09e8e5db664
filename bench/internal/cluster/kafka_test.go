package cluster

import (
	"encoding/binary"
	"strings"
	"testing"
)

// metadata is an answer of a broker of two, on one topic of one partition.
func metadata(inSync ...int) []byte {
	num := func(b []byte, n int) []byte { return binary.BigEndian.AppendUint32(b, uint32(n)) }
	text := func(b []byte, s string) []byte {
		return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
	}
	list := func(b []byte, ns ...int) []byte {
		b = num(b, len(ns))
		for _, n := range ns {
			b = num(b, n)
		}
		return b
	}
	b := num(num(nil, 1), 0)
	b = num(b, 2)
	for i := range 2 {
		b = append(num(text(num(b, i), "127.0.0.1"), 9092), 0xff, 0xff)
	}
	b = num(text(b, "cluster"), 1)
	b = append(text(append(num(b, 1), 0, 0), "im_messages"), 0)
	b = num(num(append(num(b, 1), 0, 0), 0), 1)
	b = list(list(b, 1, 2), inSync...)
	return list(b)
}

func TestReadMetadata(t *testing.T) {
	good := metadata(1, 2)
	if err := readMetadata(good); err != nil {
		t.Errorf("in sync: %v", err)
	}
	if err := readMetadata(metadata(2)); err == nil || !strings.Contains(err.Error(), "im_messages/0: error 0, leader 1, 1 of 2 copies in sync") {
		t.Errorf("behind: %v", err)
	}
	for n := range good {
		if readMetadata(good[:n]) == nil {
			t.Errorf("%d of %d bytes pass for an answer", n, len(good))
		}
	}
}
