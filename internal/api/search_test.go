package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/auth"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/engine"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/telemetry"
)

// listing is the answer to a search.
type listing struct {
	Items []struct {
		Ticket, Status, GroupID, RetryOf                 string
		TotalRequests, CompletedRequests, FailedRequests int
		Retried                                          bool
	}
	Next int
}

// search finds batches. It fails the test if the answer isn't 200.
func (w *world) search(query string) (l listing) {
	w.t.Helper()
	a := w.do("GET", base+"/search"+query)
	if err := json.Unmarshal([]byte(a.body), &l); err != nil || a.status != 200 {
		w.t.Fatalf("search%s: %d %s", query, a.status, a.body)
	}
	return l
}

// expectFound searches page by page and compares the tickets.
func (w *world) expectFound(query string, want ...string) {
	w.t.Helper()
	var got []string
	for after := ""; ; {
		l := w.search(query + after)
		for _, b := range l.Items {
			got = append(got, b.Ticket)
		}
		if l.Next == 0 {
			break
		}
		after = fmt.Sprint("&after=", l.Next)
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		w.t.Errorf("search%s: got %q, want %q", query, got, want)
	}
}

// TestFind: batches are found by each condition, and by all conditions together.
func TestFind(t *testing.T) {
	w := newWorld(t, nil)
	first := w.create("?stopOnFirstFailure=false&groupId=spring", 2)
	second := w.ticket(w.post("?groupId=spring", `[{"method":"GET","path":"/orders?q=%C3%BC"}]`))
	third := w.create("", 1)
	c := w.claim()
	w.record(c, done(0, 200, `{}`), done(1, 503, `{}`))
	w.finish(c, "")
	w.record(w.claim(), done(0, 200, `{}`))

	w.expectFound("?limit=1", third, second, first)
	w.expectFound("?limit=1&status=UNFINISHED", second, third)
	w.expectFound("?status=QUEUED", third)
	w.expectFound("?status=COMPLETED", first)
	w.expectFound("?groupId=spring&limit=1", second, first)
	w.expectFound("?failed=true", first)
	w.expectFound("?code=503", first)
	w.expectFound("?code=200&limit=1", second, first)
	w.expectFound("?path=orders%3Fq%3D%25C3%25BC", second)
	w.expectFound("?path=nothing")
	w.expectFound("?createdFrom=2100-01-01T00:00:00Z")
	w.expectFound("?createdTo=2100-01-01T00:00:00%2B02:00&groupId=spring&failed=1&code=503&path=things", first)

	l := w.search("?failed=true")
	if b := l.Items[0]; b.TotalRequests != 2 || b.CompletedRequests != 2 || b.FailedRequests != 1 || b.GroupID != "spring" || b.Retried {
		t.Errorf("the batch is %+v", b)
	}
	for query, place := range map[string]string{
		"?status=DONE": "status", "?createdFrom=yesterday": "createdFrom", "?createdTo=1": "createdTo", "?failed=perhaps": "failed",
		"?code=99": "code", "?path=" + strings.Repeat("x", 257): "path", "?after=0": "after", "?limit=101": "limit",
		"?groupId=" + strings.Repeat("g", 257): "groupId", "?path=a&path=b": "path",
	} {
		a := w.do("GET", base+"/search"+query)
		if a.status != 400 || a.code(t) != "WRONG_PARAMETER" || !strings.Contains(a.body, "Parameter "+place+" ") {
			t.Errorf("search%s: %d %s", query, a.status, a.body)
		}
	}
	r := w.request("GET", base+"/search", nil)
	r.Header.Set("Authorization", "Bearer another")
	if a := w.send(r); a.body != `{"items":[]}` {
		t.Errorf("another caller finds %s", a.body)
	}
}

// TestCancelMatching: a dry run changes nothing. A real call stops the matching batches and no
// others.
func TestCancelMatching(t *testing.T) {
	w := newWorld(t, nil)
	var spring []string
	for range 40 {
		spring = append(spring, w.create("?groupId=spring", 1))
	}
	other := w.create("", 1)
	w.claim()
	w.checkQueues("woken", &w.woken, w.woken...)
	if a := w.do("POST", base+"/cancel-matching?groupId=spring&dryRun=true"); a.body != `{"matched":40}` {
		t.Errorf("counted: %s", a.body)
	}
	w.expectFound("?status=COMPLETED")
	if a := w.do("POST", base+"/cancel-matching?groupId=spring"); a.body != `{"matched":40,"updateCount":40}` {
		t.Errorf("stopped: %s", a.body)
	}
	w.checkQueues("the running batch's queue is notified", &w.notified, 1)
	w.expectFound("?status=UNFINISHED", spring[0], other)
	if a := w.do("POST", base+"/cancel-matching"); a.body != `{"matched":2,"updateCount":1}` {
		t.Errorf("stopped again, with the rest: %s", a.body)
	}
	if a := w.do("POST", base+"/cancel-matching?code=1"); a.status != 400 {
		t.Errorf("a bad filter: %d %s", a.status, a.body)
	}
}

