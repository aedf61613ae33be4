package dashboard

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/api"
	"github.com/sheafapi/sheaf/internal/auth"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/sqlite"
	"github.com/sheafapi/sheaf/internal/telemetry"
	"golang.org/x/net/html"
)

// world is a dashboard with the real API and a SQLite database.
type world struct {
	*testing.T
	node *sqlite.DB
	d    *Dashboard
	logs bytes.Buffer
}

func newWorld(t *testing.T) *world {
	w := &world{T: t}
	log := slog.New(slog.NewTextHandler(&w.logs, nil))
	var err error
	if w.node, err = sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "sheaf.db"), sqlite.Options{Logger: log}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.node.Close(); err != nil {
			t.Error(err)
		}
	})
	service := api.New(api.Options{
		Storage: w.node, Callbacks: w.node, Operations: w.node, Seal: func(batch.Ticket, string, string) ([]byte, error) { return []byte("sealed"), nil },
		Wake: func(storage.QueueID) {}, Notify: func(storage.QueueID) {}, Ready: func(context.Context) error { return nil },
		Authorize: new(auth.Gate).Authorize,
		AuthorizeOperator: func(_ *http.Request, token string) error {
			if token == "stranger" {
				return &auth.Refusal{Status: http.StatusUnauthorized, Reason: "This key is unknown."}
			}
			if token != "operator" {
				return &auth.Refusal{Status: http.StatusForbidden, Reason: "This key may not operate."}
			}
			return nil
		},
		Node: func() telemetry.Node {
			n := telemetry.Node{Version: "v1", Upstream: telemetry.Health{Codes: map[string]int{}}}
			n.Outage, n.Parked = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), 3
			return n
		},
		MaxBody: batch.DefaultMaxBody, MaxAnswer: 5 << 20, Logger: log,
	})
	w.d = New(service, log)
	return w
}

