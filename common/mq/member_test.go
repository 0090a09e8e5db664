package mq_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/zap"

	"github.com/starling-im/starling/common/mq"
	"github.com/starling-im/starling/common/record"
)

// memberEnv makes the test binary a member of a group that can be killed:
// addresses, topic and group, separated by spaces.
const memberEnv = "STARLING_TEST_MQ_MEMBER"

// printer is the owner of such a member.
type printer struct {
	n     int
	quiet bool
}

func (p *printer) Assigned(_ context.Context, as []mq.Assignment) (map[record.PartitionID]int64, error) {
	starts := map[record.PartitionID]int64{}
	for _, a := range as {
		starts[a.PartitionID] = max(0, a.Committed)
	}
	p.tell(len(as))
	return starts, nil
}
func (p *printer) Revoked(ps []record.PartitionID, _ bool)        { p.tell(-len(ps)) }
func (p *printer) Messages(context.Context, []record.Entry) error { return nil }

func (p *printer) tell(change int) {
	p.n += change
	if !p.quiet {
		fmt.Println("owns", p.n)
	}
}

func runMember(at string) {
	f := strings.Fields(at)
	b := &broker{addr: f[0], addrs: strings.Split(f[0], ","), topic: f[1], group: f[2]}
	x, err := mq.NewConsumer(b.config(), b.group, []string{b.topic}, zap.NewNop(), nil)
	if err == nil {
		err = x.Run(context.Background(), &printer{})
	}
	fmt.Println("ended", err)
}

// member is a member of the group in another process.
type member struct {
	cmd  *exec.Cmd
	owns atomic.Int64
	done chan struct{}
}

func startMember(t *testing.T, b *broker) *member {
	t.Helper()
	addrs := b.addr
	if len(b.addrs) > 0 {
		addrs = strings.Join(b.addrs, ",")
	}
	m := &member{cmd: exec.Command(os.Args[0]), done: make(chan struct{})}
	m.cmd.Env = append(os.Environ(), memberEnv+"="+addrs+" "+b.topic+" "+b.group)
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(m.done)
		for s := bufio.NewScanner(out); s.Scan(); {
			var n int64
			if _, err := fmt.Sscanf(s.Text(), "owns %d", &n); err == nil {
				m.owns.Store(n)
			}
		}
	}()
	t.Cleanup(m.kill)
	return m
}

// kill ends the member as kill -9 does.
func (m *member) kill() {
	_ = m.cmd.Process.Kill()
	<-m.done
	_ = m.cmd.Wait()
}
