package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// press clicks an element by a script: some only show under the pointer.
func (p *tab) press(what, selector string) {
	p.t.Helper()
	p.until(what, fmt.Sprintf(`(e => e && !e.matches(":disabled") && (e.click(), true))(document.querySelector(%q))`, selector))
}

// act presses one of a message's own buttons. One script finds and presses it: a
// message whose number arrives in between is drawn anew.
func (p *tab) act(text, action string) {
	p.t.Helper()
	p.until(action+" of "+text, fmt.Sprintf(`(e => e && (e.click(), true))([...document.querySelectorAll("#messages .msg")].findLast(e => e.querySelector("p").textContent === %q)?.querySelector('[data-act="%s"]'))`, text, action))
}

func (p *tab) chat(with string) {
	p.t.Helper()
	p.do("start a chat", chromedp.Click(css("#new-chat")), chromedp.WaitVisible(css("#field-to")), chromedp.SendKeys(css("#field-to"), with+"\r"), chromedp.WaitVisible(css("#text")))
}

// writing types until reader is told of it: that is shown for some seconds alone,
// and the reader may look too late.
func (p *tab) writing(reader *tab, text string) {
	p.t.Helper()
	p.do("begin to write", chromedp.SendKeys(css("#text"), text))
	const shown = `["#conv-sub", ".convs .writing"].every(e => document.querySelector(e)?.textContent.endsWith(" is writing…"))`
	for end := time.Now().Add(patience); ; {
		err := reader.try(chromedp.Poll[chromedp.Void](shown, chromedp.WithPollingTimeout(3*time.Second)))
		if err == nil {
			return
		}
		if time.Now().After(end) {
			p.t.Fatal("nobody is shown as writing: ", err)
		}
		p.until("write on", `document.querySelector("#text").dispatchEvent(new Event("input"))`)
	}
}

// reads waits until all is read, which it is in front alone.
func (p *tab) reads() {
	p.t.Helper()
	p.until("it counts as read", `!document.querySelector(".badge.unread")`)
}

// appearance emulates a colour scheme and a size of the window.
func (p *tab) appearance(scheme string, width, height int64, mobile bool) {
	p.t.Helper()
	p.do("look "+scheme, func(ctx context.Context, t *chromedp.Target) (chromedp.Void, error) {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
		if err == nil {
			_, err = cdp.Call(ctx, t, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: width, Height: height, DeviceScaleFactor: 1, Mobile: mobile})
		}
		if err != nil {
			return chromedp.Void{}, fmt.Errorf("emulate: %w", err)
		}
		return chromedp.Void{}, nil
	})
}

