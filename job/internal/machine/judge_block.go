package machine

import (
	"slices"

	"github.com/starling-im/starling/common/store"
)

// block has one of the two of a private conversation block the other, or ends
// that. It takes no seq and pushes nothing: it is the owner's own affair.
func (t *turn) block(it *item, d *draft, on bool) (ruling, error) {
	if code := it.ownPrivate(); code != "" {
		return refuse(code)
	}
	was := &d.head.BlockedByA
	if it.key.From != it.conv.A {
		was = &d.head.BlockedByB
	}
	if *was == on {
		return ruling{}, nil
	}
	t.touch(it, d)
	*was = on
	change := store.BlockChange{Owner: it.key.From, Block: store.Block{Peer: it.conv.Peer(it.key.From)}}
	if on {
		change.Since = it.TS
	}
	t.out.Blocks = append(slices.DeleteFunc(t.out.Blocks, func(b store.BlockChange) bool {
		return b.Owner == change.Owner && b.Peer == change.Peer
	}), change)
	return ruling{}, nil
}