// TestCancelMatchingAlone: if the client disconnects midway, the service keeps working.
func TestCancelMatchingAlone(t *testing.T) {
	w := newWorld(t, nil)
	for range 5 {
		w.create("", 1)
	}
	ctx, leave := context.WithCancel(t.Context())
	given := make(chan struct{}, 5)
	w.node.SetGate(func(ctx context.Context, op string) error {
		if op == "Stop" {
			leave()
			<-ctx.Done()
			given <- struct{}{}
			return ctx.Err() // otherwise the database may still stop one batch
		}
		return nil
	})
	if _, err := try(w.request("POST", base+"/cancel-matching", nil).WithContext(ctx)); err == nil {
		t.Error("it was answered")
	}
	for range 5 { // without the gate, a late call could still stop its batch
		<-given
	}
	w.node.SetGate(nil)
	if a := w.do("POST", base+"/cancel-matching"); a.body != `{"matched":5,"updateCount":5}` {
		t.Errorf("the service answers %d %s", a.status, a.body)
	}
}

// TestRetryMatching: failed requests are retried once, however many calls there are. If a quota
// ends a call midway, the next call retries the rest.
func TestRetryMatching(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxQueued = 5 })
	var failed []string
	for i := range 4 {
		ticket := w.create("?stopOnFirstFailure=false", 2)
		if i%2 == 1 {
			failed = append(failed, ticket)
		}
		c := w.claim()
		w.record(c, done(0, 200, `{}`), done(1, []int{200, 503}[i%2], `{}`))
		w.finish(c, "")
	}
	if a := w.do("POST", base+"/retry-matching?dryRun=1"); a.body != `{"matched":2,"totalRequests":2,"inDoubtRequests":0}` {
		t.Errorf("counted: %s", a.body)
	}
	if a := w.do("POST", base+"/retry-matching?code=503&status=COMPLETED"); a.body != `{"matched":2,"createdCount":2,"inDoubtRequests":0}` {
		t.Errorf("repeated: %s", a.body)
	}
	if a := w.do("POST", base+"/retry-matching"); a.body != `{"matched":0,"createdCount":0,"inDoubtRequests":0}` {
		t.Errorf("repeated again: %s", a.body)
	}
	runs := w.search("?status=UNFINISHED").Items
	if len(runs) != 2 || runs[0].RetryOf != failed[0] || runs[1].RetryOf != failed[1] {
		t.Errorf("the next batches are %+v, want the retries of %v in that order", runs, failed)
	}

	full := newWorld(t, func(o *Options) { o.MaxQueued = 3 })
	for range 4 {
		full.create("", 1)
		c := full.claim()
		full.record(c, done(0, 500, ``))
		full.finish(c, "")
	}
	a := full.do("POST", base+"/retry-matching")
	if a.status != 429 || !strings.Contains(a.body, "3 batches were changed before this error") {
		t.Errorf("with a quota of 3: %d %s", a.status, a.body)
	}
	for range 3 {
		c := full.claim()
		full.record(c, done(0, 200, ``))
		full.finish(c, "")
	}
	if a := full.do("POST", base+"/retry-matching"); a.body != `{"matched":1,"createdCount":1,"inDoubtRequests":0}` {
		t.Errorf("the rest: %s", a.body)
	}
}

// TestRetryMatchingTwice: the later of two concurrent calls retries nothing, even if the batches of
// the other call have ended by then.
func TestRetryMatchingTwice(t *testing.T) {
	w := newWorld(t, nil)
	w.create("", 1)
	c := w.claim()
	w.record(c, done(0, 500, ``))
	w.finish(c, "")
	found, release := make(chan struct{}), make(chan struct{})
	var calls atomic.Int32
	w.node.SetGate(func(_ context.Context, op string) error {
		if op == "Status" && calls.Add(1) == 1 {
			close(found)
			<-release
		}
		return nil
	})
	late := make(chan string, 1)
	go func() {
		a, err := try(w.request("POST", base+"/retry-matching", nil))
		late <- fmt.Sprint(a.body, err)
	}()
	<-found
	if a := w.do("POST", base+"/retry-matching"); a.body != `{"matched":1,"createdCount":1,"inDoubtRequests":0}` {
		t.Errorf("the first: %s", a.body)
	}
	c = w.claim()
	w.record(c, done(0, 200, ``))
	w.finish(c, "")
	close(release)
	if got := <-late; got != `{"matched":1,"createdCount":0,"inDoubtRequests":0}<nil>` {
		t.Errorf("the later one: %s", got)
	}
}

