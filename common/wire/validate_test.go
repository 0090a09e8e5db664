package wire

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestSendValidate(t *testing.T) {
	good := Send{To: "bob", ClientID: "c1", Type: TypeText, Content: "hi"}
	tests := []struct {
		name string
		edit func(*Send)
		want Code
	}{
		{"good", func(*Send) {}, ""},
		{"group", func(s *Send) { s.To, s.Group = "", "team" }, ""},
		{"empty text", func(s *Send) { s.Content = "" }, ""},
		{"at the limit", func(s *Send) { s.Content = strings.Repeat("x", 100) }, ""},
		{"json", func(s *Send) { s.Type, s.Content = TypeImage, ` {"url":"x","n":[1,2]} ` }, ""},
		{"scalar json", func(s *Send) { s.Type, s.Content = TypeCustom, `7` }, ""},
		{"mentions and reply", func(s *Send) { s.Mention, s.ReplyTo = []UserID{"a", "b"}, 5 }, ""},
		{"neither", func(s *Send) { s.To = "" }, CodeBadRequest},
		{"both", func(s *Send) { s.Group = "g" }, CodeBadRequest},
		{"bad to", func(s *Send) { s.To = "a:b" }, CodeBadRequest},
		{"bad group", func(s *Send) { s.To, s.Group = "", "a b" }, CodeBadRequest},
		{"bad from", func(s *Send) { s.From = "a b" }, CodeBadRequest},
		{"no type", func(s *Send) { s.Type = "" }, CodeBadRequest},
		{"server's type", func(s *Send) { s.Type = TypeSystem }, CodeBadRequest},
		{"unknown type", func(s *Send) { s.Type = "smell" }, CodeBadRequest},
		{"too large", func(s *Send) { s.Content = strings.Repeat("x", 101) }, CodeTooLarge},
		{"no UTF-8", func(s *Send) { s.Content = "\xff" }, CodeBadRequest},
		{"no json", func(s *Send) { s.Type, s.Content = TypeImage, `{` }, CodeBadRequest},
		{"two json", func(s *Send) { s.Type, s.Content = TypeImage, `{}{}` }, CodeBadRequest},
		{"empty json", func(s *Send) { s.Type, s.Content = TypeImage, `` }, CodeBadRequest},
		{"negative reply", func(s *Send) { s.ReplyTo = -1 }, CodeBadRequest},
		{"bad mention", func(s *Send) { s.Mention = []UserID{"a", ""} }, CodeBadRequest},
		{"100 mentions", func(s *Send) { s.Mention = mentions(100) }, ""},
		{"101 mentions", func(s *Send) { s.Mention = mentions(101) }, CodeBadRequest},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := good
			tt.edit(&s)
			err := s.Validate(100)
			if codeOf(err) != tt.want {
				t.Fatalf("Validate = %v, want code %q", err, tt.want)
			}
			if err != nil && err.ClientID != "c1" {
				t.Errorf("error does not name the client_id: %+v", err)
			}
		})
	}
	for _, id := range []string{"", "a b", strings.Repeat("x", 65)} {
		s := good
		s.ClientID = id
		if err := s.Validate(100); codeOf(err) != CodeBadRequest || err.ClientID != "" {
			t.Errorf("client_id %q: %+v", id, err)
		}
	}
}

func mentions(n int) []UserID {
	m := make([]UserID, n)
	for i := range m {
		m[i] = UserID(fmt.Sprint("u", i))
	}
	return m
}

func TestContentDepth(t *testing.T) {
	deep := strings.Repeat("[", 5000) + strings.Repeat("]", 5000)
	if err := CheckContent(TypeCustom, deep, DefaultMaxContent); codeOf(err) != CodeBadRequest {
		t.Errorf("content 5,000 deep: %v", err)
	}
	if err := CheckContent(TypeText, deep, DefaultMaxContent); err != nil {
		t.Errorf("text is not looked into: %v", err)
	}
}

