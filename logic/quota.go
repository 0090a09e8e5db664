package logic

import (
	"time"

	"github.com/starling-im/starling/common/limits"
	"github.com/starling-im/starling/common/wire"
)

// quotas is how many users' buckets are kept; one that was forgotten begins full.
const quotas = 100_000

// quota implements message.Limits.
type quota struct {
	live    *limits.Live
	buckets *limits.Buckets[wire.UserID]
}

func newQuota(live *limits.Live) (*quota, error) {
	b, err := limits.NewBuckets[wire.UserID](quotas)
	if err != nil {
		return nil, err //nolint:wrapcheck // says what it was
	}
	return &quota{live: live, buckets: b}, nil
}

// MaxContent implements message.Limits.
func (q *quota) MaxContent() int { return q.live.Get().MaxContent }

// Take implements message.Limits.
func (q *quota) Take(u wire.UserID) time.Duration {
	l := q.live.Get()
	return q.buckets.Take(u, time.Now(), l.MessagesPerSecond, l.MessageBurst)
}
