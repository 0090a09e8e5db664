// Package web embeds the chat page that logic serves at "/": plain HTML, CSS
// and JavaScript modules without a build step. The files are constant and safe
// for concurrent use; they need a Content-Security-Policy no wider than
// default-src 'self' with connect-src 'self' ws: wss:.
package web

import (
	"embed"
	"io/fs"
)

//go:embed static
var files embed.FS

// Files returns the page's files, index.html at the root.
func Files() fs.FS {
	sub, err := fs.Sub(files, "static")
	if err != nil {
		panic("BUG: static is embedded above: " + err.Error())
	}
	return sub
}
