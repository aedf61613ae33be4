package integration

import (
	"context"
	"errors"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

var screenshots = flag.String("screenshots", "", "a folder that the dashboard's views are to be shown in")

// browser is a real Chromium with a page of one user. It fails the test if an expected event
// doesn't happen.
type browser struct {
	*testing.T
	ctx context.Context
}

// chromium returns the path of a Chromium.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Fatal("there is no Chromium here: make browser-ready installs it, or says how")
	return ""
}

// newBrowser starts a Chromium that the test's end closes.
func newBrowser(t *testing.T) *browser {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium(t)), chromedp.NoSandbox, // root has none
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	allocated, stop := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(stop)
	ctx, leave := chromedp.NewContext(allocated)
	t.Cleanup(leave)
	return opened(ctx, t)
}

// another returns a page of another user, with separate cookies.
func (b *browser) another() *browser {
	b.Helper()
	ctx, leave := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext())
	b.Cleanup(leave)
	return opened(ctx, b.T)
}

// opened opens a page. It closes when the context of this first call ends.
func opened(ctx context.Context, t *testing.T) *browser {
	t.Helper()
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(1200, 900)); err != nil {
		t.Fatalf("the browser does not start: %v", err)
	}
	return &browser{t, ctx}
}

func (b *browser) do(steps ...chromedp.Action[chromedp.Void]) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := chromedp.Do(ctx, steps...); err != nil {
		b.Fatalf("the browser: %v", err)
	}
}

// open goes to an address and waits until it is loaded.
func (b *browser) open(address string) {
	b.Helper()
	b.do(chromedp.Navigate(address))
}

// eval returns the value of an expression in the page.
func eval[T any](b *browser, expression string) (T, error) {
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

// value is eval, and fails the test on an error.
func value[T any](b *browser, expression string) T {
	b.Helper()
	v, err := eval[T](b, expression)
	if err != nil {
		b.Fatalf("%s: %v", expression, err)
	}
	return v
}

// until waits for a condition, also while the browser moves to other pages.
func (b *browser) until(condition string) {
	b.Helper()
	end := time.After(patience)
	tick := time.NewTicker(30 * time.Millisecond)
	defer tick.Stop()
	for {
		ok, err := eval[bool](b, "Boolean("+condition+")")
		if ok && err == nil {
			return
		}
		select {
		case <-end:
			text, _ := eval[string](b, "location.href + '\\n' + document.body.innerText")
			b.Fatalf("never came true (%v): %s\nthe page:\n%.3000s", err, condition, text)
		case <-tick.C:
		}
	}
}

// untilText waits until the page shows a text.
func (b *browser) untilText(text string) {
	b.Helper()
	b.until("document.body.innerText.includes(" + quote(text) + ")")
}

// has reports whether the page shows a text.
func (b *browser) has(text string) bool {
	b.Helper()
	return value[bool](b, "document.body.innerText.includes("+quote(text)+")")
}

// quote is a text as JavaScript writes it.
func quote(s string) string {
	return "`" + strings.NewReplacer("\\", "\\\\", "`", "\\`", "$", "\\$").Replace(s) + "`"
}

// press clicks the only button or link with this text, and waits until the next page has loaded.
func (b *browser) press(text string) {
	b.Helper()
	find := "[...document.querySelectorAll('button, a, summary')].filter(e => e.innerText.trim().startsWith(" + quote(text) + ") && e.checkVisibility())"
	b.until(find + ".length > 0")
	value[bool](b, "(() => { document.documentElement.dataset.old = 1; "+find+"[0].click(); return true })()")
}

// follow is press for a link or button that leads to another page.
func (b *browser) follow(text string) {
	b.Helper()
	b.press(text)
	b.until("!document.documentElement.dataset.old && document.readyState === 'complete'")
}

// keys presses keys.
func (b *browser) keys(text string) {
	b.Helper()
	b.do(chromedp.KeyEvent(text))
}

// signIn signs in by the form, with the keyboard alone.
func (b *browser) signIn(base, store, token string) {
	b.Helper()
	b.open(base + "/ui/")
	if b.has("Sign out") {
		b.press("Sign out")
		b.until("document.querySelector('input[name=token]') !== null")
	}
	value[bool](b, "(() => { document.querySelector('input[name=store]').focus(); return true })()")
	b.keys(store + "\t" + token + "\r")
	b.until("location.pathname !== '/ui/' && location.pathname !== '/ui/sign-in' && document.readyState === 'complete'")
}

// scripts turns JavaScript off or on, for pages that are opened from now on.
func (b *browser) scripts(on bool) {
	b.Helper()
	b.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !on})
		return err
	}))
}

// dark turns the dark colors on or off.
func (b *browser) dark(on bool) {
	b.Helper()
	scheme := map[bool]string{true: "dark", false: "light"}[on]
	b.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
		})
		return err
	}))
}

// shoot saves a picture of the page if the flag -screenshots is set.
func (b *browser) shoot(name string) {
	b.Helper()
	if *screenshots == "" {
		return
	}
	picture, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	if err == nil {
		err = errors.Join(os.MkdirAll(*screenshots, 0o755), os.WriteFile(filepath.Join(*screenshots, name+".png"), picture, 0o644))
	}
	if err != nil {
		b.Error(err)
	}
}

// axe is axe-core, which checks the accessibility of pages. It is downloaded once.
var axe = sync.OnceValues(func() (string, error) {
	folder, err := os.MkdirTemp("", "sheaf-axe-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(folder)
	if err := os.CopyFS(folder, os.DirFS("clients/axe")); err != nil {
		return "", err
	}
	fetch := exec.Command("npm", "ci", "--no-audit", "--no-fund")
	fetch.Dir = folder
	if out, err := fetch.CombinedOutput(); err != nil {
		return "", errors.Join(err, errors.New(string(out)))
	}
	text, err := os.ReadFile(filepath.Join(folder, "node_modules/axe-core/axe.min.js"))
	return string(text), err
})

// accessible checks the page with axe, in both color schemes, and that nothing is wider than a
// small phone.
func (b *browser) accessible(view string) {
	b.Helper()
	script, err := axe()
	if err != nil {
		b.Fatal(err)
	}
	for _, dark := range []bool{false, true} {
		b.dark(dark)
		value[bool](b, script+"; true")
		found := value[string](b, `axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]})
			.then(r => r.violations.map(v => v.id + ": " + v.help + "\n  " + v.nodes.map(n => n.html + " " + n.failureSummary).slice(0, 3).join("\n  ")).join("\n"))`)
		if found != "" {
			b.Errorf("%s, dark: %v:\n%s", view, dark, found)
		}
	}
	b.dark(false)
	b.do(chromedp.EmulateViewport(360, 800))
	if wide := value[int](b, "document.documentElement.scrollWidth"); wide > 360 {
		b.Errorf("%s is %d wide on a screen of 360", view, wide)
	}
	if view == "batch" {
		b.shoot(view + "-small")
	}
	b.do(chromedp.EmulateViewport(1200, 900))
	b.shoot(view)
}
