package ws

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // RFC 6455 asks for SHA-1; nothing is protected by it
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Path is where the upgrade is.
const Path = "/ws"

// Subprotocol is the one that the server selects; a browser offers its token
// as the next of the list.
const Subprotocol = "starling"

const (
	acceptGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
	keyLen     = 16
	maxHeaders = 64
)

// HTTPError refuses a request with a status.
type HTTPError struct {
	Status int
	Text   string
}

// Error returns status and text.
func (e *HTTPError) Error() string { return fmt.Sprintf("http %d: %s", e.Status, e.Text) }

// Response returns the whole answer; the connection is closed after it.
func (e *HTTPError) Response() []byte {
	extra := ""
	if e.Status == http.StatusUpgradeRequired {
		extra = "Upgrade: websocket\r\nConnection: Upgrade, close\r\nSec-WebSocket-Version: 13\r\n"
	} else {
		extra = "Connection: close\r\n"
	}
	if e.Status == http.StatusMethodNotAllowed {
		extra += "Allow: GET\r\n"
	}
	body := e.Text + "\n"
	return fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\n%s\r\n%s",
		e.Status, http.StatusText(e.Status), len(body), extra, body)
}

// Upgrade is what a good request says.
type Upgrade struct {
	Token    string // of Authorization or of the subprotocols; empty if none
	Device   string
	Platform string
	Region   string

	key      string
	selected bool // the subprotocol
}

// Response returns the 101 answer.
func (u *Upgrade) Response() []byte {
	sum := sha1.Sum([]byte(u.key + acceptGUID)) //nolint:gosec // as RFC 6455 says
	proto := ""
	if u.selected {
		proto = "Sec-WebSocket-Protocol: " + Subprotocol + "\r\n"
	}
	return fmt.Appendf(nil, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n%s\r\n",
		base64.StdEncoding.EncodeToString(sum[:]), proto)
}

// HeadEnd returns the length of the request head in b with its empty line, or
// 0 if that has not come yet.
func HeadEnd(b []byte) int {
	if i := bytes.Index(b, []byte("\r\n\r\n")); i >= 0 {
		return i + 4
	}
	return 0
}

// ParseUpgrade reads a whole request head. origins lists what Origin may be;
// empty allows any. It copies what it keeps.
func ParseUpgrade(head []byte, origins []string) (*Upgrade, *HTTPError) {
	lines := strings.Split(strings.TrimSuffix(string(head), "\r\n\r\n"), "\r\n")
	target, herr := requestLine(lines[0])
	if herr != nil {
		return nil, herr
	}
	h, herr := parseHeaders(lines[1:])
	if herr != nil {
		return nil, herr
	}
	path, query, _ := strings.Cut(target, "?")
	if path != Path {
		return nil, &HTTPError{http.StatusNotFound, "not found"}
	}
	if herr := h.check(origins); herr != nil {
		return nil, herr
	}
	q, err := url.ParseQuery(query)
	if err != nil {
		return nil, badRequest("bad query")
	}
	u := &Upgrade{
		key: h.first("sec-websocket-key"), Device: q.Get("device"),
		Platform: q.Get("platform"), Region: q.Get("region"),
	}
	u.token(h)
	return u, nil
}

func badRequest(text string) *HTTPError { return &HTTPError{http.StatusBadRequest, text} }

func requestLine(line string) (target string, herr *HTTPError) {
	parts := strings.Split(line, " ")
	if len(parts) != 3 || !isToken(parts[0]) || parts[1] == "" || !isVisible(parts[1]) {
		return "", badRequest("bad request line")
	}
	if parts[2] != "HTTP/1.1" {
		if strings.HasPrefix(parts[2], "HTTP/") {
			return "", &HTTPError{http.StatusHTTPVersionNotSupported, "only HTTP/1.1"}
		}
		return "", badRequest("bad request line")
	}
	if parts[0] != http.MethodGet {
		return "", &HTTPError{http.StatusMethodNotAllowed, "only GET"}
	}
	return parts[1], nil
}

// headers maps lower-case names to values in order.
type headers map[string][]string

func parseHeaders(lines []string) (headers, *HTTPError) {
	if len(lines) > maxHeaders {
		return nil, &HTTPError{http.StatusRequestHeaderFieldsTooLarge, "too many headers"}
	}
	h := make(headers, len(lines))
	for _, l := range lines {
		name, value, ok := strings.Cut(l, ":")
		if !ok || !isToken(name) {
			return nil, badRequest("bad header")
		}
		value = strings.Trim(value, " \t")
		if !isFieldValue(value) {
			return nil, badRequest("bad header value")
		}
		name = strings.ToLower(name)
		h[name] = append(h[name], value)
	}
	return h, nil
}

func (h headers) first(name string) string {
	if v := h[name]; len(v) > 0 {
		return v[0]
	}
	return ""
}

// list returns the comma-separated elements of all fields of a name.
func (h headers) list(name string) []string {
	var out []string
	for _, v := range h[name] {
		for e := range strings.SplitSeq(v, ",") {
			if e = strings.Trim(e, " \t"); e != "" {
				out = append(out, e)
			}
		}
	}
	return out
}

func (h headers) has(name, token string) bool {
	return slices.ContainsFunc(h.list(name), func(e string) bool { return strings.EqualFold(e, token) })
}

// check judges the headers of an upgrade.
func (h headers) check(origins []string) *HTTPError {
	if len(h["host"]) != 1 {
		return badRequest("exactly one Host is needed")
	}
	if len(h["transfer-encoding"]) > 0 || (h.first("content-length") != "" && h.first("content-length") != "0") {
		return badRequest("a body is not taken")
	}
	if !h.has("upgrade", "websocket") || !h.has("connection", "upgrade") {
		return &HTTPError{http.StatusUpgradeRequired, "this is a WebSocket endpoint"}
	}
	if v := h["sec-websocket-version"]; len(v) != 1 || v[0] != "13" {
		return &HTTPError{http.StatusUpgradeRequired, "only WebSocket version 13"}
	}
	k := h["sec-websocket-key"]
	if len(k) != 1 {
		return badRequest("exactly one Sec-WebSocket-Key is needed")
	}
	if raw, err := base64.StdEncoding.DecodeString(k[0]); err != nil || len(raw) != keyLen {
		return badRequest("Sec-WebSocket-Key is not 16 bytes in base64")
	}
	if len(origins) > 0 {
		if o := h["origin"]; len(o) != 1 || !slices.Contains(origins, o[0]) {
			return &HTTPError{http.StatusForbidden, "origin is not allowed"}
		}
	}
	return nil
}

// token finds the token: Authorization first, then the offered subprotocols.
func (u *Upgrade) token(h headers) {
	if scheme, t, ok := strings.Cut(h.first("authorization"), " "); ok && strings.EqualFold(scheme, "bearer") {
		u.Token = strings.Trim(t, " ")
	}
	offers := h.list("sec-websocket-protocol")
	if i := slices.Index(offers, Subprotocol); i >= 0 {
		u.selected = true
		if u.Token == "" && i+1 < len(offers) {
			u.Token = offers[i+1]
		}
	}
}

func isToken(s string) bool {
	if s == "" {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return true
}

func isVisible(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f {
			return false
		}
	}
	return true
}

func isFieldValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < ' ' && c != '\t') || c == 0x7f {
			return false
		}
	}
	return true
}
