package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"mime"
	"path"
	"strings"
)

// csp is what the page may do: load from here, talk to here and to any edge.
const csp = "default-src 'self'; connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

const (
	statusNotModified = 304
	indexFile         = "index.html"
)

// asset is one file of the page, as it is served.
type asset struct {
	body              []byte
	contentType, etag string
}

// loadPage reads the page's files, which are few and small.
func (s *Server) loadPage() error {
	s.page = map[string]asset{}
	if s.d.Page == nil {
		return nil
	}
	err := fs.WalkDir(s.d.Page, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(name, ".go") {
			return err
		}
		b, err := fs.ReadFile(s.d.Page, name)
		if err != nil {
			return err //nolint:wrapcheck // a PathError says what it was
		}
		sum := sha256.Sum256(b)
		t := mime.TypeByExtension(path.Ext(name))
		if t == "" {
			t = "application/octet-stream"
		}
		s.page["/"+name] = asset{body: b, contentType: t, etag: `"` + hex.EncodeToString(sum[:8]) + `"`}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read the page's files: %w", err)
	}
	if index, ok := s.page["/"+indexFile]; ok {
		s.page["/"] = index
	}
	return nil
}

// other is what no route has: a file of the page, or not found.
func (s *Server) other(_ context.Context, c *call) (any, error) {
	a, ok := s.page[string(c.Path())]
	if method := string(c.Method()); !ok || method != "GET" && method != "HEAD" {
		return nil, notHere()
	}
	h := &c.Response.Header
	h.Set("Content-Security-Policy", csp)
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-cache")
	h.Set("ETag", a.etag)
	if string(c.GetHeader("If-None-Match")) == a.etag {
		return raw{status: statusNotModified, contentType: a.contentType}, nil
	}
	return raw{status: statusOK, contentType: a.contentType, body: a.body}, nil
}