// TestBrowserPage: ticks, presence, typing, answers, edits, recalls, mentions, the
// management of a group, and two devices of one user in step.
func TestBrowserPage(t *testing.T) {
	b, s := browser(t), Start(t, binary)
	checkModules(b, t, s.API)
	alice, bob := openTab(b, t, s.API, "alice"), openTab(b, t, s.API, "bob")
	alice.chat("bob")
	alice.until("bob is online", `document.querySelector("#conv-sub")?.textContent === "online"`)
	alice.write("good morning")
	alice.until("bob's device has it", `(e => e?.textContent === "✓✓" && (e.closest(".msg").before = true))(document.querySelector(".msg.mine .tick"))`)
	bob.press("open it", `[data-conv="p:alice:bob"]`)
	bob.reads()
	alice.until("bob has read it, and the message is the same element", `(e => e?.textContent === "✓✓ read" && e.closest(".msg").before)(document.querySelector(".msg.mine .tick.read"))`)
	bob.writing(alice, "good")
	alice.until("that ends by itself", `document.querySelector("#conv-sub")?.textContent === "online"`)
	bob.do("write on", chromedp.SendKeys(css("#text"), " evening\r"))
	alice.shows("good evening")
	alice.until("bob is not writing any more", `document.querySelector("#conv-sub")?.textContent === "online"`)

	bob.act("good evening", "edit")
	bob.until("the old text is there", `document.querySelector("#text").value === "good evening"`)
	bob.do("correct it", chromedp.SendKeys(css("#text"), ", I mean\r"))
	alice.shows("good evening, I mean")
	alice.until("it says so", `[...document.querySelectorAll(".msg.edited footer")].at(-1)?.textContent.startsWith("edited")`)
	bob.act("good evening, I mean", "edit")
	bob.until("a new text that is too large", `(document.querySelector("#text").value = "€".repeat(8000), document.querySelector("#composer").requestSubmit(), true)`)
	bob.until("is refused and not lost", `document.querySelector("#text").value.length === 8000 && !document.querySelector("#context").hidden`)
	bob.press("give it up", "#context-cancel")
	alice.act("good evening, I mean", "reply")
	alice.write("good night")
	bob.until("the answer quotes", `[...document.querySelectorAll(".quote")].at(-1)?.textContent === "bobgood evening, I mean"`)
	again := openTab(b, t, s.API, "alice") // a second device of alice
	again.press("open it", `[data-conv="p:alice:bob"]`)
	again.shows("good night")
	alice.act("good night", "recall")
	for _, p := range []*tab{alice, bob, again} {
		p.until("recalled", `[...document.querySelectorAll(".msg.recalled p")].at(-1)?.textContent === "Message recalled"`)
	}
	again.write("from my other device")
	alice.shows("from my other device")
	bob.write("I see both")
	alice.shows("I see both")
	again.shows("I see both")
	for _, p := range []*tab{alice, again} {
		p.reads()
		p.press("leave it", "#back")
	}
	bob.write("who reads this?")
	again.until("a badge", `document.querySelector('[data-conv="p:alice:bob"] .badge.unread')?.textContent === "1"`)
	alice.press("read it", `[data-conv="p:alice:bob"]`)
	alice.reads()
	again.until("read here too, and nothing is open", `!document.querySelector(".badge.unread") && document.querySelector("#pane").hidden`)

	alice.do("make a group of nobody", chromedp.Click(css("#new-group")), chromedp.WaitVisible(css("#field-name")), chromedp.SendKeys(css("#field-name"), "Flock"),
		chromedp.SendKeys(css("#field-members"), "b*b\r"))
	alice.until("it is refused", `document.querySelector("#dialog[open] #dialog-error")?.textContent !== "" && !document.querySelector("#dialog-ok").disabled`)
	alice.do("make it of bob", chromedp.SetValue(css("#field-members"), "bob"), chromedp.Click(css("#dialog-ok")), chromedp.WaitNotVisible(css("#dialog")))
	alice.until("it is open", `document.querySelector("#conv-sub")?.textContent === "2 members"`)
	alice.do("mention", chromedp.SendKeys(css("#text"), "hello @b"), chromedp.WaitVisible(css("#suggest button")))
	alice.press("take the name", "#suggest button")
	alice.do("send it", chromedp.SendKeys(css("#text"), "and all\r"))
	bob.until("bob is mentioned", `document.querySelector(".badge.at") !== null`)
	bob.do("open the group", chromedp.Click(flock))
	bob.reads()
	bob.until("the name is set off", `document.querySelector(".msg.to-me .mention")?.textContent === "@bob"`)
	alice.until("read in the group", `document.querySelector(".msg.mine .tick")?.textContent === "✓✓ read by 1"`)
	alice.do("load the page again", chromedp.Navigate(s.API), chromedp.WaitVisible(css(`#status[data-state="online"]`)), chromedp.Click(flock))
	alice.until("still known to be read", `document.querySelector(".msg.mine .tick")?.textContent === "✓✓ read by 1"`)

	alice.press("open the dialog", "#group-info")
	alice.do("add and rename", chromedp.WaitVisible(css("#field-user")), chromedp.SendKeys(css("#field-user"), "carol"),
		chromedp.SetValue(css("#field-name"), "Swarm"), chromedp.Click(css("#dialog-ok")))
	alice.until("carol is in it", `document.querySelector('[data-user="carol"]') !== null`)
	bob.until("renamed", `document.querySelector("#conv-title")?.textContent === "Swarm"`)
	button := func(user, label string) {
		t.Helper()
		alice.until(label+" "+user, fmt.Sprintf(`(e => e && !e.matches(":disabled") && (e.click(), true))([...document.querySelectorAll('[data-user=%q] button')].find(b => b.textContent === %q))`, user, label))
	}
	role := func(user, want string) {
		t.Helper()
		alice.until(user+" is "+want, fmt.Sprintf(`document.querySelector('[data-user=%q] .role')?.textContent === %q`, user, want))
	}
	button("bob", "Make admin")
	role("bob", "admin")
	alice.shot("page-group.png")
	button("carol", "Mute")
	role("carol", "member, muted")
	button("carol", "Remove")
	alice.until("carol is out", `!document.querySelector('[data-user="carol"]') && document.querySelector('[data-user="bob"]') !== null`)
	alice.press("mute all", "#mute-all")
	alice.until("all are muted", `document.querySelector("#unmute-all") !== null`)
	button("bob", "Make owner")
	role("bob", "owner")
	alice.press("close", "#dialog-cancel")
	bob.press("open the dialog", "#group-info")
	bob.until("bob owns it", `document.querySelector("#dismiss") !== null`)
	bob.press("dismiss it", "#dismiss")
	alice.until("it is dismissed", `[...document.querySelectorAll(".system")].at(-1)?.textContent === "bob dismissed the group"`)
	alice.until("and takes no message", `document.querySelector("#text").disabled`)

	bob.press("back to the private chat", `[data-conv="p:alice:bob"]`)
	for _, look := range []struct {
		name, scheme string
		width        int64
	}{{"light", "light", 1100}, {"dark", "dark", 1100}, {"mobile", "light", 390}} {
		bob.appearance(look.scheme, look.width, 720, look.width < 500)
		bob.until("no scrolling sideways", `document.documentElement.scrollWidth <= innerWidth`)
		bob.shot("page-" + look.name + ".png")
	}

	bob.press("ask something", "#new-chat")
	bob.press("log out over it", "#log-out")
	bob.until("nothing is left", `!document.querySelector("#dialog").open && !document.querySelector("#conversations").children.length && document.querySelector("#chat").hidden`)
	bob.do("come in as dave", chromedp.SetValue(css("#login-name"), "dave"), chromedp.Click(css("#login-form button")), chromedp.WaitVisible(css(`#status[data-state="online"]`)))
	bob.until("who has nothing", `!document.querySelector("#no-convs").hidden && document.querySelector("#me-name").textContent === "dave"`)
}
