package registrytest

import (
	"context"
	"fmt"
	"time"

	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/wire"
)

func (s suite) members() {
	t, e := s.t, s.env
	ctx, r := t.Context(), e.Registry
	pairs := []registry.Membership{{Group: "g", User: "a"}, {Group: "g", User: "b"}, {Group: "g", User: "c"}, {Group: "h", User: "a"}}
	are := func() []bool { return must[[]bool](t)(e.Other.AreMembers(ctx, pairs)) }
	same(t, "nothing cached", are(), []bool{false, false, false, false})
	check(t, r.PutMembers(ctx, "g", []wire.UserID{"a", "b"}))
	same(t, "put", are(), []bool{true, true, false, false})
	check(t, r.ChangeMembers(ctx, "g", []wire.UserID{"c"}, []wire.UserID{"a"}))
	same(t, "changed", are(), []bool{false, true, true, false})
	check(t, r.PutMembers(ctx, "g", []wire.UserID{"a"}))
	same(t, "replaced", are(), []bool{true, false, false, false})
	big := make([]wire.UserID, 2500)
	for i := range big {
		big[i] = wire.UserID(fmt.Sprintf("m%d", i))
	}
	check(t, r.PutMembers(ctx, "big", big))
	same(t, "last of many", must[[]bool](t)(r.AreMembers(ctx, []registry.Membership{{Group: "big", User: "m2499"}})), []bool{true})
	check(t, r.PutMembers(ctx, "g", nil))
	same(t, "emptied", are(), []bool{false, false, false, false})
}

func (s suite) empty() {
	t, e := s.t, s.env
	ctx, r := t.Context(), e.Registry
	check(t, r.Ping(ctx))
	if d := must[time.Duration](t)(r.Clock(ctx)); d.Abs() > 10*time.Second { // the machine's own, so as far as a busy one may be
		t.Errorf("the clock is off by %v", d)
	}
	for name, err := range map[string]error{
		"put_messages": r.PutMessages(ctx, nil), "file_offline": r.FileOffline(ctx, nil),
		"mark_acked": r.MarkAcked(ctx, nil, nil), "change_members": r.ChangeMembers(ctx, "g", nil, nil),
		"put_members": r.PutMembers(ctx, "g", nil),
	} {
		if err != nil {
			t.Errorf("%s of nothing: %v", name, err)
		}
	}
	same(t, "reserve", len(must[[]registry.Reserved](t)(r.Reserve(ctx, nil))), 0)
	same(t, "members", len(must[[]bool](t)(r.AreMembers(ctx, nil))), 0)
	same(t, "routes", len(must[map[wire.UserID][]registry.Route](t)(r.PutRoutes(ctx, nil))), 0)
	same(t, "groups", len(must[[]int64](t)(r.AddGroupEdge(ctx, "a", nil))), 0)
}

func (s suite) canceled() {
	t, e := s.t, s.env
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 20 {
		if _, err := e.Registry.Lookup(ctx, []wire.UserID{"u"}, nil); err == nil {
			t.Fatal("a look-up under an ended context passed")
		}
	}
	check(t, e.Registry.Ping(t.Context())) // the breaker took no offence
}