// ask requests a page as a browser that is signed in with the token would.
func (w *world) ask(method, path, token string, form url.Values, headers ...string) *httptest.ResponseRecorder {
	w.Helper()
	r := httptest.NewRequest(method, "http://sheaf.example"+path, strings.NewReader(form.Encode()))
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if token != "" {
		r.AddCookie(&http.Cookie{Name: cookieName, Value: w.d.sessions.begin(token, r.RemoteAddr)})
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	out := httptest.NewRecorder()
	w.d.ServeHTTP(out, r)
	return out
}

// request returns a request like ask's, without a form.
func (w *world) request(method, path, token string) *http.Request {
	r := httptest.NewRequest(method, "http://sheaf.example"+path, nil)
	r.AddCookie(&http.Cookie{Name: cookieName, Value: w.d.sessions.begin(token, r.RemoteAddr)})
	return r
}

// page returns a page that must exist.
func (w *world) page(path, token string) string {
	w.Helper()
	a := w.ask("GET", path, token, nil)
	if a.Code != http.StatusOK {
		w.Fatalf("GET %s: %d %s", path, a.Code, a.Body)
	}
	return a.Body.String()
}

// create stores a batch for Ann.
func (w *world) create(requests ...batch.Request) *storage.NewBatch {
	w.Helper()
	owner := batch.OwnerOf("ann")
	b := &storage.NewBatch{
		Ticket: uuid.New(), Store: "1003", Owner: owner, Queue: fmt.Sprintf("1003/%x", owner), Requests: requests, Credential: []byte("sealed"),
	}
	if _, err := w.node.Create(w.Context(), b); err != nil {
		w.Fatal(err)
	}
	return b
}

// run claims the first queue and ends its batch with these marks.
func (w *world) run(marks ...storage.Mark) {
	w.Helper()
	c, err := w.node.Claim(w.Context(), 1)
	if err != nil {
		w.Fatal(err)
	}
	if _, err := w.node.Finish(w.Context(), c, marks, "", true); err != nil {
		w.Fatal(err)
	}
}

const evil = `"><script>alert(1)</script><img src=x onerror=alert(1)>'` + "`"

// TestNothingBecomesMarkup checks that text from callers and from the upstream stays text on every
// page.
func TestNothingBecomesMarkup(t *testing.T) {
	w := newWorld(t)
	b := w.create(batch.Request{ID: evil, Method: "POST", Path: "/x?" + url.QueryEscape(evil), Body: []byte(`{"a":"</pre><script>alert(1)</script>"}`), Links: &batch.Links{
		Headers: []batch.Header{{Name: "X-A", Value: evil}},
	}}, batch.Request{Method: "GET", Path: "/y"})
	b2 := &storage.NewBatch{Ticket: uuid.New(), Store: b.Store, Owner: b.Owner, Queue: b.Queue, GroupID: evil, Requests: b.Requests[1:]}
	if _, err := w.node.Create(t.Context(), b2); err != nil {
		t.Fatal(err)
	}
	result := batch.Result{
		Status: batch.Failed, Code: 500, Line: evil, Body: []byte(evil), Kind: batch.TextBody, Headers: []batch.Header{{Name: "X-" + evil, Value: evil}},
	}
	now := time.Now()
	w.run(storage.Mark{State: storage.Done, Tries: storage.Tries{Attempts: 1, StartedAt: now, EndedAt: now}, Result: result},
		storage.Mark{Index: 1, State: storage.Done, Result: batch.Result{Status: batch.NotExecuted, Line: evil}})
	store := "/ui/stores/1003"
	at := store + "/batches/" + b.Ticket.String()
	for _, path := range []string{
		"/ui/?store=" + url.QueryEscape(evil), store, store + "/search?groupId=" + url.QueryEscape(evil) + "&path=" + url.QueryEscape(evil) + "&createdFrom=" + url.QueryEscape(evil),
		store + "/search?status=UNFINISHED", at, at + "?status=" + url.QueryEscape(evil), at + "?code=500", at + "/requests/0", at + "/requests/1",
		store + "/batches/" + b2.Ticket.String(), "/ui/" + url.PathEscape(evil), "/ui/stores/" + url.PathEscape(evil),
		store + "/batches/" + url.PathEscape(evil), at + "?notice=" + url.QueryEscape(evil),
	} {
		checkMarkup(t, path, w.ask("GET", path, "ann", nil).Body.String())
	}
	form := url.Values{"groupId": {evil}, "path": {evil}}
	checkMarkup(t, "confirm", w.ask("POST", store+"/matching/cancel", "ann", form).Body.String())
	checkMarkup(t, "sign in", w.ask("POST", "/ui/sign-in", "", url.Values{"store": {evil}, "token": {"x"}, "next": {evil}}).Body.String())
	if w.logs.Len() > 0 {
		t.Errorf("logged: %s", w.logs.String())
	}
	page := w.page(at+"/requests/0", "ann")
	if !strings.Contains(page, html.EscapeString("</pre><script>alert(1)</script>")) && !strings.Contains(page, "&lt;/pre&gt;") {
		t.Error("the request's body is not shown")
	}
}

// checkMarkup parses a page and reports markup that no template contains.
func checkMarkup(t *testing.T, path, page string) {
	t.Helper()
	root, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	var walk func(*html.Node)
	walk = func(n *html.Node) {
		if n.Type == html.ElementNode {
			for _, a := range n.Attr {
				if strings.HasPrefix(a.Key, "on") || a.Key == "style" || (a.Key == "href" || a.Key == "src" || a.Key == "action") && !strings.HasPrefix(a.Val, "/") && !strings.HasPrefix(a.Val, "#") {
					t.Errorf("%s: <%s %s=%q>", path, n.Data, a.Key, a.Val)
				}
			}
			if n.Data == "img" || n.Data == "style" || n.Data == "script" && (n.FirstChild != nil || !strings.HasPrefix(n.Attr[0].Val, "/ui/assets/live.js")) {
				t.Errorf("%s has a <%s>", path, n.Data)
			}
		}
		for c := n.FirstChild; c != nil; c = c.NextSibling {
			walk(c)
		}
	}
	walk(root)
}

// TestHeaders checks that every answer restricts browsers to this service's own files.
func TestHeaders(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{"/ui/", "/ui/assets/style.css", "/ui/nothing", "/ui/stores/1003"} {
		h := w.ask("GET", path, "", nil).Header()
		csp := h.Get("Content-Security-Policy")
		if !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") || strings.Contains(csp, "data:") || !strings.Contains(csp, "frame-ancestors 'none'") {
			t.Errorf("%s: Content-Security-Policy: %s", path, csp)
		}
		if got := h.Get("X-Content-Type-Options"); got != "nosniff" {
			t.Errorf("%s: X-Content-Type-Options: %s", path, got)
		}
		if cached := strings.Contains(h.Get("Cache-Control"), "immutable"); cached != strings.Contains(path, "assets") {
			t.Errorf("%s: Cache-Control: %s", path, h.Get("Cache-Control"))
		}
	}
}

