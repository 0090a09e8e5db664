package limits

import (
	"fmt"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// Buckets is one token bucket for each key, of those that were asked for last.
// One that was forgotten begins full.
type Buckets[K comparable] struct {
	kept *lru.Cache[K, *rate.Limiter]
}

// NewBuckets returns buckets for the newest keys.
func NewBuckets[K comparable](newest int) (*Buckets[K], error) {
	kept, err := lru.New[K, *rate.Limiter](newest)
	if err != nil {
		return nil, fmt.Errorf("limits: %w", err)
	}
	return &Buckets[K]{kept: kept}, nil
}

// Take takes one token of a key's bucket, which fills with perSecond (0: no
// limit) up to burst. Without one it says how long to wait for it.
func (b *Buckets[K]) Take(k K, now time.Time, perSecond float64, burst int) (wait time.Duration) {
	if perSecond <= 0 {
		return 0
	}
	l, ok := b.kept.Get(k)
	if !ok {
		l = rate.NewLimiter(rate.Limit(perSecond), burst)
		if other, was, _ := b.kept.PeekOrAdd(k, l); was {
			l = other
		}
	}
	return Take(l, now, perSecond, burst)
}

// Take takes one token of a bucket, giving it a rate and a burst that may have
// changed. Without one it says how long to wait for it.
func Take(l *rate.Limiter, now time.Time, perSecond float64, burst int) (wait time.Duration) {
	if l.Limit() != rate.Limit(perSecond) {
		l.SetLimitAt(now, rate.Limit(perSecond))
	}
	if l.Burst() != burst {
		l.SetBurstAt(now, burst)
	}
	if l.AllowN(now, 1) {
		return 0
	}
	// A reservation that is cancelled gives back less than it took once others
	// have reserved: who floods would owe for minutes.
	missing := 1 - l.TokensAt(now)
	return max(time.Millisecond, time.Duration(missing/perSecond*float64(time.Second)))
}
