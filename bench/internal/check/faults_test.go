package check

import (
	"slices"

	"github.com/starling-im/starling/bench/internal/trace"
	"github.com/starling-im/starling/common/wire"
)

func kinds() []kindOf {
	return slices.Concat(pushKinds(), pageKinds(), answerKinds(), wholeKinds())
}

func pushKinds() []kindOf {
	push := ofKind(trace.Msg, trace.Update)
	return []kindOf{
		{"push deleted", push, func(m *mutant, i int, _ *trace.Event) bool {
			if !m.fresh(i) {
				return false
			}
			m.drop(i)
			return true
		}},
		{"push to another user's connection", push, func(m *mutant, i int, e *trace.Event) bool {
			for _, o := range m.events {
				if o.Conn != e.Conn && o.Conn != 0 && o.User != e.User && m.fresh(i) {
					e.Conn, e.User, e.Device = o.Conn, o.User, o.Device
					return true
				}
			}
			return false
		}},
		{"push before the one before it", push, func(m *mutant, i int, e *trace.Event) bool {
			conv, seq := shown(e)
			for j := i - 1; j > 0; j-- {
				if c, s := shown(m.events[j]); m.events[j].Conn == e.Conn && c == conv {
					if s >= seq || !m.fresh(i) || !m.fresh(j) {
						return false
					}
					m.drop(i)
					m.insert(j, *e)
					return true
				}
			}
			return false
		}},
		{"push of another seq", push, func(_ *mutant, _ int, e *trace.Event) bool {
			if e.Msg != nil {
				e.Msg.Seq++
			} else {
				e.Update.Seq++
			}
			return true
		}},
		{"push of another id", push, func(_ *mutant, _ int, e *trace.Event) bool {
			if e.Msg != nil {
				e.Msg.ID++
			} else {
				e.Update.ID++
			}
			return true
		}},
		{"push of another time", ofKind(trace.Msg), func(_ *mutant, _ int, e *trace.Event) bool { e.Msg.TS++; return true }},
		{"push of another type", ofKind(trace.Msg), func(_ *mutant, _ int, e *trace.Event) bool { e.Msg.Type = wire.TypeImage; return true }},
		{"push of another text", push, func(_ *mutant, _ int, e *trace.Event) bool {
			if e.Msg != nil {
				e.Msg.Content += " "
			} else {
				e.Update.Content += " "
			}
			return true
		}},
		{"push of another sender", ofKind(trace.Msg), func(_ *mutant, _ int, e *trace.Event) bool { e.Msg.From += "x"; return true }},
		{"push of another client_id", ofKind(trace.Msg), func(_ *mutant, _ int, e *trace.Event) bool { e.Msg.ClientID += "x"; return true }},
		{"push with a mention", isText, func(_ *mutant, _ int, e *trace.Event) bool { e.Msg.Mention = []wire.UserID{"x"}; return true }},
		{"update of another target", ofKind(trace.Update), func(_ *mutant, _ int, e *trace.Event) bool { e.Update.TargetSeq--; return true }},
		{"update of another status", ofKind(trace.Update), func(_ *mutant, _ int, e *trace.Event) bool {
			e.Update.Status = map[string]string{wire.StatusEdited: wire.StatusRecalled, wire.StatusRecalled: wire.StatusEdited}[e.Update.Status]
			return true
		}},
		{"lagged dropped", ofKind(trace.Lagged), func(m *mutant, i int, e *trace.Event) bool {
			// It shows only if something is pushed after it.
			for conv := range e.Lagged.Convs {
				for _, o := range m.events[i:] {
					if c, _ := shown(o); o.Conn == e.Conn && c == conv && m.fresh(slices.Index(m.events, o)) {
						m.drop(i)
						return true
					}
				}
			}
			return false
		}},
		{"lagged names too little", ofKind(trace.Lagged), func(m *mutant, i int, e *trace.Event) bool {
			for conv, r := range e.Lagged.Convs {
				if r[1] == r[0] {
					continue
				}
				for _, o := range m.events[i:] {
					if c, s := shown(o); o.Conn == e.Conn && c == conv && s == r[1]+1 {
						e.Lagged.Convs[conv] = [2]int64{r[0], r[1] - 1}
						return true
					}
				}
			}
			return false
		}},
		{"receipt raised", ofKind(trace.Receipt), func(_ *mutant, _ int, e *trace.Event) bool { e.Receipt.Read = e.Receipt.Delivered + 1; return true }},
		{"receipt of a stranger", ofKind(trace.Receipt), func(_ *mutant, _ int, e *trace.Event) bool {
			e.Receipt.User += "x"
			e.Receipt.Read = 0
			e.Receipt.Delivered = 0
			return true
		}},
		{"push that cannot be read", push, func(_ *mutant, _ int, e *trace.Event) bool {
			e.Kind, e.Msg, e.Update, e.Text = trace.Note, nil, nil, "cannot be read"
			return true
		}},
	}
}