// TestRequestsTextBodies: a body that was created as a JSON string is returned as a JSON string,
// whatever its text.
func TestRequestsTextBodies(t *testing.T) {
	w := newWorld(t, nil)
	for _, text := range []string{"hello", "", `1},{"index":9,"method":"DELETE","path":"/forged"`, "\"", "\u0001", "{", "[1]x"} {
		body, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		ticket := w.ticket(w.post("", `[{"method":"POST","path":"/a","body":`+string(body)+`}]`))
		var got struct{ Requests []struct{ Body string } }
		a := w.do("GET", base+"/requests?ticket="+ticket)
		if err := json.Unmarshal([]byte(a.body), &got); err != nil || len(got.Requests) != 1 || got.Requests[0].Body != text {
			t.Errorf("%q: %v, %s", text, err, a.body)
		}
	}
}

// TestRequests: requests are returned as they were created, and only to their creator.
func TestRequests(t *testing.T) {
	w := newWorld(t, nil)
	const text = `[{"id":"p","method":"POST","path":"/products","body":{"name":"Mug \u00fc","n":1.50},"headers":{"If-Match":"\"x\""}},` +
		`{"id":"v","method":"POST","path":"/products/{pid}/variations","body":{"parentId":null},"refs":{"path:pid":"p#/id","body:/parentId":"p#/id","header:If-Match":"p@ETag"}},` +
		`{"method":"DELETE","path":"/x","dependsOn":["p","v"],"runIf":"always"}]`
	ticket := w.ticket(w.post("?stopOnFirstFailure=false", text))
	a := w.do("GET", base+"/requests?ticket="+ticket)
	var got struct{ Requests []json.RawMessage }
	if err := json.Unmarshal([]byte(a.body), &got); err != nil || len(got.Requests) != 3 {
		t.Fatalf("%v: %s", err, a.body)
	}
	for i, want := range []string{
		`{"index":0,"id":"p","method":"POST","path":"/products","body":{"name":"Mug \u00fc","n":1.50},"headers":{"If-Match":"\"x\""}}`,
		`{"index":1,"id":"v","method":"POST","path":"/products/{pid}/variations","body":{"parentId":null},"dependsOn":["p"],"refs":{"path:pid":"p#/id","body:/parentId":"p#/id","header:If-Match":"p@ETag"}}`,
		`{"index":2,"method":"DELETE","path":"/x","dependsOn":["p","v"],"runIf":"always"}`,
	} {
		if string(got.Requests[i]) != want {
			t.Errorf("request %d:\n%s\nwant\n%s", i, got.Requests[i], want)
		}
	}
	if a := w.do("GET", base+"/requests?after=0&limit=1&ticket="+ticket); !strings.HasPrefix(a.body, `{"requests":[{"index":1,`) || strings.Count(a.body, "index") != 1 {
		t.Errorf("one of them: %s", a.body)
	}
	r := w.request("GET", base+"/requests?ticket="+ticket, nil)
	r.Header.Set("Authorization", "Bearer another")
	if a := w.send(r); a.status != 404 {
		t.Errorf("another caller: %d %s", a.status, a.body)
	}
	for query, want := range map[string]int{"": 400, "?ticket=": 400, "?ticket=nonsense": 404, "?after=500&ticket=" + ticket: 400} {
		if a := w.do("GET", base+"/requests"+query); a.status != want {
			t.Errorf("requests%s: %d %s", query, a.status, a.body)
		}
	}
}

