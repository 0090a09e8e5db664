package main

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/starling-im/starling/common/testkit"
	"github.com/starling-im/starling/internal/process"
	"github.com/starling-im/starling/internal/process/processtest"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

func TestConfigFiles(t *testing.T) {
	processtest.Example(t, "../../../configs", "logic", "Settings of the logic tier alone (bin/logic -config FILE).",
		func() process.Program { return &program{} }, map[string]string{
			"redis.addrs": "127.0.0.1:6379", "auth.jwks": "/etc/starling/jwks.json", "kafka.brokers": "kafka-1:9092,kafka-2:9092,kafka-3:9092", "mysql.dsn": "starling:password@tcp(127.0.0.1:3306)/starling",
		})
}

// TestNeedsItsServices runs the tier without any address: all that is missing
// is named at once.
func TestNeedsItsServices(t *testing.T) {
	var out, errs bytes.Buffer
	code := process.Main(context.Background(), "logic", &program{}, process.IO{Stdout: &out, Stderr: &errs})
	if code != 2 {
		t.Errorf("exit code %d, want 2", code)
	}
	for _, key := range []string{"redis.addrs", "auth.jwks", "kafka.brokers", "mysql.dsn"} {
		if !strings.Contains(errs.String(), "logic: "+key+": ") {
			t.Errorf("%s is not named in:\n%s", key, errs.String())
		}
	}
}