func pageKinds() []kindOf {
	page := ofKind(trace.Page)
	conv := func(name string, f func(m *mutant, c *wire.SyncConv) bool) kindOf {
		return kindOf{name, page, func(m *mutant, _ int, e *trace.Event) bool {
			c := m.pick(e)
			return c != nil && f(m, c)
		}}
	}
	return []kindOf{
		conv("page without one of its messages", func(m *mutant, c *wire.SyncConv) bool {
			if len(c.Messages) == 0 {
				return false
			}
			i := m.rng.IntN(len(c.Messages))
			c.Messages = slices.Delete(c.Messages, i, i+1)
			return true
		}),
		conv("page without one of its updates", func(m *mutant, c *wire.SyncConv) bool {
			if len(c.Updates) == 0 {
				return false
			}
			i := m.rng.IntN(len(c.Updates))
			c.Updates = slices.Delete(c.Updates, i, i+1)
			return true
		}),
		conv("page with a shorter end", func(_ *mutant, c *wire.SyncConv) bool {
			n := len(c.Messages)
			if n == 0 || c.Messages[n-1].Seq != c.Upto {
				return false
			}
			c.Messages = c.Messages[:n-1]
			c.Upto--
			c.MaxSeq--
			return true
		}),
		{"page without a conversation", page, func(m *mutant, _ int, e *trace.Event) bool {
			n := len(e.Page.Conversations)
			if n == 0 {
				return false
			}
			i := m.rng.IntN(n)
			e.Page.Conversations = slices.Delete(e.Page.Conversations, i, i+1)
			return true
		}},
		conv("page of another text", func(m *mutant, c *wire.SyncConv) bool {
			if len(c.Messages) == 0 {
				return false
			}
			c.Messages[m.rng.IntN(len(c.Messages))].Content += " "
			return true
		}),
		conv("upto raised", func(_ *mutant, c *wire.SyncConv) bool { c.Upto++; return true }),
		conv("upto lowered", func(_ *mutant, c *wire.SyncConv) bool { c.Upto--; return true }),
		conv("max_seq lowered", func(_ *mutant, c *wire.SyncConv) bool { c.MaxSeq--; return true }),
		conv("min_seq raised", func(_ *mutant, c *wire.SyncConv) bool {
			if c.MinSeq++; len(c.Messages) > 0 {
				c.MinSeq = max(c.MinSeq, c.Messages[0].Seq+1)
				c.Messages = c.Messages[1:]
			}
			return true
		}),
		{"read_seq lowered", page, func(m *mutant, i int, e *trace.Event) bool {
			c := m.pick(e)
			if c == nil {
				return false
			}
			// That another device said it may not have come here yet, unless anybody
			// was told so.
			for j, o := range m.events[:i] {
				said := o.Kind == trace.Cursor && o.Conn == e.Conn && o.Op == trace.OpRead && o.Conv == c.Conv && o.Seq >= c.ReadSeq
				told := o.Receipt != nil && o.Receipt.Conv == c.Conv && o.Receipt.User == e.User && o.Receipt.Read >= c.ReadSeq
				if asked := m.events[j:i]; (said || told) && slices.ContainsFunc(asked, func(o *trace.Event) bool { return o.Kind == trace.Sync && o.Call == e.Call }) {
					c.ReadSeq--
					return c.ReadSeq >= 0
				}
			}
			return false
		}},
		conv("read_seq raised", func(_ *mutant, c *wire.SyncConv) bool { c.ReadSeq++; return true }),
		conv("the peer's read raised", func(_ *mutant, c *wire.SyncConv) bool { c.Read = c.Delivered + 1; return c.Conv[0] == 'p' }),
		{"unread changed at the end", page, func(m *mutant, i int, e *trace.Event) bool {
			c := m.pick(e)
			if c == nil || i < slices.IndexFunc(m.events, func(e *trace.Event) bool { return e.Text == trace.PhaseRead }) {
				return false
			}
			c.Unread++
			return true
		}},
		{"a recalled text in a page", page, func(_ *mutant, _ int, e *trace.Event) bool {
			for i := range e.Page.Conversations {
				for j := range e.Page.Conversations[i].Messages {
					if m := &e.Page.Conversations[i].Messages[j]; m.Status == wire.StatusRecalled {
						m.Content = "text of " + m.ClientID
						return true
					}
				}
			}
			return false
		}},
		{"the text of an edit to who does not see the message", page, func(_ *mutant, _ int, e *trace.Event) bool {
			for i := range e.Page.Conversations {
				for j := range e.Page.Conversations[i].Updates {
					if u := &e.Page.Conversations[i].Updates[j]; u.Status == wire.StatusEdited && u.Content == "" {
						u.Content = "edit of nobody"
						return true
					}
				}
			}
			return false
		}},
		{"history without an entry", ofKind(trace.History), func(m *mutant, _ int, e *trace.Event) bool {
			if len(e.Messages) == 0 {
				return false
			}
			i := m.rng.IntN(len(e.Messages))
			e.Messages = slices.Delete(e.Messages, i, i+1)
			return true
		}},
		{"history in an older state", ofKind(trace.History), func(m *mutant, _ int, e *trace.Event) bool {
			for i := range e.Messages {
				if x := &e.Messages[i]; x.Status != "" {
					for _, o := range m.events {
						if o.Kind == trace.Due && o.User == x.From && o.ClientID == x.ClientID {
							x.Status, x.Content = "", o.Content
							return true
						}
					}
				}
			}
			return false
		}},
	}
}

