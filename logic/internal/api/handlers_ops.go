package api

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/starling-im/starling/common/control"
	"github.com/starling-im/starling/common/registry"
	"github.com/starling-im/starling/common/wire"
)

// stats is the system in a few figures. A node that has lapsed counts no more.
type stats struct {
	Edges       int   `json:"edges"`
	Logics      int   `json:"logics"`
	Jobs        int   `json:"jobs"`
	Connections int64 `json:"connections"`
}

func (s *Server) stats(ctx context.Context, _ *call) (any, error) {
	nodes, err := s.d.Presence.Nodes(ctx)
	if err != nil {
		return nil, err //nolint:wrapcheck // a use case's answer
	}
	var out stats
	for i := range nodes {
		switch nodes[i].Tier {
		case registry.TierEdge:
			out.Edges++
			out.Connections += nodes[i].Load
		case registry.TierLogic:
			out.Logics++
		case registry.TierJob:
			out.Jobs++
		}
	}
	return out, nil
}

func (s *Server) nodes(ctx context.Context, _ *call) (any, error) {
	nodes, err := s.d.Presence.Nodes(ctx)
	if err != nil {
		return nil, err //nolint:wrapcheck // a use case's answer
	}
	return map[string][]registry.Lease{"nodes": append([]registry.Lease{}, nodes...)}, nil
}

// drain sends the clients of an edge elsewhere.
func (s *Server) drain(ctx context.Context, c *call) (any, error) {
	nodes, err := s.d.Presence.Nodes(ctx)
	if err != nil {
		return nil, err //nolint:wrapcheck // a use case's answer
	}
	i := slices.IndexFunc(nodes, func(l registry.Lease) bool { return string(l.Server) == c.Param("id") })
	switch {
	case i < 0:
		return nil, wire.Errorf(wire.CodeNotFound, "no such node")
	case nodes[i].Tier != registry.TierEdge:
		return nil, wire.Errorf(wire.CodeBadRequest, "only edges hold clients to be sent elsewhere; end the process")
	}
	return done{}, s.d.Control.Decide(ctx, control.Entry{Kind: control.Drain, Name: c.Param("id")})
}

// setting is one that can be changed while the system runs. Configured is what
// it is without a change, at the logic that answers.
type setting struct {
	Value      string `json:"value"`
	Configured string `json:"configured"`
}

func (s *Server) settings(context.Context, *call) (any, error) {
	base, now := s.d.Limits.Base(), s.d.Limits.Get().Values()
	configured := base.Values()
	out := make(map[string]setting, len(now))
	for name, v := range now {
		out[name] = setting{Value: v, Configured: configured[name]}
	}
	return map[string]map[string]setting{"settings": out}, nil
}

// putSettings changes settings; null gives one its configured value back.
func (s *Server) putSettings(ctx context.Context, c *call) (any, error) {
	var req map[string]json.RawMessage
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	if len(req) == 0 {
		return nil, wire.Errorf(wire.CodeBadRequest, "no setting is named")
	}
	base, stored := s.d.Limits.Base(), s.d.Control.Settings()
	known := base.Values()
	changed := maps.Clone(stored)
	maps.DeleteFunc(changed, func(name, _ string) bool { return known[name] == "" }) // another version's
	var es []control.Entry
	for _, name := range slices.Sorted(maps.Keys(req)) {
		v, err := settingText(req[name])
		if err != nil {
			return nil, wire.Errorf(wire.CodeBadRequest, name+" is given neither a text, a number nor null")
		}
		if v == "" && (known[name] != "" || stored[name] != "") {
			delete(changed, name)
		} else {
			changed[name] = v
		}
		es = append(es, control.Entry{Kind: control.Set, Name: name, Value: v})
	}
	if _, err := base.With(changed); err != nil {
		return nil, wire.Errorf(wire.CodeBadRequest, strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	if err := s.d.Control.Decide(ctx, es...); err != nil {
		return nil, err
	}
	return s.settings(ctx, c)
}

// settingText is a JSON value as a setting's text, "" for null.
func settingText(raw json.RawMessage) (string, error) {
	var v any
	if err := wire.Unmarshal(raw, &v); err != nil {
		return "", err //nolint:wrapcheck // not shown
	}
	switch v := v.(type) {
	case nil:
		return "", nil
	case string:
		return v, nil
	case float64:
		return string(raw), nil
	}
	return "", wire.Errorf(wire.CodeBadRequest, "no text")
}