// TestQueueState: the state of a queue shows its counts, and whether it is paused or waiting.
func TestQueueState(t *testing.T) {
	w := newWorld(t, nil)
	expect := func(want string) {
		t.Helper()
		if a := w.do("GET", base+"/queue"); a.body != want {
			t.Errorf("got %s, want %s", a.body, want)
		}
	}
	expect(`{"unfinished":0,"kept":0,"paused":false}`)
	w.create("", 1)
	w.create("", 1)
	expect(`{"unfinished":2,"kept":2,"paused":false}`)
	w.do("POST", base+"/pause")
	expect(`{"unfinished":2,"kept":2,"paused":true}`)
	w.do("POST", base+"/resume")
	c := w.claim()
	w.finish(c, "")
	expect(`{"unfinished":1,"kept":2,"paused":false}`)
	c = w.claim()
	until := time.Now().Add(time.Hour)
	if err := w.node.Release(t.Context(), c, nil, until); err != nil {
		t.Fatal(err)
	}
	expect(`{"unfinished":1,"kept":2,"paused":false,"waitsUntil":"` + until.UTC().Format(batch.Moment) + `"}`)
}

// TestActivity: the requests of a batch are spread over the minutes in which it ran.
func TestActivity(t *testing.T) {
	var minutes [span]float64
	at := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	spread(&minutes, at, at.Add(30*time.Second), at.Add(2*time.Minute+30*time.Second), 8)
	spread(&minutes, at, at.Add(-time.Minute), at.Add(time.Minute), 2)      // half of it is counted
	spread(&minutes, at, at.Add(-2*time.Minute), at.Add(-time.Minute), 100) // none of it is counted
	spread(&minutes, at, at.Add(59*time.Minute), at.Add(59*time.Minute), 7) // of no duration
	spread(&minutes, at, at.Add(58*time.Minute), at.Add(62*time.Minute+time.Second), 0)
	for i, want := range map[int]float64{0: 3, 1: 4, 2: 2, 3: 0, 58: 0, 59: 7} {
		if minutes[i] < want-0.001 || minutes[i] > want+0.001 {
			t.Errorf("minute %d: %v, want %v", i, minutes[i], want)
		}
	}
	w := newWorld(t, nil)
	w.create("?stopOnFirstFailure=false", 4)
	w.create("", 2)
	c := w.claim()
	w.record(c, done(0, 200, ``), done(1, 200, ``), done(2, 500, ``), done(3, 200, ``))
	w.finish(c, "")
	w.record(w.claim(), done(0, 200, ``))
	a := w.do("GET", base+"/activity")
	var got struct {
		Minutes  []struct{ Completed, Failed float64 }
		Complete bool
	}
	if err := json.Unmarshal([]byte(a.body), &got); err != nil || len(got.Minutes) != span || !got.Complete {
		t.Fatalf("%v: %s", err, a.body)
	}
	var completed, failed float64
	for _, m := range got.Minutes {
		completed, failed = completed+m.Completed, failed+m.Failed
	}
	if completed != 4 || failed != 1 {
		t.Errorf("%v completed, %v failed; want 4 and 1: %s", completed, failed, a.body)
	}
	r := w.request("GET", base+"/activity", nil)
	r.Header.Set("Authorization", "Bearer another")
	if a := w.send(r); strings.Count(a.body, `"completed":0.0,"failed":0.0`) != span {
		t.Errorf("another caller reads %s", a.body)
	}
}

// TestOperator: an operator sees all stores; nobody else sees anything.
func TestOperator(t *testing.T) {
	w := newWorld(t, nil)
	if a := w.do("GET", "/operator"); a.status != 403 || !strings.Contains(a.body, "right to operate") {
		t.Errorf("without operators: %d %s", a.status, a.body)
	}
	w = newWorld(t, func(o *Options) {
		o.AuthorizeOperator = func(_ *http.Request, token string) error {
			if token != "operator" {
				return &auth.Refusal{Status: 403, Reason: "This key may not operate."}
			}
			return nil
		}
		o.Node = func() telemetry.Node {
			return telemetry.Node{
				Version: "v", State: engine.State{Running: 1, Places: 2, InFlight: 3, HeldUntil: time.Now()},
				Upstream: telemetry.Health{Requests: 9, Codes: map[string]int{"2xx": 9}, Median: 1500 * time.Microsecond, P99: time.Second},
			}
		}
	})
	w.create("", 1)
	if a := w.do("GET", "/operator"); a.status != 403 || a.code(t) != "INVALID_API_TOKEN" {
		t.Errorf("a caller: %d %s", a.status, a.body)
	}
	r := w.request("GET", "/operator", nil)
	r.Header.Del("Authorization")
	if a := w.send(r); a.status != 401 {
		t.Errorf("without a token: %d %s", a.status, a.body)
	}
	r.Header.Set("Authorization", "Bearer operator")
	a := w.send(r)
	var got overviewJSON
	if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != 200 {
		t.Fatalf("%v: %d %s", err, a.status, a.body)
	}
	d := got.Stores.Deepest
	if len(d) != 1 || d[0].Store != "12345" || d[0].Unfinished != 1 || len(d[0].Caller) != 8 {
		t.Errorf("stores: %+v", d)
	}
	if strings.Contains(a.body, token) || got.Node.Upstream.MedianMs != 1.5 || len(got.Nodes) != 1 {
		t.Errorf("answer: %s", a.body)
	}
}