func answerKinds() []kindOf {
	return []kindOf{
		{"ack of another id", ofKind(trace.Ack), func(m *mutant, i int, e *trace.Event) bool {
			// A later one may be put right, or could not be any more.
			first := slices.IndexFunc(m.events, func(o *trace.Event) bool {
				return o.Kind == trace.Ack && o.Conv == e.Conv && o.User == e.User && o.ClientID == e.ClientID
			})
			e.ID++
			return i == first
		}},
		{"ack of another client_id", ofKind(trace.Ack), func(_ *mutant, _ int, e *trace.Event) bool { e.ClientID += "x"; return true }},
		{"ack of what was refused", func(e *trace.Event) bool { return e.Kind == trace.Fail && e.Code != "" }, func(_ *mutant, _ int, e *trace.Event) bool {
			e.Kind, e.Code, e.ID = trace.Ack, "", 77
			return true
		}},
		{"refusal of what was acknowledged", ofKind(trace.Ack), func(_ *mutant, _ int, e *trace.Event) bool {
			e.Kind, e.Code = trace.Refused, string(wire.CodeNotMember)
			return true
		}},
		{"send refused in a private conversation", func(e *trace.Event) bool { return e.Kind == trace.Ack && e.Conv[0] == 'p' }, func(m *mutant, _ int, e *trace.Event) bool {
			return m.lose(e, true)
		}},
		{"refused although a member", func(e *trace.Event) bool { return e.Kind == trace.Ack && e.Conv[0] == 'g' && e.User == "alice" }, func(m *mutant, _ int, e *trace.Event) bool {
			return m.lose(e, true)
		}},
		{"acknowledged and lost", ofKind(trace.Ack), func(m *mutant, _ int, e *trace.Event) bool { return m.lose(e, false) }},
		{"change applied and lost", called(trace.OpEdit, trace.OpRecall), func(m *mutant, _ int, e *trace.Event) bool { return m.loseChange(e) }},
		{"change refused and applied", called(trace.OpEdit, trace.OpRecall), func(m *mutant, _ int, e *trace.Event) bool {
			for i, o := range m.events {
				if o.Kind == trace.Return && o.Call == e.Call && o.Code == "" {
					m.events[i] = deep(o)
					m.events[i].Code = string(wire.CodeForbidden)
					return true
				}
			}
			return false
		}},
		{"change that nobody asked for", called(trace.OpEdit, trace.OpRecall), func(m *mutant, i int, e *trace.Event) bool {
			at := slices.IndexFunc(m.events, func(o *trace.Event) bool { return o.Kind == trace.Return && o.Call == e.Call })
			if at < 0 || m.events[at].Code != "" {
				return false
			}
			m.drop(i)
			return true
		}},
		{"change asked by a stranger", called(trace.OpEdit, trace.OpRecall), func(m *mutant, _ int, e *trace.Event) bool {
			e.User += "x"
			return slices.ContainsFunc(m.events, func(o *trace.Event) bool { return o.Kind == trace.Return && o.Call == e.Call && o.Code == "" })
		}},
		{"change of a group that nobody asked for", called(trace.OpAdd, trace.OpRemove, trace.OpLeave), func(m *mutant, i int, _ *trace.Event) bool { m.drop(i); return true }},
		{"change of a group applied and lost", func(e *trace.Event) bool { return e.Msg != nil && e.Msg.Type == wire.TypeSystem && e.Msg.Seq > 1 }, func(m *mutant, _ int, e *trace.Event) bool {
			m.shift(e.Msg.Conv, e.Msg.Seq)
			return true
		}},
	}
}