// TestSignIn checks that scripts and other sites can't reach the token and that no page contains it.
func TestSignIn(t *testing.T) {
	w := newWorld(t)
	const token = "s3cret-token"
	a := w.ask("POST", "/ui/sign-in", "", url.Values{"store": {"1003"}, "token": {" Bearer " + token + " "}}, "Sec-Fetch-Site", "same-origin")
	c := a.Result().Cookies()
	if a.Code != http.StatusSeeOther || a.Header().Get("Location") != "/ui/stores/1003" || len(c) != 1 {
		t.Fatalf("%d %v", a.Code, a.Header())
	}
	if strings.Contains(c[0].String(), token) || len(c[0].Value) < 26 || c[0].Name != "sheaf_session" || !c[0].HttpOnly || c[0].SameSite != http.SameSiteLaxMode || c[0].Path != "/ui/" || c[0].MaxAge != 0 || c[0].Secure {
		t.Errorf("the cookie: %+v", c[0])
	}
	if c := w.ask("POST", "/ui/sign-in", "", url.Values{"store": {"1003"}, "token": {token}}, "X-Forwarded-Proto", "https").Result().Cookies(); !c[0].Secure || c[0].Name != "__Host-sheaf_session" || c[0].Path != "/" || c[0].Domain != "" {
		t.Errorf("the cookie behind TLS: %+v", c[0])
	}
	if strings.Contains(w.page("/ui/stores/1003", token), token) {
		t.Error("the token is in a page")
	}
	for next, want := range map[string]string{
		"/ui/stores/1003/search?code=500": "/ui/stores/1003/search?code=500",
		"https://evil.example/ui/":        "/ui/stores/1003", "//evil.example/ui/": "/ui/stores/1003", "/\\evil.example/ui/": "/ui/stores/1003",
		"/api/v3/1003/batch": "/ui/stores/1003", "javascript:alert(1)": "/ui/stores/1003", "/ui/../api": "/ui/stores/1003",
	} {
		if got := w.ask("POST", "/ui/sign-in", "", url.Values{"store": {"1003"}, "token": {token}, "next": {next}}).Header().Get("Location"); got != want {
			t.Errorf("signing in with next=%q leads to %q, want %q", next, got, want)
		}
	}
	for name, form := range map[string]url.Values{
		"Enter a token.":                {"store": {"1003"}},
		"too long for the dashboard":    {"store": {"1003"}, "token": {strings.Repeat("x", maxToken+1)}},
		"allowed in a Bearer token":     {"store": {"1003"}, "token": {"a b"}},
		"The store id in the path must": {"store": {"a b"}, "token": {token}},
		"This key may not operate.":     {"token": {token}},
	} {
		a := w.ask("POST", "/ui/sign-in", "", form)
		if a.Code != http.StatusForbidden || !strings.Contains(a.Body.String(), name) || len(a.Result().Cookies()) != 0 {
			t.Errorf("%q: %d %v", name, a.Code, a.Result().Cookies())
		}
	}
	if a := w.ask("POST", "/ui/sign-in", "", url.Values{"token": {"operator"}}); a.Header().Get("Location") != "/ui/operator" {
		t.Errorf("an operator is redirected to %q", a.Header().Get("Location"))
	}
	if c := w.ask("POST", "/ui/sign-out", token, nil).Result().Cookies(); len(c) != 1 || c[0].MaxAge >= 0 || c[0].Value != "" {
		t.Errorf("signed out: %+v", c)
	}
}

