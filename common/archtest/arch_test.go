package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/starling-im/starling/common/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

const module = "github.com/starling-im/starling"

// Package is what go list says of one.
type Package struct {
	Dir, ImportPath, Name, Doc                   string
	GoFiles, CgoFiles, TestGoFiles, XTestGoFiles []string
	Imports, Deps, TestImports, XTestImports     []string
	Standard                                     bool
	Rel                                          string // path within the module, "." for main.go
	Generated                                    bool
}

// list runs go list on the module's root.
func list(t *testing.T, env []string, args ...string) []*Package {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json"}, args...)...)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Env = append(os.Environ(), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v\n%s", args, err, stderr.String())
	}
	var ps []*Package
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		p := &Package{}
		if err := dec.Decode(p); errors.Is(err, io.EOF) {
			return ps
		} else if err != nil {
			t.Fatal(err)
		}
		p.Rel = strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		if p.Rel == "" {
			p.Rel = "."
		}
		p.Generated = strings.HasSuffix(p.Rel, "pb")
		ps = append(ps, p)
	}
}

// under says whether a path is one of the folders or inside one.
func under(path string, folders ...string) bool {
	return slices.ContainsFunc(folders, func(f string) bool {
		return f == "*" || path == f || strings.HasPrefix(path, f+"/")
	})
}

// ours are the rules inside the module, the first that fits a package counts.
// An import of ours must be in allow; "=" asks for exactly that package.
var ours = []struct{ pkg, allow string }{
	{"=common/archtest", ""},
	{"common/wire", ""},
	{"common/control", "common/wire"},
	{"common/limits", "common/control common/config"},
	{"common/record", "common/wire common/record"},
	{"common/idgen", "common/wire common/planted"},
	{"common/ledger", ""},
	{"common/buildinfo", ""},
	{"common/timerslack", "common/testkit"},
	{"common/planted", ""},
	{"common/token", "common/wire"},
	{"common/config", "common/wire common/buildinfo"},
	{"common/obs", "common/wire common/buildinfo common/config"},
	{"common/app", "common/config common/obs"},
	{"=common/store", "common/record common/wire common/control"},
	{"common/store", "common/store common/control common/record common/wire common/idgen common/config common/obs common/planted"},
	{"common/registry", "common/registry common/record common/wire common/config common/obs common/planted"},
	{"common/mq", "common/mq common/record common/wire common/config common/obs"},
	{"common/rpc", "common/rpc common/control common/record common/wire common/config common/obs common/planted"},
	{"common/embedded", "common/record common/wire common/config common/obs"},
	{"common/testkit", "common/testkit"},
	{"edge/cmd", "edge common internal/process"},
	{"logic/cmd", "logic common internal/process internal/backend"},
	{"job/cmd", "job common internal/process internal/backend"},
	{"edge", "edge common/limits common/ledger common/wire common/control common/record common/rpc common/registry common/token common/config common/obs common/app common/buildinfo common/idgen common/planted"},
	{"logic", "logic client/web common/limits common/wire common/control common/record common/rpc common/registry common/token common/config common/obs common/app common/buildinfo common/idgen common/store common/mq common/planted"},
	{"job", "job common/ledger common/wire common/control common/record common/rpc common/registry common/token common/config common/obs common/app common/buildinfo common/idgen common/store common/mq common/planted"},
	{"internal/process/processtest", "common/config internal/process"},
	{"internal/process", "common/app common/buildinfo common/config common/obs common/planted common/registry common/token"},
	{"internal/backend", "common internal/process"},
	{"internal/deadletter", "common/mq common/record common/store common/wire"},
	{"internal/server", "common edge logic job internal"},
	{"client/go", "client/go common/wire"},
	{"client/web", "client/web"},
	{"bench", "bench client/go common/ledger common/wire common/config common/obs common/buildinfo common/timerslack"},
	{"deploy", "*"},
	{".", "common internal"},
}

// foreign names the only places that may import a package of others.
var foreign = []struct{ pkg, allow string }{
	{"github.com/cloudwego/netpoll", "edge/internal/listen edge"},
	{"github.com/hertz-contrib/websocket", "edge/internal/listen"},
	{"github.com/cloudwego/hertz", "edge/internal/listen logic/internal/api logic"},
	{"github.com/redis/go-redis", "common/registry common/embedded common/testkit"},
	{"github.com/alicebob/miniredis", "common/embedded common/testkit"},
	{"github.com/confluentinc/confluent-kafka-go", "common/mq common/testkit"},
	{"github.com/twmb/franz-go", "common/embedded common/testkit"},
	{"database/sql", "common/store common/testkit"},
	{"github.com/go-sql-driver/mysql", "common/store common/testkit"},
	{"modernc.org/sqlite", "common/store common/testkit"},
	{module + "/common/embedded", "common/embedded common/testkit internal/server"},
	{module + "/common/testkit", "common/testkit deploy/e2e"},
}

