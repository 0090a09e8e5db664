package wire

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strings"
	"testing"
)

func TestCodesGolden(t *testing.T) {
	var b strings.Builder
	for _, c := range Codes() {
		fmt.Fprintf(&b, "%-16s http=%d retry=%t\n", c, c.Info().HTTP, c.Info().Retry)
	}
	for _, c := range CloseCodes() {
		i := CloseInfoOf(c)
		fmt.Fprintf(&b, "%-16d %-16s %s\n", c, i.Name, i.Reaction)
	}
	golden(t, "codes.golden", b.String())
}

func TestOpsGolden(t *testing.T) {
	var b strings.Builder
	for op := range Op(2000) {
		if op.String() == "" {
			continue
		}
		from := "server"
		if ClientOp(op) {
			from = "client"
		}
		fmt.Fprintf(&b, "%d %s %s\n", op, op, from)
		if back, ok := OpByName(op.String()); !ok || back != op {
			t.Errorf("OpByName(%q) = %d, %t, want %d", op, back, ok, op)
		}
	}
	golden(t, "ops.golden", b.String())
}

// TestTablesComplete finds constants that a table forgot.
func TestTablesComplete(t *testing.T) {
	want := map[string]int{
		"codes.go Code":  len(Codes()),
		"codes.go Close": len(CloseCodes()),
		"ops.go Op":      len(opNames),
	}
	for key, n := range want {
		file, prefix, _ := strings.Cut(key, " ")
		if got := constants(t, file, prefix); got != n {
			t.Errorf("%s declares %d constants %s…, its table has %d", file, got, prefix, n)
		}
	}
	for i, name := range opNames {
		if name == "" {
			t.Errorf("operation %d has no name", int(OpAuth)+i)
		}
	}
}

func constants(t *testing.T, file, prefix string) int {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, s := range g.Specs {
			for _, name := range s.(*ast.ValueSpec).Names {
				if strings.HasPrefix(name.Name, prefix) {
					n++
				}
			}
		}
	}
	return n
}

func TestUnknownCodes(t *testing.T) {
	if got := Code("new").Info(); got != CodeInternal.Info() {
		t.Errorf("unknown code: %+v, want that of internal", got)
	}
	if got := CloseInfoOf(4242); got != (CloseInfo{Name: "unknown", Reaction: ComeBack}) {
		t.Errorf("unknown close code: %+v", got)
	}
	for _, op := range []Op{-1, 0, 99, 131, 1000, 1 << 30, -1 << 31} {
		if op.String() != "" || ClientOp(op) {
			t.Errorf("Op(%d) is known: %q", op, op)
		}
	}
}

func TestCloseOf(t *testing.T) {
	for err, want := range map[error]int{
		ErrHeader: CloseProtocol, ErrIncomplete: CloseProtocol,
		ErrTooBig: CloseTooBig, ErrUTF8: CloseInvalidUTF8,
		errors.New("other"): CloseProtocol,
	} {
		if got := CloseOf(fmt.Errorf("read: %w", err)); got != want {
			t.Errorf("CloseOf(%v) = %d, want %d", err, got, want)
		}
	}
}

func TestErrorText(t *testing.T) {
	if got := Errorf(CodeMuted, "until noon").Error(); got != "muted: until noon" {
		t.Errorf("Error() = %q", got)
	}
}