func wholeKinds() []kindOf {
	return []kindOf{
		{"the end of a conversation missing at a device", ofKind(trace.Msg), func(m *mutant, _ int, e *trace.Event) bool {
			conv, from := e.Msg.Conv, e.Msg.Seq
			m.events = slices.DeleteFunc(m.events, func(o *trace.Event) bool {
				c, seq := shown(o)
				return o.User == e.User && o.Device == e.Device && c == conv && seq >= from
			})
			for i, o := range m.events {
				if o.Page == nil || o.User != e.User || o.Device != e.Device {
					continue
				}
				m.events[i] = deep(o)
				for j := range m.events[i].Page.Conversations {
					if c := &m.events[i].Page.Conversations[j]; c.Conv == conv {
						c.Messages = slices.DeleteFunc(c.Messages, func(x wire.Msg) bool { return x.Seq >= from })
						c.Updates = slices.DeleteFunc(c.Updates, func(x wire.Update) bool { return x.Seq >= from })
						c.Upto = min(c.Upto, from-1)
						c.MaxSeq = min(c.MaxSeq, from-1)
					}
				}
			}
			return true
		}},
		{"a device is never answered with anything", ofKind(trace.Open), func(m *mutant, _ int, e *trace.Event) bool {
			shows := false
			m.events = slices.DeleteFunc(m.events, func(o *trace.Event) bool {
				mine := o.User == e.User && o.Device == e.Device && slices.Contains([]trace.Kind{trace.Msg, trace.Update, trace.Page}, o.Kind)
				shows = shows || mine && o.Page == nil
				return mine
			})
			return shows
		}},
		{"a text everywhere another", isText, func(m *mutant, _ int, e *trace.Event) bool {
			m.everywhere(e.Msg.Conv, e.Msg.Seq, func(x *wire.Msg) bool {
				if x.Status == "" {
					x.Content += "?"
				}
				return true
			}, func(*wire.Update) bool { return true })
			return true
		}},
		{"an edit's text everywhere another", func(e *trace.Event) bool { return e.Update != nil && e.Update.Status == wire.StatusEdited }, func(m *mutant, _ int, e *trace.Event) bool {
			m.everywhere(e.Update.Conv, e.Update.Seq, func(*wire.Msg) bool { return true }, func(u *wire.Update) bool { u.Content += "?"; return true })
			return true
		}},
		{"an id everywhere one of another conversation", isText, func(m *mutant, _ int, e *trace.Event) bool {
			for _, o := range m.events {
				if o.Msg != nil && o.Msg.Conv != e.Msg.Conv {
					old, id := e.Msg.ID, o.Msg.ID
					m.everywhere(e.Msg.Conv, e.Msg.Seq, func(x *wire.Msg) bool { x.ID = id; return true }, nil)
					for i, o := range m.events {
						if o.ID == old {
							m.events[i] = deep(o)
							m.events[i].ID = id
						}
					}
					return true
				}
			}
			return false
		}},
		{"a message everywhere under two seqs", isText, func(m *mutant, i int, e *trace.Event) bool {
			_, seq := shown(e)
			top := m.top[e.Msg.Conv]
			if seq == top {
				return false
			}
			x := deep(e)
			x.Msg.Seq, x.Msg.ID = top+1, 99_999
			m.insert(slices.IndexFunc(m.events, func(e *trace.Event) bool { return e.Text == trace.PhaseRest }), *x)
			return true
		}},
		{"shown to one who was removed", func(e *trace.Event) bool { return isText(e) && e.Msg.Conv[0] == 'g' }, func(m *mutant, i int, e *trace.Event) bool {
			for _, o := range m.events {
				if o.Conn > 0 && o.Kind == trace.Open && !slices.ContainsFunc(m.events, func(x *trace.Event) bool {
					c, s := shown(x)
					return x.User == o.User && (c == e.Msg.Conv && s == e.Msg.Seq || x.Page != nil && shows(x.Page, e.Msg.Conv, e.Msg.Seq))
				}) {
					x := deep(e)
					x.Conn = o.Conn
					m.insert(i+1, *x)
					return true
				}
			}
			return false
		}},
		{"the record ends early", ofKind(trace.Phase), func(m *mutant, i int, _ *trace.Event) bool { m.events = m.events[:i]; return true }},
	}
}