func TestImports(t *testing.T) {
	for _, p := range list(t, nil, "./...") {
		rule := slices.IndexFunc(ours, func(r struct{ pkg, allow string }) bool {
			exact, ok := strings.CutPrefix(r.pkg, "=")
			return ok && p.Rel == exact || !ok && under(p.Rel, r.pkg)
		})
		if rule < 0 {
			t.Errorf("%s: no rule says what it may import; add it to common/archtest", p.Rel)
			continue
		}
		allowed := strings.Fields(ours[rule].allow)
		for _, imp := range p.Imports {
			rel, isOurs := strings.CutPrefix(imp, module+"/")
			if isOurs && !under(rel, allowed...) {
				t.Errorf("%s imports %s; it may import: %s", p.Rel, rel, ours[rule].allow)
			}
			for _, f := range foreign {
				if under(imp, f.pkg) && !under(p.Rel, strings.Fields(f.allow)...) {
					t.Errorf("%s imports %s; only these may: %s", p.Rel, imp, f.allow)
				}
			}
			if strings.HasPrefix(p.Rel, "client/go") && isOurs && rel != "common/wire" && !under(rel, "client/go") {
				t.Errorf("%s: the SDK imports nothing of ours but common/wire, not %s", p.Rel, rel)
			}
		}
		// Tests may reach for fakes and suites, but not across tiers.
		for _, imp := range slices.Concat(p.TestImports, p.XTestImports) {
			rel, isOurs := strings.CutPrefix(imp, module+"/")
			for _, tier := range []string{"edge", "logic", "job"} {
				if isOurs && under(rel, tier) && !under(p.Rel, tier, "deploy", "internal/server", ".") {
					t.Errorf("%s: its tests import %s of another tier", p.Rel, rel)
				}
			}
		}
	}
}

// TestUseCases keeps the inside of a tier apart from its faces: what decides
// knows neither sockets nor HTTP nor drivers.
func TestUseCases(t *testing.T) {
	faces := []string{"edge/internal/listen", "logic/internal/api", "logic/internal/rpcserver"}
	for _, p := range list(t, nil, "./...") {
		if !strings.Contains(p.Rel, "/internal/") || under(p.Rel, faces...) {
			continue
		}
		for _, imp := range p.Imports {
			if rel := strings.TrimPrefix(imp, module+"/"); under(rel, faces...) {
				t.Errorf("%s imports %s: the faces import the use cases, not the other way", p.Rel, rel)
			}
		}
	}
}

// TestEdgeIsPure looks at all that is linked into the edge's binary.
func TestEdgeIsPure(t *testing.T) {
	banned := []string{
		"github.com/confluentinc", "github.com/twmb/franz-go", "github.com/go-sql-driver", "modernc.org/sqlite",
		"github.com/alicebob/miniredis", "github.com/pressly/goose",
		module + "/common/mq", module + "/common/store", module + "/logic", module + "/job",
	}
	deps := list(t, []string{"CGO_ENABLED=0"}, "-deps", "./edge/cmd/edge")
	if len(deps) < 50 {
		t.Fatalf("only %d dependencies listed", len(deps))
	}
	for _, p := range deps {
		if under(p.ImportPath, banned...) {
			t.Errorf("the edge's binary contains %s", p.ImportPath)
		}
	}
	for _, p := range list(t, []string{"CGO_ENABLED=1"}, "-deps", "./edge/cmd/edge") {
		if len(p.CgoFiles) > 0 && !p.Standard {
			t.Errorf("the edge's binary needs cgo in %s", p.ImportPath)
		}
	}
}

// TestPackages asks of each: a comment, a name that says something, small files.
func TestPackages(t *testing.T) {
	const maxFile, maxMain = 600, 40
	vague := []string{"util", "utils", "common", "helper", "helpers", "base", "types", "model", "models", "misc"}
	for _, p := range list(t, nil, "./...") {
		if len(p.GoFiles)+len(p.CgoFiles) == 0 || p.Generated {
			continue
		}
		if p.Doc == "" {
			t.Errorf("%s has no package comment", p.Rel)
		}
		if slices.Contains(vague, p.Name) {
			t.Errorf("%s: the name %q says nothing; name what it gives", p.Rel, p.Name)
		}
		for _, f := range slices.Concat(p.GoFiles, p.CgoFiles) {
			b, err := os.ReadFile(filepath.Join(p.Dir, f))
			if err != nil {
				t.Fatal(err)
			}
			lines := bytes.Count(b, []byte("\n"))
			if lines > maxFile {
				t.Errorf("%s/%s has %d lines, more than %d", p.Rel, f, lines, maxFile)
			}
			if p.Name == "main" && f == "main.go" && lines >= maxMain {
				t.Errorf("%s/%s has %d lines; a main stays under %d", p.Rel, f, lines, maxMain)
			}
		}
	}
}

