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

var screenshots = flag.String("screenshots", "", "the folder in which to save screenshots of the dashboard")

// browser is one user's page in a real Chromium. Its methods fail the test if an expected event
// doesn't happen.
type browser struct {
	*testing.T
	ctx context.Context
}

// chromium returns the path of an installed Chromium.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Fatal("Chromium is missing: make INSTALL=1 test installs it")
	return ""
}

// newBrowser starts a Chromium that is closed when the test ends.
func newBrowser(t *testing.T) *browser {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath(chromium(t)), chromedp.NoSandbox, // the sandbox doesn't work for root
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true))
	allocated, stop := chromedp.NewExecAllocator(context.Background(), options...)
	t.Cleanup(stop)
	ctx, leave := chromedp.NewContext(allocated)
	t.Cleanup(leave)
	return openPage(ctx, t)
}

// newUser returns a page of another user, with separate cookies.
func (b *browser) newUser() *browser {
	b.Helper()
	ctx, leave := chromedp.NewContext(b.ctx, chromedp.WithNewBrowserContext())
	b.Cleanup(leave)
	return openPage(ctx, b.T)
}

// openPage opens a page. The page closes when ctx ends.
func openPage(ctx context.Context, t *testing.T) *browser {
	t.Helper()
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(1200, 900)); err != nil {
		t.Fatalf("the browser didn't start: %v", err)
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

// open goes to an address and waits until the page is loaded.
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

// value returns the value of an expression. An error fails the test.
func value[T any](b *browser, expression string) T {
	b.Helper()
	v, err := eval[T](b, expression)
	if err != nil {
		b.Fatalf("%s: %v", expression, err)
	}
	return v
}

// until waits for a condition, even across page loads.
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
			b.Fatalf("the condition never held (%v): %s\nthe page:\n%.3000s", err, condition, text)
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

// quote returns s as a JavaScript template literal.
func quote(s string) string {
	return "`" + strings.NewReplacer("\\", "\\\\", "`", "\\`", "$", "\\$").Replace(s) + "`"
}

// press waits for a visible button, link or summary whose text begins with text, and clicks the
// first one.
func (b *browser) press(text string) {
	b.Helper()
	find := "[...document.querySelectorAll('button, a, summary')].filter(e => e.innerText.trim().startsWith(" + quote(text) + ") && e.checkVisibility())"
	b.until(find + ".length > 0")
	value[bool](b, "(() => { document.documentElement.dataset.old = 1; "+find+"[0].click(); return true })()")
}

// follow presses a link or button and waits until the page that it leads to has loaded.
func (b *browser) follow(text string) {
	b.Helper()
	b.press(text)
	b.until("!document.documentElement.dataset.old && document.readyState === 'complete'")
}

// keys types text into the focused element.
func (b *browser) keys(text string) {
	b.Helper()
	b.do(chromedp.KeyEvent(text))
}

// signIn signs in with the form, using only the keyboard.
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

// scripts turns JavaScript on or off for pages that are opened afterwards.
func (b *browser) scripts(on bool) {
	b.Helper()
	b.do(chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		_, err := cdp.Call(ctx, t, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !on})
		return err
	}))
}

// dark turns the dark color scheme on or off.
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

// shoot saves a screenshot of the page if the flag -screenshots is set.
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

// axe returns the script axe-core, which checks the accessibility of pages. It downloads the script
// only once.
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

// checkAccessible checks the page with axe, in both color schemes. It also checks that the page fits a
// small phone.
func (b *browser) checkAccessible(view string) {
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
		b.Errorf("%s is %d px wide on a screen of 360 px", view, wide)
	}
	if view == "batch" {
		b.shoot(view + "-small")
	}
	b.do(chromedp.EmulateViewport(1200, 900))
	b.shoot(view)
}