// TestOtherSites checks that no other site can make a signed-in browser change anything.
func TestOtherSites(t *testing.T) {
	w := newWorld(t)
	b := w.create(batch.Request{Method: "GET", Path: "/x"})
	at := "/ui/stores/1003/batches/" + b.Ticket.String()
	yes := url.Values{"confirmed": {"yes"}}
	for _, headers := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}} {
		for _, path := range []string{at + "/cancel", at + "/pause", "/ui/stores/1003/matching/cancel", "/ui/stores/1003/queue/pause", "/ui/sign-in", "/ui/sign-out"} {
			if a := w.ask("POST", path, "ann", yes, headers...); a.Code != http.StatusForbidden || len(a.Result().Cookies()) != 0 {
				t.Errorf("%s with %v: %d", path, headers, a.Code)
			}
		}
	}
	for _, path := range []string{at + "/cancel", at + "/pause", "/ui/stores/1003/matching/cancel"} {
		if a := w.ask("GET", path, "ann", nil); a.Code == http.StatusSeeOther {
			t.Errorf("GET %s changes something", path)
		}
	}
	if page := w.page(at, "ann"); !strings.Contains(page, "<span>queued</span>") || strings.Contains(page, "paused") {
		t.Error("the batch was changed")
	}
	if a := w.ask("POST", at+"/cancel", "ann", url.Values{}); a.Code != http.StatusOK || !strings.Contains(a.Body.String(), "Cancel this batch?") {
		t.Errorf("without a confirmation: %d", a.Code)
	}
	a := w.ask("POST", at+"/cancel", "ann", yes, "Sec-Fetch-Site", "same-origin", "Origin", "http://sheaf.example")
	if a.Code != http.StatusSeeOther || !strings.Contains(w.page(at, "ann"), "ended") {
		t.Errorf("canceled by its own page: %d", a.Code)
	}
}

// TestFiveHundred checks that a batch of 500 requests is listed page by page and has an overview.
func TestFiveHundred(t *testing.T) {
	w := newWorld(t)
	requests := make([]batch.Request, 500)
	marks := make([]storage.Mark, 500)
	begin := time.Now().Add(-time.Minute)
	for i := range requests {
		requests[i] = batch.Request{Method: "GET", Path: fmt.Sprintf("/things/%d", i)}
		result := batch.Result{Status: batch.Succeeded, Code: 200, Line: "OK"}
		if i%100 == 7 {
			result.Status, result.Code = batch.Failed, 503
		}
		at := begin.Add(time.Duration(i) * 100 * time.Millisecond)
		marks[i] = storage.Mark{Index: i, State: storage.Done, Result: result, Tries: storage.Tries{Attempts: 1, StartedAt: at, EndedAt: at.Add(90 * time.Millisecond)}}
	}
	b := w.create(requests...)
	w.run(marks...)
	at := "/ui/stores/1003/batches/" + b.Ticket.String()
	seen := map[string]bool{}
	link := regexp.MustCompile(`/requests/(\d+)"`)
	for path := at; path != ""; {
		page := w.page(path, "ann")
		found := link.FindAllStringSubmatch(page, -1)
		if len(found) != rowsPerPage {
			t.Fatalf("%s lists %d requests", path, len(found))
		}
		for _, f := range found {
			seen[f[1]] = true
		}
		if n := strings.Count(page, `height="2"/>`); n < 500 {
			t.Errorf("the overview has %d lines", n)
		}
		path = ""
		if m := regexp.MustCompile(`href="([^"]+)">Next<`).FindStringSubmatch(page); m != nil {
			path = html.UnescapeString(m[1])
		}
	}
	if len(seen) != 500 {
		t.Errorf("%d requests are listed", len(seen))
	}
	page := w.page(at+"?status=FAILED&code=503", "ann")
	if n := len(link.FindAllString(page, -1)); n != 5 || !strings.Contains(page, "1 to 5 of 5 matching requests") {
		t.Errorf("%d failed requests are listed", n)
	}
	for _, from := range []string{"-1", "500", "x", "99999999999999999999"} {
		if !strings.Contains(w.page(at+"?from="+from, "ann"), "1 to 100 of 500") {
			t.Errorf("from=%s", from)
		}
	}
}

// TestSpan checks the format of durations.
func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-1: "0 s", 0: "0 ms", 1500 * time.Microsecond: "1 ms", 2500 * time.Millisecond: "2.5 s", 59 * time.Second: "59 s",
		61 * time.Second: "1 min 1 s", 3*time.Hour + 5*time.Minute: "3 h 5 min", 72 * time.Hour: "3 days",
	} {
		if got := span(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}

// TestCurl checks that special characters in a request are quoted for the shell.
func TestCurl(t *testing.T) {
	c := createdRequest{Method: "PATCH", Path: "x?q=$(id)'", Headers: map[string]string{"If-Match": `"a"`}, Body: []byte(`{"a":"it's"}`)}
	want := `curl -X PATCH "$API"'/x?q=$(id)'\''' \` + "\n" + `  -H "Authorization: Bearer $TOKEN" \` + "\n" + `  -H 'If-Match: "a"' \` + "\n" +
		`  -H 'Content-Type: application/json' \` + "\n" + `  --data-binary '{"a":"it'\''s"}'`
	if got := curl(&c); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