// TestTimeline: the timeline shows the progress of each request.
func TestTimeline(t *testing.T) {
	w := newWorld(t, nil)
	ticket := w.create("?stopOnFirstFailure=false&allowParallelMode=true", 6)
	c := w.claim()
	at := time.UnixMilli(1_900_000_000_000).UTC()
	tries := storage.Tries{Attempts: 3, Retries: 1, Throttles: 1, StartedAt: at, ThrottledSince: at.Add(time.Second), EndedAt: at.Add(2 * time.Second)}
	end := done(0, 503, `{"secret":1}`)
	end.Tries = tries
	put := storage.Mark{Index: 2, State: storage.Waiting, Tries: tries, NotBefore: at.Add(time.Minute), Result: batch.Result{Status: batch.Failed, Code: 429, Line: "Slow"}}
	skip := storage.Mark{Index: 3, State: storage.Done, Result: batch.Result{Status: batch.NotExecuted, Line: "why"}}
	w.record(c, end, storage.Mark{Index: 1, State: storage.Begun, Tries: storage.Tries{Attempts: 1, StartedAt: at}}, put, skip)
	a := w.do("GET", base+"/timeline?ticket="+ticket)
	const moments = `"startedAt":"2030-03-17T17:46:40.000Z","throttledAt":"2030-03-17T17:46:41.000Z","endedAt":"2030-03-17T17:46:42.000Z"`
	for _, want := range []string{
		`{"status":"IN_PROGRESS","totalRequests":6,"completedRequests":1,`, `"parallel":true,"stopOnFirstFailure":false`,
		`{"index":0,"id":"r0","method":"GET","path":"things","status":"FAILED","httpStatusCode":503,"httpStatusLine":"Service Unavailable","attempts":3,"retries":1,"throttles":1,` + moments + `}`,
		`{"index":1,"id":"r1","method":"GET","path":"things","status":"RUNNING","attempts":1,"startedAt":"2030-03-17T17:46:40.000Z"}`,
		`{"index":2,"id":"r2","method":"GET","path":"things","status":"WAITING","httpStatusCode":429,"httpStatusLine":"Slow","attempts":3,"retries":1,"throttles":1,` + moments + `,"nextAttemptAt":"2030-03-17T17:47:40.000Z"}`,
		`{"index":3,"id":"r3","method":"GET","path":"things","status":"NOT_EXECUTED","reason":"why"}`,
		`{"index":4,"id":"r4","method":"GET","path":"things","status":"PENDING"}`,
	} {
		if !strings.Contains(a.body, want) {
			t.Errorf("the timeline lacks\n%s\n%s", want, a.body)
		}
	}
	if strings.Contains(a.body, "secret") {
		t.Errorf("it has the bodies of answers: %s", a.body)
	}
	w.finish(c, "")
	for query, want := range map[string]string{
		"concurrency=1&retries=0&successStatus=2xx,404&failWhen=/a%22,/b": `"parallel":false,"stopOnFirstFailure":true,"concurrency":1,"retries":0,"successStatus":"2xx,404","failWhen":"/a\",/b","requests":[`,
		"retries=2&retryBackoff=exponential:1s..30s":                      `"parallel":false,"stopOnFirstFailure":true,"retries":2,"retryBackoff":"exponential:1s..30s","requests":[`,
	} {
		if a := w.do("GET", base+"/timeline?ticket="+w.create("?"+query, 1)); !strings.Contains(a.body, want) {
			t.Errorf("%s: %s", query, a.body)
		}
	}
	if a := w.do("GET", base+"/timeline?ticket="+ticket); strings.Count(a.body, "NOT_EXECUTED") != 5 {
		t.Errorf("at the end: %s", a.body)
	}
	for query, want := range map[string]int{"": 400, "?ticket=nonsense": 404} {
		if a := w.do("GET", base+"/timeline"+query); a.status != want {
			t.Errorf("timeline%s: %d %s", query, a.status, a.body)
		}
	}
}
