package wire

import (
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func protocolDoc(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// TestOpsAsDocumented reads the table of operations in docs/protocol.md.
func TestOpsAsDocumented(t *testing.T) {
	row := regexp.MustCompile("(?m)^\\| ((?:`[a-z_]+`(?: / )?)+) \\| ([0-9/]+) \\| ([a-z /]+) \\|")
	type entry struct {
		op     Op
		client bool
	}
	documented := make(map[string]entry)
	for _, m := range row.FindAllStringSubmatch(protocolDoc(t), -1) {
		names, numbers, from := strings.Split(m[1], " / "), strings.Split(m[2], "/"), strings.Split(m[3], " / ")
		if len(names) != len(numbers) {
			t.Fatalf("row %q has %d names and %d numbers", m[0], len(names), len(numbers))
		}
		for i, name := range names {
			n, err := strconv.Atoi(numbers[i])
			if err != nil {
				t.Fatal(err)
			}
			who := from[min(i, len(from)-1)]
			documented[strings.Trim(name, "`")] = entry{Op(n), who == "client" || who == "both"}
		}
	}
	coded := make(map[string]entry)
	for name, op := range opsByName {
		coded[name] = entry{op, ClientOp(op)}
	}
	if diff := cmp.Diff(documented, coded, cmp.AllowUnexported(entry{})); diff != "" {
		t.Errorf("operations differ (-docs/protocol.md +code):\n%s", diff)
	}
}

// TestCodesAsDocumented looks up the codes in their sections of the page.
func TestCodesAsDocumented(t *testing.T) {
	section := func(title string) string {
		_, after, ok := strings.Cut(protocolDoc(t), "### "+title+"\n")
		if !ok {
			t.Fatalf("docs/protocol.md has no section %q", title)
		}
		text, _, _ := strings.Cut(after, "\n#")
		return text
	}
	list, _, _ := strings.Cut(section("Error codes"), "HTTP")
	var names []string
	for _, m := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(list, -1) {
		if !slices.Contains([]string{"retry_after_ms", "client_id"}, m[1]) {
			names = append(names, m[1])
		}
	}
	coded := make([]string, 0, len(names))
	for _, c := range Codes() {
		coded = append(coded, string(c))
	}
	if diff := cmp.Diff(names, coded); diff != "" {
		t.Errorf("error codes differ (-docs/protocol.md +code):\n%s", diff)
	}
	numbers := make([]int, 0, len(CloseCodes()))
	for _, m := range regexp.MustCompile(`\b[14]0[01]\d\b`).FindAllString(section("Close codes"), -1) {
		n, err := strconv.Atoi(m)
		if err != nil {
			t.Fatal(err)
		}
		numbers = append(numbers, n)
	}
	if diff := cmp.Diff(numbers, CloseCodes()); diff != "" {
		t.Errorf("close codes differ (-docs/protocol.md +code):\n%s", diff)
	}
}

// TestBodiesRoundTrip fills every field of every body: what is written is read.
func TestBodiesRoundTrip(t *testing.T) {
	bodies := []any{
		Auth{},
		AuthOK{},
		Pong{},
		Send{},
		SendAck{},
		Refused{},
		Msg{},
		Update{},
		Cursor{},
		Receipt{},
		Sync{},
		SyncOK{},
		GroupEvent{},
		RecallBody{},
		Kick{},
		Reconnect{},
		Lagged{},
		Error{},
	}
	for _, zero := range bodies {
		want := reflect.New(reflect.TypeOf(zero))
		fill(want.Elem(), 1)
		b, err := Marshal(want.Interface())
		if err != nil {
			t.Fatal(err)
		}
		got := reflect.New(reflect.TypeOf(zero))
		if err := Decode(b, got.Interface()); err != nil {
			t.Errorf("%T: %s: %v", zero, b, err)
		}
		if diff := cmp.Diff(want.Interface(), got.Interface()); diff != "" {
			t.Errorf("%T (-want +got):\n%s", zero, diff)
		}
	}
}

// fill sets all of v to values that are not zero.
func fill(v reflect.Value, n int64) {
	switch v.Kind() {
	case reflect.String:
		v.SetString("s" + strconv.FormatInt(n, 10) + "<\"\\\u2028é")
	case reflect.Int, reflect.Int64:
		v.SetInt(n)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n+int64(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n+1)
	case reflect.Array:
		for i := range v.Len() {
			fill(v.Index(i), n+int64(i))
		}
	case reflect.Map:
		key, elem := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(key, n)
		fill(elem, n)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, elem)
	default:
		panic("BUG: fill does not know " + v.Kind().String())
	}
}