// TestLeakChecks asks every package with tests for a leak check in TestMain.
func TestLeakChecks(t *testing.T) {
	for _, p := range list(t, nil, "./...") {
		tests := slices.Concat(p.TestGoFiles, p.XTestGoFiles)
		if len(tests) > 0 && !slices.ContainsFunc(tests, func(name string) bool { return leakCheck(parse(t, filepath.Join(p.Dir, name))) }) {
			t.Errorf("%s: its tests have no leak check; add a TestMain with testkit.VerifyMain(m)", p.Rel)
		}
	}
}

func parse(t *testing.T, path string) *ast.File {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// leakCheck says whether a file has a TestMain that runs the tests by testkit,
// which looks for leaks after them.
func leakCheck(f *ast.File) (found bool) {
	for _, d := range f.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Name.Name != "TestMain" || fn.Recv != nil {
			continue
		}
		ast.Inspect(fn, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				name := types.ExprString(call.Fun)
				if f.Name.Name == "testkit" { // its own tests
					name = "testkit." + name
				}
				found = found || name == "testkit.VerifyMain" || name == "testkit.Run"
			}
			return true
		})
	}
	return found
}

// bareGo lists where a go statement may stand instead of WaitGroup.Go, and why.
var bareGo = map[string]string{
	"common/app": "runs the modules: waits on channels, and leaves behind what exceeds the stop budget",
	"common/mq":  "leaves behind a client of Kafka that does not end",
	"deploy/e2e": "for tests",
}

// background lists where a context may begin beside main packages, and why.
var background = map[string]string{
	"common/testkit": "for tests",
	"deploy/e2e":     "for tests",
}

func TestGoroutinesAndContexts(t *testing.T) {
	for _, p := range list(t, nil, "./...") {
		if p.Generated || strings.HasSuffix(p.Name, "test") { // suites that tests run
			continue
		}
		for _, name := range slices.Concat(p.GoFiles, p.CgoFiles) {
			path := filepath.Join(p.Dir, name)
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, problem := range problems(f, bareGo[p.Rel] == "", p.Name != "main" && background[p.Rel] == "") {
				t.Errorf("%s/%s:%d: %s", p.Rel, name, fset.Position(problem.at).Line, problem.text)
			}
		}
	}
}

type problem struct {
	at   token.Pos
	text string
}

// problems finds go statements and contexts that begin in a file.
func problems(f *ast.File, noGo, noContext bool) (found []problem) {
	ast.Inspect(f, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			if noGo {
				found = append(found, problem{n.Pos(), "bare go statement: give the goroutine an owner that waits (sync.WaitGroup.Go), or list the package in common/archtest with the reason"})
			}
		case *ast.SelectorExpr:
			pkg, ok := n.X.(*ast.Ident)
			if noContext && ok && pkg.Name == "context" && (n.Sel.Name == "Background" || n.Sel.Name == "TODO") {
				found = append(found, problem{n.Pos(), "a context begins here: pass the caller's on, or context.WithoutCancel of it"})
			}
		}
		return true
	})
	return found
}

// TestProblems makes sure that the checks above can find anything.
func TestProblems(t *testing.T) {
	const src = "package x\nimport \"context\"\nfunc f() { go f(); _ = context.Background(); _ = context.TODO() }\n"
	f, err := parser.ParseFile(token.NewFileSet(), "x.go", src, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		noGo, noContext bool
		want            int
	}{{true, true, 3}, {true, false, 1}, {false, true, 2}, {false, false, 0}} {
		if got := len(problems(f, tc.noGo, tc.noContext)); got != tc.want {
			t.Errorf("problems(%v, %v) = %d, want %d", tc.noGo, tc.noContext, got, tc.want)
		}
	}
	for src, want := range map[string]bool{
		"package x; func TestMain(m *testing.M) { testkit.VerifyMain(m) }":     true,
		"package x; func TestMain(m *testing.M) { os.Exit(testkit.Run(m)) }":   true,
		"package testkit; func TestMain(m *testing.M) { VerifyMain(m) }":       true,
		"package x; func TestMain(m *testing.M) { os.Exit(m.Run()) }":          false,
		"package x; func TestMain(m *testing.M) { VerifyMain(m) }":             false,
		"package x; func TestSome(t *testing.T) { _ = testkit.Reserve(t, 1) }": false,
		"package x; func TestSome(t *testing.T) { testkit.VerifyMain(nil) }":   false,
	} {
		f, err := parser.ParseFile(token.NewFileSet(), "x_test.go", src, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got := leakCheck(f); got != want {
			t.Errorf("leakCheck is %t of %s", got, src)
		}
	}
	if under("edgy/x", "edge") || !under("edge/x", "edge") || !under("edge", "edge") || !under("anything", "*") {
		t.Error("under is wrong")
	}
}
