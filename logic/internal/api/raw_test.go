package api

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/starling-im/starling/common/wire"
)

// raw sends bytes and returns all that comes until the connection ends.
func (f *fixture) raw(request string) string {
	f.t.Helper()
	c, err := (&net.Dialer{}).DialContext(f.t.Context(), "tcp", f.server.Addr())
	if err != nil {
		f.t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		f.t.Fatal(err)
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.WriteString(c, request) // it may be cut off before its end
	}()
	b, _ := io.ReadAll(c) // a reset, after the answer, is as good as an end
	_ = c.Close()
	<-sent
	return string(b)
}

// What cannot be read is answered in the form of all errors.
func TestWhatCannotBeRead(t *testing.T) {
	f := setup(t)
	big := strings.Repeat("x", hardBody+1)
	for name, c := range map[string]struct {
		request string
		status  int
		code    wire.Code
	}{
		"no HTTP":         {"blah\r\n\r\n", http.StatusBadRequest, wire.CodeBadRequest},
		"negative length": {"POST /v1/login HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n{}", http.StatusBadRequest, wire.CodeBadRequest},
		"two lengths": {
			"POST /v1/login HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 40\r\n\r\n{}GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n     ",
			http.StatusBadRequest, wire.CodeBadRequest,
		},
		"length and encoding": {
			"POST /v1/login HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
			http.StatusBadRequest, wire.CodeBadRequest,
		},
		"headers": {"GET / HTTP/1.1\r\nHost: x\r\nX: " + strings.Repeat("y", 64<<10) + "\r\n\r\n", http.StatusRequestEntityTooLarge, wire.CodeTooLarge},
		"body": {
			fmt.Sprintf("POST /v1/login HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(big), big),
			http.StatusRequestEntityTooLarge, wire.CodeTooLarge,
		},
		"chunked body": {
			fmt.Sprintf("POST /v1/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(big), big),
			http.StatusRequestEntityTooLarge, wire.CodeTooLarge,
		},
		"announced body": {
			"POST /v1/login HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 300000\r\n\r\n" + strings.Repeat("x", 300_000),
			http.StatusRequestEntityTooLarge, wire.CodeTooLarge,
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := f.raw(c.request)
			head, body, _ := strings.Cut(got, "\r\n\r\n")
			if !strings.HasPrefix(head, fmt.Sprintf("HTTP/1.1 %d ", c.status)) || (answer{body: body}).code() != c.code ||
				!strings.Contains(head, requestIDHeader+": ") || !strings.Contains(head, "Connection: close") {
				t.Errorf("answer %.400q, want %d %s", got, c.status, c.code)
			}
			if strings.Count(got, "HTTP/1.1 ") != 1 {
				t.Errorf("the rest was taken for another request: %.600q", got)
			}
		})
	}
}

// A form with files is no way to write them to disk.
func TestFormsAreNotParsed(t *testing.T) {
	f := setup(t)
	a := f.call("", "POST", "/v1/login", "--b\r\nContent-Disposition: form-data; name=\"f\"; filename=\"f\"\r\n\r\nx\r\n--b--\r\n",
		"Content-Type", "multipart/form-data; boundary=b")
	if a.status != http.StatusBadRequest || a.code() != wire.CodeBadRequest {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// What is in no row of the table is not found, in the form of all errors,
// whatever the method.
func TestOtherMethods(t *testing.T) {
	f := setup(t)
	for _, c := range [][2]string{
		{"PUT", "/v1/messages"},
		{"DELETE", "/v1/conversations"},
		{"OPTIONS", "/v1/messages"},
		{"POST", "/"},
		{"GET", "/v1/conversations/"},
		{"GET", "/V1/conversations"},
		{"GET", "/v1"},
		{"TRACE", "/healthz"},
		{"DELETE", "/app.js"},
		{"GET", "/v1/groups/a/b/c"},
		{"GET", "/web.go"},
	} {
		a := f.call(f.token("alice", "admin"), c[0], c[1], "")
		if a.status != http.StatusNotFound || a.code() != wire.CodeNotFound || a.header.Get(requestIDHeader) == "" ||
			a.header.Get("Content-Type") != jsonType {
			t.Errorf("%s %s: %d %s %v", c[0], c[1], a.status, a.body, a.header)
		}
	}
}
