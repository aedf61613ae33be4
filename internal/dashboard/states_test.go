package dashboard

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// ended returns the mark of request i, which ended with a status code.
func ended(i, code int) storage.Mark {
	r := batch.Result{Status: batch.Succeeded, Code: code, Line: http.StatusText(code)}
	if code != http.StatusOK {
		r.Status = batch.Failed
	}
	at := time.Now()
	return storage.Mark{Index: i, State: storage.Done, Tries: storage.Tries{Attempts: 1, StartedAt: at, EndedAt: at}, Result: r}
}

func doubtful(i int) storage.Mark {
	m := ended(i, http.StatusGatewayTimeout)
	m.Tries.MaybeDone, m.Tries.InDoubt = true, true
	return m
}

// posts returns n requests.
func posts(n int) (out []batch.Request) {
	for i := range n {
		out = append(out, batch.Request{Method: "POST", Path: fmt.Sprintf("/things/%d", i)})
	}
	return out
}

// has checks that a page contains these texts.
func (w *world) has(what, page string, texts ...string) {
	w.Helper()
	for _, text := range texts {
		if !strings.Contains(page, text) {
			w.Errorf("%s lacks %q", what, text)
		}
	}
}

// lacks checks that a page contains none of these texts.
func (w *world) lacks(what, page string, texts ...string) {
	w.Helper()
	for _, text := range texts {
		if strings.Contains(page, text) {
			w.Errorf("%s has %q", what, text)
		}
	}
}

var yes = url.Values{"confirmed": {"yes"}}

// TestInDoubt checks that requests in doubt are labeled as such, and that only their own button
// repeats them.
func TestInDoubt(t *testing.T) {
	w := newWorld(t)
	b := w.create(posts(4)...)
	w.run(ended(0, 200), ended(1, 404), doubtful(2), doubtful(3))
	store := "/ui/stores/1003"
	at := store + "/batches/" + b.Ticket.String()
	page := w.page(at, "ann")
	w.has("the batch", page, `<dt>Failed</dt><dd class="bad">1</dd>`, `<dt>In doubt</dt><dd class="doubt">2</dd>`,
		`<span class="label l-IN_DOUBT">IN_DOUBT</span>`, `class="s-IN_DOUBT"`, "2 requests have an unknown outcome", `action="`+at+`/retry"`, "Repeat 2 in doubt…")
	w.has("those in doubt", w.page(at+"?status=IN_DOUBT", "ann"), "1 to 2 of 2 matching requests")
	w.has("those that failed", w.page(at+"?status=FAILED", "ann"), "1 to 1 of 1 matching requests")
	w.has("a request", w.page(at+"/requests/2", "ann"), "IN_DOUBT", "Check there before you repeat it")
	w.has("the list", w.page(store, "ann"), `<td class="n bad">1</td>`, `<td class="n doubt">2</td>`, "1 failed</span>", "2 in doubt</span>")

	ask := w.ask("POST", at+"/retry", "ann", url.Values{}).Body.String()
	w.has("the question", ask, "a batch of 1 request that failed", "2 requests are in doubt and left out", ">Retry 1 request<")
	ask = w.ask("POST", at+"/retry-in-doubt", "ann", url.Values{}).Body.String()
	w.has("the question about those in doubt", ask, "2 requests are in doubt", `class="danger">Repeat 2 requests<`)
	var retried []string
	for _, action := range []string{"/retry", "/retry-in-doubt"} {
		a := w.ask("POST", at+action, "ann", yes)
		if a.Code != http.StatusSeeOther {
			t.Fatalf("%s: %d %s", action, a.Code, a.Body)
		}
		page := w.page(a.Header().Get("Location"), "ann")
		for i := range 4 {
			if path := fmt.Sprintf("/things/%d<", i); strings.Contains(page, path) {
				retried = append(retried, action+path)
			}
		}
		w.run(ended(0, 200))
	}
	if got := strings.Join(retried, " "); got != "/retry/things/1< /retry-in-doubt/things/2< /retry-in-doubt/things/3<" {
		t.Errorf("the retries have %s", got)
	}

	only := w.create(posts(1)...)
	w.run(doubtful(0))
	page = w.page(store+"/batches/"+only.Ticket.String(), "ann")
	w.has("a batch with only requests in doubt", page, "1 request has an unknown outcome", "Repeat 1 in doubt…")
	w.lacks("a batch with only requests in doubt", page, `id="retry" `, "bad")
	w.has("the search", w.page(store+"/search?inDoubt=true", "ann"), `<span class="label l-in doubt">in doubt</span>`)
}

