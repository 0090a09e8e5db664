package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/starling-im/starling/common/wire"
)

// vars are the values that "$x" stands for.
type vars map[string]any

// fill puts known values into a body that is to be sent.
func (v vars) fill(body string) string {
	for _, name := range slices.Backward(slices.Sorted(maps.Keys(v))) { // a longer name before its beginning
		b, err := json.Marshal(v[name])
		if err != nil {
			continue
		}
		body = strings.ReplaceAll(body, `"`+name+`"`, string(b))
		if s, ok := v[name].(string); ok {
			body = strings.ReplaceAll(body, name, s) // in a path, or within a text
		} else {
			body = strings.ReplaceAll(body, name, string(b))
		}
	}
	return body
}

// match compares what came with what is wanted; what it learns it puts into got
// alone, which counts if all matches.
func (v vars) match(want, have, path string) (got vars, err error) {
	var w, h any
	if err := decodeJSON(want, &w); err != nil {
		return nil, fmt.Errorf("the transcript's own body %s: %w", want, err)
	}
	if err := decodeJSON(have, &h); err != nil {
		return nil, fmt.Errorf("no JSON: %s: %w", have, err)
	}
	got = maps.Clone(v)
	return got, got.compare(w, h, path)
}

func decodeJSON(s string, into any) error {
	d := json.NewDecoder(strings.NewReader(s))
	d.UseNumber()
	return d.Decode(into) //nolint:wrapcheck // the caller says of what
}

func (v vars) compare(want, have any, path string) error {
	switch w := want.(type) {
	case string:
		switch known, ok := v[w]; {
		case w == "*":
			return nil
		case ok:
			want = known
		case strings.HasPrefix(w, "$"):
			v[w] = have
			return nil
		}
	case map[string]any:
		return v.compareObject(w, have, path)
	case []any:
		h, ok := have.([]any)
		if !ok || len(h) != len(w) {
			return fmt.Errorf("%s is %v, want %v", path, have, want)
		}
		for i := range w {
			if err := v.compare(w[i], h[i], fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
		return nil
	}
	if fmt.Sprintf("%T %v", want, want) != fmt.Sprintf("%T %v", have, have) {
		return fmt.Errorf("%s is %v, want %v", path, have, want)
	}
	return nil
}

func (v vars) compareObject(want map[string]any, have any, path string) error {
	h, ok := have.(map[string]any)
	if !ok {
		return fmt.Errorf("%s is %v, want an object", path, have)
	}
	for k := range h {
		if _, ok := want[k]; !ok {
			return fmt.Errorf("%s.%s is there (%v)", path, k, h[k])
		}
	}
	for _, k := range slices.Sorted(maps.Keys(want)) {
		value, ok := h[k]
		if !ok {
			return fmt.Errorf("%s.%s is missing", path, k)
		}
		if err := v.compare(want[k], value, path+"."+k); err != nil {
			return err
		}
	}
	return nil
}

// seqs are those of messages, by conversation.
type seqs map[wire.ConvID]map[int64]bool

func (s seqs) add(conv wire.ConvID, seq int64) {
	if s[conv] == nil {
		s[conv] = map[int64]bool{}
	}
	s[conv][seq] = true
}