func TestSyncValidate(t *testing.T) {
	for limit, want := range map[int]int{0: 100, 1: 1, 500: 500} {
		s := Sync{Limit: limit}
		if err := s.Validate(); err != nil || s.Limit != want {
			t.Errorf("limit %d became %d, %v, want %d", limit, s.Limit, err, want)
		}
	}
	many := make(map[ConvID]int64)
	for i := range MaxSyncCursors + 1 {
		many[ConvID(fmt.Sprint("g:", i))] = 0
	}
	for name, s := range map[string]Sync{
		"limit -1": {Limit: -1}, "limit 501": {Limit: 501},
		"bad conv": {Cursors: map[ConvID]int64{"x": 1}}, "negative cursor": {Cursors: map[ConvID]int64{"g:a": -1}},
		"long token": {Token: strings.Repeat("x", MaxFrame+1)}, "many": {Cursors: many},
	} {
		if err := s.Validate(); codeOf(err) != CodeBadRequest {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSmallBodies(t *testing.T) {
	type validator interface{ Validate() *Error }
	tests := []struct {
		name string
		body validator
		want Code
	}{
		{"cursor", &Cursor{Conv: "g:a", Seq: 1}, ""},
		{"cursor 0", &Cursor{Conv: "p:a:b"}, ""},
		{"cursor without conv", &Cursor{Seq: 1}, CodeBadRequest},
		{"cursor negative", &Cursor{Conv: "g:a", Seq: -1}, CodeBadRequest},
		{"recall", &RecallBody{Conv: "g:a", ID: 1}, ""},
		{"recall without id", &RecallBody{Conv: "g:a"}, CodeBadRequest},
		{"recall without conv", &RecallBody{ID: 1}, CodeBadRequest},
		{"auth", &Auth{Token: "t", Device: "d", V: 1}, ""},
		{"auth without device", &Auth{Token: "t"}, ""},
		{"auth without token", &Auth{Device: "d"}, CodeUnauthenticated},
		{"auth with long token", &Auth{Token: strings.Repeat("x", MaxTokenLen+1)}, CodeUnauthenticated},
		{"auth with bad device", &Auth{Token: "t", Device: "a:b"}, CodeBadRequest},
		{"auth with long platform", &Auth{Token: "t", Platform: strings.Repeat("x", 65)}, CodeBadRequest},
		{"auth with long region", &Auth{Token: "t", Region: strings.Repeat("x", 65)}, CodeBadRequest},
		{"auth of version -1", &Auth{Token: "t", V: -1}, CodeBadRequest},
		{"auth with many caps", &Auth{Token: "t", Caps: make([]string, 33)}, CodeBadRequest},
	}
	for _, tt := range tests {
		if err := tt.body.Validate(); codeOf(err) != tt.want {
			t.Errorf("%s: %v, want code %q", tt.name, err, tt.want)
		}
	}
}

func TestValidateEdit(t *testing.T) {
	for name, tt := range map[string]struct {
		body RecallBody
		want Code
	}{
		"good":      {RecallBody{"g:a", 1, "new"}, ""},
		"no id":     {RecallBody{"g:a", 0, "new"}, CodeBadRequest},
		"empty":     {RecallBody{"g:a", 1, ""}, CodeBadRequest},
		"too large": {RecallBody{"g:a", 1, strings.Repeat("x", 101)}, CodeTooLarge},
		"no UTF-8":  {RecallBody{"g:a", 1, "\xff"}, CodeBadRequest},
	} {
		if err := tt.body.ValidateEdit(100); codeOf(err) != tt.want {
			t.Errorf("%s: %v, want code %q", name, err, tt.want)
		}
	}
}

func TestDecode(t *testing.T) {
	var s Send
	if err := Decode([]byte(`{"to":"bob","new":{"x":[]},"reply_to":"7","mention":null}`), &s); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Send{To: "bob", ReplyTo: 7}, s); diff != "" {
		t.Errorf("send (-want +got):\n%s", diff)
	}
	var c Cursor
	if err := Decode(nil, &c); err != nil || c != (Cursor{}) {
		t.Errorf("an empty body is not {}: %+v, %v", c, err)
	}
	for _, bad := range []string{
		`{"to":7}`, `{"reply_to":7}`, `{"mention":"bob"}`, `[]`, `"x"`, `{`, `{}x`,
		strings.Repeat(`{"x":`, 10_000), `{"content":"` + "\x01" + `"}`,
	} {
		if err := Decode([]byte(bad), new(Send)); codeOf(err) != CodeBadRequest {
			t.Errorf("Decode(%.30s) = %v, want bad_request", bad, err)
		}
	}
	if err := Unmarshal([]byte(strings.Repeat("[", 200)), new(any)); err == nil {
		t.Error("Unmarshal took 200 levels")
	}
}

func TestDecodeCopies(t *testing.T) {
	b := []byte(`{"token":"tok","device":"web-1"}`)
	var a Auth
	if err := Decode(b, &a); err != nil {
		t.Fatal(err)
	}
	clear(b)
	if a.Device != "web-1" || a.Token != "tok" {
		t.Errorf("strings changed with the buffer: %+v", a)
	}
}

func TestMarshalForm(t *testing.T) {
	for want, v := range map[string]any{
		`{"conversations":[],"more":false}`:                SyncOK{},
		`{}`:                                               Lagged{},
		`{"convs":{"g:a":[2,5]}}`:                          Lagged{Convs: map[ConvID][2]int64{"g:a": {2, 5}}},
		`{"code":"muted","message":"<&>"}`:                 Errorf(CodeMuted, "<&>"),
		`{"cursors":{"g:a":1,"g:b":2}}`:                    Sync{Cursors: map[ConvID]int64{"g:b": 2, "g:a": 1}},
		`{"code":"internal","message":"\u0001\"\\\ufffd"}`: Errorf(CodeInternal, "\x01\"\\\xff"),
	} {
		if b, err := Marshal(v); err != nil || string(b) != want {
			t.Errorf("Marshal(%+v) = %s, %v, want %s", v, b, err, want)
		}
	}
}

func TestWarm(t *testing.T) {
	if err := Warm(); err != nil {
		t.Fatal(err)
	}
}

func FuzzDecodeSend(f *testing.F) {
	f.Add([]byte(`{"to":"bob","client_id":"c","type":"text","content":"hi","mention":["a"],"reply_to":"1"}`))
	f.Add([]byte(`{"group":"g","client_id":"c","type":"image","content":"{}"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s Send
		if Decode(b, &s) != nil || s.Validate(DefaultMaxContent) != nil {
			return
		}
		if _, err := s.Conv("me").Parse(); err != nil {
			t.Fatalf("%q is valid but goes to %q", b, s.Conv("me"))
		}
		again, err := Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		var back Send
		if err := Decode(again, &back); err != nil {
			t.Fatalf("%s: %v", again, err)
		}
		if back.Content != s.Content || back.ClientID != s.ClientID {
			t.Fatalf("%q became %q", s.Content, back.Content)
		}
	})
}
