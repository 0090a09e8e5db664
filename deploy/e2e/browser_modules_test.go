package e2e

import (
	"context"
	"os"
	"testing"

	"github.com/chromedp/chromedp"
)

// checkModules runs the checks of the page's single modules in a tab where
// nobody is logged in.
func checkModules(b context.Context, t *testing.T, url string) {
	t.Helper()
	script, err := os.ReadFile("../../client/web/testdata/modules.js")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := chromedp.NewContext(b, chromedp.WithNewWindow(false))
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx, chromedp.Navigate("about:blank")); err != nil { // opens the tab; no deadline may end it
		t.Fatal(err)
	}
	p := &tab{t, ctx}
	p.do("open the page", chromedp.Navigate(url), chromedp.WaitVisible(css("#login-name")))
	ctx, cancel = context.WithTimeout(ctx, patience)
	defer cancel()
	wrong, err := chromedp.Run(ctx, chromedp.Evaluate[[]string](string(script), chromedp.EvalAwaitPromise))
	if err != nil {
		t.Fatal("modules: ", err)
	}
	for _, w := range wrong {
		t.Error("modules: ", w)
	}
}
