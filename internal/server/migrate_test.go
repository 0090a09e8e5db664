package server

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/internal/process"
)

func migrate(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	err := Migrate(t.Context(), process.IO{Args: append(args, "-data", t.TempDir()), Stdout: &out, Stderr: &out})
	return out.String(), err
}

// TestMigrateTopics: topics are made by one of several migrations at once, and
// those that stand are judged.
func TestMigrateTopics(t *testing.T) {
	brokers := os.Getenv("STARLING_TEST_KAFKA")
	switch {
	case brokers != "":
	case os.Getenv("STARLING_TEST_REAL") != "":
		t.Fatal("STARLING_TEST_KAFKA is not set, and STARLING_TEST_REAL is")
	default:
		t.Skip("STARLING_TEST_KAFKA is not set")
	}
	var work sync.WaitGroup
	for range 3 {
		work.Go(func() {
			out, err := migrate(t, "-kafka.brokers", brokers, "-kafka.single-broker")
			if err != nil || !strings.Contains(out, "topics are as they must be") {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	work.Wait()
	out, err := migrate(t, "-kafka.brokers", brokers, "-kafka.single-broker", "-kafka.partitions", "8")
	if !errors.Is(err, mq.ErrRefused) || !strings.Contains(err.Error(), "im_messages has 4 partitions, kafka.partitions says 8") || !strings.Contains(out, "schema in ") {
		t.Errorf("other number of partitions: %v: %s", err, out)
	}
}
