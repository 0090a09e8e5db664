package web

import (
	"io/fs"
	"regexp"
	"strings"
	"testing"

	"github.com/starling-im/starling/common/testkit"
)

func TestMain(m *testing.M) { testkit.VerifyMain(m) }

// The page must work under default-src 'self': nothing inline, nothing from
// elsewhere, and every file it names is there.
func TestPageKeepsItsPolicy(t *testing.T) {
	html, err := fs.ReadFile(Files(), "index.html")
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"<style", " style=", "onclick=", "onload=", "javascript:", "//cdn"} {
		if strings.Contains(string(html), bad) {
			t.Errorf("index.html has %q, which the policy forbids", bad)
		}
	}
	for _, m := range regexp.MustCompile(`(?:src|href)="([^"#][^"]*)"`).FindAllStringSubmatch(string(html), -1) {
		if _, err := fs.Stat(Files(), strings.TrimPrefix(m[1], "/")); err != nil {
			t.Errorf("index.html names %s: %v", m[1], err)
		}
	}
}

// Every module that a script imports is embedded, and no script builds HTML
// from text.
func TestScripts(t *testing.T) {
	scripts, err := fs.Glob(Files(), "*.js")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, name := range scripts {
		src, err := fs.ReadFile(Files(), name)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`from "\./([^"]+)"`).FindAllStringSubmatch(string(src), -1) {
			if _, err := fs.Stat(Files(), m[1]); err != nil {
				t.Errorf("%s imports %s: %v", name, m[1], err)
			}
		}
		for _, bad := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "document.write"} {
			if strings.Contains(string(src), bad) {
				t.Errorf("%s uses %s: texts of users go through textContent", name, bad)
			}
		}
	}
}