// TestWaiting checks that the pages say what a queue waits for.
func TestWaiting(t *testing.T) {
	w := newWorld(t)
	b, next := w.create(posts(2)...), w.create(posts(1)...)
	for reason, texts := range map[storage.WaitReason][2]string{
		storage.ForUpstream:   {"The API is unavailable. Waiting for it since ", "waits for the API since "},
		storage.ForCredential: {"The API no longer accepts the token. Waiting for a new one since ", "waits for a new token since "},
	} {
		c, err := w.node.Claim(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		c.Waits = reason
		if err := w.node.Release(t.Context(), c, nil, time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"", "/batches/" + b.Ticket.String(), "/batches/" + next.Ticket.String()} {
			page := w.page("/ui/stores/1003"+path, "ann")
			checkMarkup(t, path, page)
			w.has("the page "+path, page, texts[0], "waiting</")
			w.lacks("the page "+path, page, "Waiting until")
		}
		page := w.page("/ui/operator", "operator")
		w.has("all stores", page, texts[1], "<strong class=\"bad\">The API is unavailable</strong>", "3 stores wait on this node")
	}
}

// TestInDoubtMatching checks that a retry of many batches leaves out requests in doubt, and says so.
func TestInDoubtMatching(t *testing.T) {
	w := newWorld(t)
	w.create(posts(2)...)
	w.run(ended(0, 404), doubtful(1))
	matching := "/ui/stores/1003/matching/retry"
	ask := w.ask("POST", matching, "ann", url.Values{}).Body.String()
	w.has("the question", ask, "This retries 1 request of 1 batch", "1 request is in doubt and left out", ">Retry 1 request<", ">Also repeat the 1 in doubt<",
		`<input type="hidden" name="repeatInDoubt" value="true">`)
	form := url.Values{"confirmed": {"yes"}, "repeatInDoubt": {"true"}}
	a := w.ask("POST", matching, "ann", form)
	if a.Code != http.StatusSeeOther {
		t.Fatalf("%d %s", a.Code, a.Body)
	}
	c, err := w.node.Claim(t.Context(), 1)
	if err != nil || c.Total != 2 {
		t.Errorf("the retry is %+v, %v; want both requests", c, err)
	}
}

// TestThrottledBar checks that a throttled request's bar begins with the throttled time and ends
// with the attempt that had the outcome.
func TestThrottledBar(t *testing.T) {
	begin := time.Now().Add(-100 * time.Second)
	after := func(s int) time.Time { return begin.Add(time.Duration(s) * time.Second) }
	line := timeline{StartedAt: begin, FinishedAt: after(100), Requests: []progress{{
		Status: "COMPLETED", Attempts: 3, Throttles: 2, StartedAt: after(10), ThrottledAt: after(11), LastAttemptAt: after(60), EndedAt: after(80),
	}, {
		Status: "FAILED", Attempts: 3, Throttles: 3, StartedAt: after(10), ThrottledAt: after(11), EndedAt: after(80),
	}}}
	f := newWaterfall(&line, time.Now())
	for i, want := range []string{"100.0+500.0 then 600.0+200.0", "100.0+700.0 then 798.0+2.0"} {
		b := f.Lines[i]
		if got := b.Throttled + "+" + b.ThrottledWidth + " then " + b.Start + "+" + b.Width; got != want {
			t.Errorf("request %d is drawn at %s, want %s", i, got, want)
		}
	}
}

// TestPausedQueue checks that batches in a paused queue are shown as paused on every page.
func TestPausedQueue(t *testing.T) {
	w := newWorld(t)
	b := w.create(posts(2)...)
	if _, err := w.node.Claim(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	store := "/ui/stores/1003"
	at := store + "/batches/" + b.Ticket.String()
	w.has("the list before", w.page(store, "ann"), ">running</span>")
	if a := w.ask("POST", store+"/queue/pause", "ann", yes); a.Code != http.StatusSeeOther {
		t.Fatalf("%d %s", a.Code, a.Body)
	}
	for _, path := range []string{store, store + "/search"} {
		page := w.page(path, "ann")
		w.has(path, page, ">paused</span>")
		w.lacks(path, page, ">running</span>")
	}
	page := w.page(at, "ann")
	w.has("the batch", page, "paused with its queue", `id="queue" href="`+store+`"`)
	w.lacks("the batch", page, "Resume")
	w.ask("POST", store+"/queue/resume", "ann", yes)
	w.ask("POST", at+"/pause", "ann", yes)
	w.has("a batch that is paused alone", w.page(at, "ann"), "<span>paused</span>", "Resume")
}

// TestStoppedBatch checks that requests that were not executed don't count as progress.
func TestStoppedBatch(t *testing.T) {
	w := newWorld(t)
	b := w.create(posts(4)...)
	w.run(ended(0, 200))
	page := w.page("/ui/stores/1003/batches/"+b.Ticket.String(), "ann")
	w.has("the batch", page, "<strong>25 %</strong>", "25 percent of the requests have run", "ended; 3 of 4 requests were not executed", `max="4" value="1"`)
	w.lacks("the batch", page, "100 %")
}

// TestOptions checks that the page of a batch shows the options that it was created with.
func TestOptions(t *testing.T) {
	w := newWorld(t)
	show := func(o batch.Options) string {
		b := &storage.NewBatch{Ticket: uuid.New(), Store: "1003", Owner: batch.OwnerOf("ann"), Queue: "q", Options: o, Requests: posts(1)}
		if _, err := w.node.Create(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		return w.page("/ui/stores/1003/batches/"+b.Ticket.String(), "ann")
	}
	page := show(batch.Options{
		Parallel: true, StopOnFailure: true, Concurrency: 7, Retries: new(0), Backoff: batch.Backoff{First: time.Second, Most: time.Minute},
		Success: batch.Success{Codes: "2xx,404", FailWhen: []string{"/<b>"}},
	})
	w.has("every option", page, "in parallel, at most 7 at once", "stops on first failure", "at most 0 retries", "retry pauses exponential:1s..1m", "success is 2xx,404", "a value at <code>/&lt;b&gt;</code>")
	page = show(batch.Options{Parallel: true, Concurrency: 1})
	w.has("one at a time", page, "in order")
	w.lacks("one at a time", page, "parallel", "retries", "success is", "fails with")
}

// with requests a page, with the cookies that an earlier answer set.
func (w *world) with(path, token string, from *httptest.ResponseRecorder) *httptest.ResponseRecorder {
	w.Helper()
	r := w.request("GET", path, token)
	for _, c := range from.Result().Cookies() {
		if c.Name != cookieName {
			r.AddCookie(c)
		}
	}
	out := httptest.NewRecorder()
	w.d.ServeHTTP(out, r)
	return out
}

// TestSignedIn checks that a user stays signed in on every page.
func TestSignedIn(t *testing.T) {
	w := newWorld(t)
	first := w.ask("GET", "/ui/", "ann", nil)
	w.has("the first page", first.Body.String(), "You are signed in", `name="store"`)
	w.lacks("the first page", first.Body.String(), `name="token"`)
	if a := w.ask("GET", "/ui/?store=1003", "ann", nil); a.Header().Get("Location") != "/ui/stores/1003" {
		t.Errorf("a chosen store leads to %d %q", a.Code, a.Header().Get("Location"))
	}
	seen := w.ask("GET", "/ui/stores/1003", "ann", nil)
	if a := w.with("/ui/", "ann", seen); a.Header().Get("Location") != "/ui/stores/1003" {
		t.Errorf("the next visit leads to %d %q", a.Code, a.Header().Get("Location"))
	}
	w.lacks("an ordinary user's page", seen.Body.String(), "All stores")

	refused := w.ask("GET", "/ui/operator", "ann", nil)
	if refused.Code != http.StatusForbidden || len(refused.Result().Cookies()) != 0 {
		t.Errorf("all stores for an ordinary user: %d %v", refused.Code, refused.Result().Cookies())
	}
	w.has("the refusal", refused.Body.String(), "This key may not operate.", "Sign out")
	w.lacks("the refusal", refused.Body.String(), `name="token"`)
	unknown := w.ask("GET", "/ui/operator", "stranger", nil)
	w.has("the refusal of a token that isn't an operator's key", unknown.Body.String(), "This key is unknown.", "Sign out")
	w.lacks("the refusal of a token that isn't an operator's key", unknown.Body.String(), `name="token"`)
	if a := w.ask("GET", "/ui/operator", "", nil); a.Code != http.StatusUnauthorized || !strings.Contains(a.Body.String(), `name="token"`) {
		t.Errorf("all stores without a token: %d", a.Code)
	}

	all := w.ask("GET", "/ui/operator", "operator", nil)
	w.has("an operator's page", all.Body.String(), `href="/ui/operator" aria-current="page"`)
	if a := w.with("/ui/", "operator", all); a.Header().Get("Location") != "/ui/operator" {
		t.Errorf("an operator's next visit leads to %d %q", a.Code, a.Header().Get("Location"))
	}
	w.has("another page of an operator", w.with("/ui/stores/1003", "operator", all).Body.String(), "All stores")
}

// TestQuarantine checks that only an operator can release or end a quarantined batch, and only after
// confirming it on this site.
func TestQuarantine(t *testing.T) {
	w := newWorld(t)
	tickets := make([]string, 2)
	for i := range tickets {
		tickets[i] = w.create(posts(2)...).Ticket.String()
		c, err := w.node.Claim(t.Context(), 1)
		if err == nil {
			err = w.node.Quarantine(t.Context(), c, evil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	at := func(ticket, action string) string { return "/ui/operator/quarantine/" + ticket + "/" + action }
	page := w.page("/ui/operator", "operator")
	checkMarkup(t, "all stores", page)
	w.has("all stores", page, "<h2 id=\"qu\">Quarantined batches</h2>", tickets[0], tickets[1], "<td>1003</td>")

	for _, action := range []string{"release", "end"} {
		if a := w.ask("POST", at(tickets[0], action), "ann", yes); a.Code != http.StatusForbidden {
			t.Errorf("%s by an ordinary user: %d", action, a.Code)
		}
		if a := w.ask("POST", at(tickets[0], action), "operator", yes, "Sec-Fetch-Site", "cross-site"); a.Code != http.StatusForbidden {
			t.Errorf("%s by another site: %d", action, a.Code)
		}
		ask := w.ask("POST", at(tickets[0], action), "operator", url.Values{})
		w.has(action, ask.Body.String(), tickets[0], `name="confirmed"`)
	}
	if a := w.ask("POST", at(tickets[0], "delete"), "operator", yes); a.Code != http.StatusNotFound {
		t.Errorf("another action: %d", a.Code)
	}
	w.has("all stores, before any action", w.page("/ui/operator", "operator"), tickets[0], tickets[1])

	for i, action := range []string{"release", "end"} {
		if a := w.ask("POST", at(tickets[i], action), "operator", yes); a.Header().Get("Location") != "/ui/operator?notice=aside-"+action {
			t.Errorf("%s: %d %v", action, a.Code, a.Header())
		}
	}
	w.lacks("all stores", w.page("/ui/operator", "operator"), tickets[0], tickets[1])
	list := w.page("/ui/stores/1003", "ann")
	w.has("the store", list, ">running</span>", ">cut short</span>")
	if a := w.ask("POST", at(tickets[0], "end"), "operator", yes); a.Code != http.StatusNotFound {
		t.Errorf("a batch that is not quarantined: %d", a.Code)
	}
}
