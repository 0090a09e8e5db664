package api

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

const openapiURL = "https://starling.test/openapi.json"

// description is what tests need of openapi.json.
type description struct {
	OpenAPI string `json:"openapi"`
	Paths   map[string]map[string]struct {
		Summary    string                `json:"summary"`
		Security   []map[string][]string `json:"security"`
		Roles      []string              `json:"x-roles"`
		Parameters []struct{ Name, In string }
		Responses  map[string]json.RawMessage
	} `json:"paths"`
}

// described checks an answer of the API against what openapi.json says of it.
func (f *fixture) described(method, target string, status int, body []byte) {
	f.t.Helper()
	u, err := url.Parse(target)
	if err != nil || status == http.StatusNotModified || method == http.MethodHead {
		return
	}
	d, schema := loadOpenAPI(f.t)
	p := d.match(u.EscapedPath(), method)
	if p == "" {
		return // the page, or no route
	}
	answer := strconv.Itoa(status)
	if _, ok := d.Paths[p][strings.ToLower(method)].Responses[answer]; !ok {
		answer = "default"
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		f.t.Errorf("%s %s answers no JSON: %.200q", method, target, body)
		return
	}
	if err := schema(p, strings.ToLower(method), answer).Validate(v); err != nil {
		f.t.Errorf("%s %s: %d is not as openapi.json says: %v in %.300s", method, target, status, err, body)
	}
}

// match returns the path of openapi.json that a request is for, "" for none.
func (d *description) match(path, method string) string {
	parts := strings.Split(path, "/")
	for p, ops := range d.Paths {
		if _, ok := ops[strings.ToLower(method)]; !ok {
			continue
		}
		want := strings.Split(p, "/")
		if len(want) == len(parts) && fits(want, parts) {
			return p
		}
	}
	return ""
}

func fits(pattern, parts []string) bool {
	for i, w := range pattern {
		if w != parts[i] && !strings.HasPrefix(w, "{") {
			return false
		}
	}
	return true
}

var compiled struct {
	sync.Mutex
	d       *description
	c       *jsonschema.Compiler
	schemas map[string]*jsonschema.Schema
}

func loadOpenAPI(t *testing.T) (d *description, schema func(path, method, answer string) *jsonschema.Schema) {
	t.Helper()
	compiled.Lock()
	defer compiled.Unlock()
	if compiled.d == nil {
		compiled.d = new(description)
		if err := json.Unmarshal(openapi, compiled.d); err != nil {
			t.Fatal(err)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(openapi))
		if err != nil {
			t.Fatal(err)
		}
		compiled.c, compiled.schemas = jsonschema.NewCompiler(), map[string]*jsonschema.Schema{}
		if err := compiled.c.AddResource(openapiURL, doc); err != nil {
			t.Fatal(err)
		}
	}
	return compiled.d, func(path, method, answer string) *jsonschema.Schema {
		t.Helper()
		compiled.Lock()
		defer compiled.Unlock()
		at := "#/paths/" + strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D").Replace(path) + "/" + method + "/responses/" + answer
		if answer == "default" {
			at = "#/components/responses/Error"
		}
		at += "/content/application~1json/schema"
		if s := compiled.schemas[at]; s != nil {
			return s
		}
		s, err := compiled.c.Compile(openapiURL + at)
		if err != nil {
			t.Fatal(err)
		}
		compiled.schemas[at] = s
		return s
	}
}

// TestOpenAPI holds the description against the table of routes.
func TestOpenAPI(t *testing.T) {
	d, schema := loadOpenAPI(t)
	everyone := []string{"user", "operator", "admin", "service"}
	type op struct {
		Public bool
		Roles  []string
	}
	want, got := map[string]op{}, map[string]op{}
	for _, r := range routes() {
		o := op{Public: r.public, Roles: slices.Sorted(slices.Values(r.roles))}
		if slices.Equal(o.Roles, slices.Sorted(slices.Values(everyone))) {
			o.Roles = nil
		}
		want[r.method+" "+r.path] = o
	}
	for p, ops := range d.Paths {
		for method, o := range ops {
			route := strings.NewReplacer("{", ":", "}", "").Replace(p)
			got[strings.ToUpper(method)+" "+route] = op{Public: len(o.Security) == 0, Roles: slices.Sorted(slices.Values(o.Roles))}
			if o.Summary == "" {
				t.Errorf("%s %s has no summary", method, p)
			}
			for answer := range o.Responses {
				schema(p, method, answer)
			}
			in := 0
			for _, param := range o.Parameters {
				if param.In == "path" {
					in++
				}
			}
			if in != strings.Count(p, "{") {
				t.Errorf("%s %s describes %d of its parameters", method, p, in)
			}
		}
	}
	if diff := cmp.Diff(want, got); diff != "" || !strings.HasPrefix(d.OpenAPI, "3.1.") {
		t.Errorf("openapi.json (%s) is not the routes (-routes +openapi.json):\n%s", d.OpenAPI, diff)
	}
	f := setup(t)
	if a := f.call("", "GET", "/openapi.json", ""); a.status != 200 || a.body != string(openapi) {
		t.Errorf("served: %d, %d bytes", a.status, len(a.body))
	}
}
