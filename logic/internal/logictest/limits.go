package logictest

import (
	"time"

	"github.com/starling-im/starling/common/wire"
)

// Limits is message.Limits that bounds content alone, in bytes.
type Limits int

// MaxContent implements message.Limits.
func (l Limits) MaxContent() int { return int(l) }

// Take implements message.Limits.
func (Limits) Take(wire.UserID) time.Duration { return 0 }
