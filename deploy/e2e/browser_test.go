package e2e

import (
	"bytes"
	"context"
	"fmt"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// patience is for a browser on a busy machine.
const patience = 2 * time.Minute

// browser starts a headless Chromium, or says why the test is skipped where
// there is none. With STARLING_REQUIRE_CHROMIUM set a missing one is a failure.
func browser(t *testing.T) context.Context {
	t.Helper()
	path := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		if os.Getenv("STARLING_REQUIRE_CHROMIUM") != "" {
			t.Fatal("no chromium on the PATH, and STARLING_REQUIRE_CHROMIUM is set: install the package chromium")
		}
		t.Skip("no chromium on the PATH: the page is not tested here (install the package chromium)")
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(path), chromedp.NoSandbox,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-gpu", true),
		chromedp.UserDataDir(t.TempDir()), chromedp.WSURLReadTimeout(patience), chromedp.WindowSize(1100, 720))
	ctx, cancelAllocator := chromedp.NewExecAllocator(t.Context(), opts...)
	ctx, cancel := chromedp.NewContext(ctx)
	t.Cleanup(func() { cancel(); cancelAllocator() })
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank")); err != nil {
		t.Fatalf("start %s: %v", path, err)
	}
	return ctx
}

// tab is one browser tab logged in under a name.
type tab struct {
	t   *testing.T
	ctx context.Context
}

func openTab(browser context.Context, t *testing.T, url, name string) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(browser, chromedp.WithNewWindow(false))
	t.Cleanup(cancel)
	p := &tab{t, ctx}
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank")); err != nil { // opens the tab; no deadline may end it
		t.Fatal(err)
	}
	p.do("log in "+name, chromedp.Navigate(url), chromedp.WaitVisible(css("#login-name")), chromedp.SendKeys(css("#login-name"), name+"\r"),
		chromedp.WaitVisible(css(`#status[data-state="online"]`)))
	return p
}

func (p *tab) do(what string, actions ...chromedp.Action[chromedp.Void]) {
	p.t.Helper()
	if err := p.try(actions...); err != nil {
		p.shot("failed.png")
		p.t.Fatalf("%s: %v", what, err)
	}
}

func (p *tab) try(actions ...chromedp.Action[chromedp.Void]) error {
	ctx, cancel := context.WithTimeout(p.ctx, patience)
	defer cancel()
	return chromedp.Do(ctx, append([]chromedp.Action[chromedp.Void]{toFront}, actions...)...)
}

// toFront shows the tab, as a person would: one in the background has no
// animation frames.
func toFront(ctx context.Context, t *chromedp.Target) (chromedp.Void, error) {
	if _, err := cdp.Call(ctx, t, page.BringToFront, cdp.Empty{}); err != nil {
		return chromedp.Void{}, fmt.Errorf("bring to front: %w", err)
	}
	return chromedp.Void{}, nil
}

// until polls a JavaScript expression in the page.
func (p *tab) until(what, js string) {
	p.t.Helper()
	p.do(what, chromedp.Poll[chromedp.Void](js, chromedp.WithPollingTimeout(patience-5*time.Second)))
}

// shows waits until the last message in the open conversation has this text.
func (p *tab) shows(text string) {
	p.t.Helper()
	p.until("message "+text, fmt.Sprintf(`[...document.querySelectorAll("#messages .msg p")].at(-1)?.textContent === %q`, text))
}

func (p *tab) write(text string) {
	p.t.Helper()
	p.do("write "+text, chromedp.SendKeys(css("#text"), text+"\r"))
}

// shot takes a screenshot that shows something, and keeps it where
// STARLING_SCREENSHOTS names a folder.
func (p *tab) shot(name string) {
	p.t.Helper()
	dir := os.Getenv("STARLING_SCREENSHOTS")
	if dir == "" {
		dir = p.t.TempDir()
	}
	ctx, cancel := context.WithTimeout(p.ctx, 30*time.Second)
	defer cancel()
	data, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name), data, 0o600)
	}
	if err == nil {
		err = plain(data)
	}
	if err != nil {
		p.t.Errorf("screenshot %s: %v", name, err)
	}
}

// plain says what is wrong with a picture of one colour alone.
func plain(data []byte) error {
	img, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("decode: %w", err)
	}
	r := img.Bounds()
	for y := r.Min.Y; y < r.Max.Y; y++ {
		for x := r.Min.X; x < r.Max.X; x++ {
			if img.At(x, y) != img.At(r.Min.X, r.Min.Y) {
				return nil
			}
		}
	}
	return fmt.Errorf("%v of one colour", r)
}

type css = chromedp.CSS

// flock finds the group in the list of conversations.
const flock = chromedp.Search(`//ul[@id="conversations"]//button[contains(., "Flock")]`)

// TestBrowser: two tabs chat privately and in a group; one that was away
// catches up, also over a crash of the whole system.
func TestBrowser(t *testing.T) {
	b, s := browser(t), Start(t, binary)
	alice := openTab(b, t, s.API, "alice")
	bob := openTab(b, t, s.API, "bob")
	alice.do("start a chat", chromedp.Click(css("#new-chat")), chromedp.WaitVisible(css("#field-to")), chromedp.SendKeys(css("#field-to"), "bob\r"), chromedp.WaitVisible(css("#text")))
	alice.write("hello from alice")
	alice.shows("hello from alice")
	bob.until("an unread badge", `document.querySelector('[data-conv="p:alice:bob"] .badge')?.textContent === "1"`)
	bob.do("open it", chromedp.Click(css(`[data-conv="p:alice:bob"]`)), chromedp.WaitVisible(css("#text")))
	bob.shows("hello from alice")
	bob.write("hello from bob")
	bob.shows("hello from bob")
	bob.until("it counts as read", `!document.querySelector(".badge")`)
	alice.shows("hello from bob")
	alice.until("bob has read it", `document.querySelector(".msg.mine .tick").textContent === "✓✓ read"`)
	alice.until("nothing is unread", `!document.querySelector(".badge")`)
	alice.shot("private.png")

	alice.do("make a group", chromedp.Click(css("#new-group")), chromedp.WaitVisible(css("#field-name")), chromedp.SendKeys(css("#field-name"), "Flock"),
		chromedp.SendKeys(css("#field-members"), "bob, carol\r"), chromedp.WaitNotVisible(css("#dialog")))
	alice.until("the group is open", `document.querySelector("#conv-title").textContent === "Flock"`)
	alice.write("all together")
	bob.until("the group is listed", `[...document.querySelectorAll(".convs b")].some(e => e.textContent === "Flock")`)
	bob.do("open the group", chromedp.Click(flock))
	bob.shows("all together")
	bob.shot("group.png")

	s.Kill(t)
	alice.until("offline is shown", `document.querySelector("#status").dataset.state !== "online"`)
	alice.write("written while it was down")
	s.Up(t)
	alice.until("back by itself", `document.querySelector("#status").dataset.state === "online"`)
	bob.shows("written while it was down")

	carol := openTab(b, t, s.API, "carol")
	carol.do("open the group", chromedp.Click(flock))
	carol.shows("written while it was down")
	for i := range 60 {
		bob.write(fmt.Sprint("line ", i))
	}
	carol.shows("line 59")
	dave := openTab(b, t, s.API, "alice")
	dave.do("open the group", chromedp.Click(flock))
	dave.shows("line 59")
	dave.until("older history comes by scrolling", `(document.querySelector("#messages").scrollTop = 0, [...document.querySelectorAll("#messages .msg p")].some(e => e.textContent === "all together"))`)
	dave.shot("history.png")
}
