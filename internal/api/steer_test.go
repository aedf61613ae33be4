package api

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// TestWaitsUntil: the details of a batch show the time until which it waits.
func TestWaitsUntil(t *testing.T) {
	w := newWorld(t, nil)
	ticket := w.create("", 2)
	release := func(until time.Time) string {
		t.Helper()
		if err := w.node.Release(t.Context(), w.claim(), nil, until); err != nil {
			t.Fatal(err)
		}
		return w.do("GET", base+"?details=true&ticket="+ticket).body
	}
	if body := release(time.Date(2099, 1, 2, 3, 4, 5, 0, time.UTC)); !strings.Contains(body, `"waitsUntil":"2099-01-02T03:04:05.000Z"`) {
		t.Error(body)
	}
	if body := release(time.Now().Add(-time.Minute)); strings.Contains(body, "waitsUntil") {
		t.Error(body)
	}
	if a := w.do("GET", base+"?ticket="+ticket); strings.Contains(a.body, "waitsUntil") {
		t.Error(a.body)
	}
}

func TestPause(t *testing.T) {
	w := newWorld(t, nil)
	ticket := w.create("", 2)
	steer := func(target, want string) {
		t.Helper()
		if a := w.do("POST", base+target); a.status != 200 || a.body != want {
			t.Errorf("%s: %d %s, want %s", target, a.status, a.body, want)
		}
	}
	const changed, same = `{"updateCount":1}`, `{"updateCount":0}`
	steer("/pause?ticket="+ticket, changed)
	steer("/pause?ticketId="+ticket, same)
	if a := w.do("GET", base+"?details=true&ticket="+ticket); !strings.Contains(a.body, `"paused":true`) {
		t.Error(a.body)
	}
	c := w.claim()
	if !c.Signals.Paused {
		t.Error("the queue was not notified")
	}
	w.checkQueues("notified", &w.notified, c.Queue)
	steer("/resume?ticket="+ticket, changed)
	w.checkQueues("notified", &w.notified, c.Queue)
	steer("/resume?ticket="+ticket, same)
	steer("/resume", same)
	steer("/pause", changed)
	steer("/pause", same)
	steer("/resume", changed)
	if a := w.do("POST", "/api/v3/99/batch/pause"); a.body != changed { // it has no batches yet
		t.Error(a.body)
	}
	for _, ticket := range []string{uuid.NewString(), "x"} {
		if a := w.do("POST", base+"/pause?ticket="+ticket); a.status != 404 || a.code(t) != "BATCH_NOT_FOUND" {
			t.Errorf("ticket %s: %d %s", ticket, a.status, a.body)
		}
	}
}

func TestGroup(t *testing.T) {
	w := newWorld(t, nil)
	w.create("?groupId=a+b", 3)
	w.create("?groupId=a+b", 2)
	c := w.claim()
	failed := done(1, 404, "")
	failed.Result.Status = batch.Failed
	w.record(c, done(0, 200, ""), failed)
	want := `{"groupId":"a b","batches":{"QUEUED":1,"IN_PROGRESS":1,"COMPLETED":0},"totalRequests":5,"completedRequests":2,"responses":{"COMPLETED":1,"FAILED":1,"NOT_EXECUTED":0},"inDoubtRequests":0}`
	if a := w.do("GET", base+"/group?groupId=a+b"); a.status != 200 || a.body != want {
		t.Errorf("%d %s, want %s", a.status, a.body, want)
	}
	for _, query := range []string{"", "?groupId="} {
		if a := w.do("GET", base+"/group"+query); a.status != 400 {
			t.Errorf("%q: %d", query, a.status)
		}
	}
}

func TestDryRun(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxQueued = 1 })
	w.create("", 1)
	if a := w.post("?dryRun=true", `[{"method":"GET","path":"a"},{"method":"GET","path":"b"}]`); a.status != 200 || a.body != `{"valid":true,"totalRequests":2}` {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := w.post("?dryRun=true", `[{"method":"GET","path":"../b"}]`); a.status != 400 || !strings.Contains(a.body, "$[0].path") {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := w.post("?dryRun=true&groupId=%FE", oneGet); a.status != 400 {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := w.do("GET", base); strings.Count(a.body, "ticket") != 1 {
		t.Errorf("stored: %s", a.body)
	}
}

// TestRetry: failed and unexecuted requests run again, with the values from earlier answers that they need.
func TestRetry(t *testing.T) {
	w := newWorld(t, nil)
	a := w.post("?stopOnFirstFailure=false&allowParallelMode=true&groupId=g&concurrency=3&retries=0&successStatus=200&failWhen=/errors", `[
		{"id":"p","method":"POST","path":"/products"},
		{"id":"v","method":"POST","path":"/products/{id}/variations","body":{"of":null},"refs":{"path:id":"p#/id","body:/of":"p@Etag"}},
		{"id":"w","method":"PUT","path":"/variations/{id}","refs":{"path:id":"v#/id"}},
		{"id":"x","method":"POST","path":"/orders"},
		{"id":"y","method":"GET","path":"/y","dependsOn":["p"],"runIf":"failure"},
		{"id":"z","method":"DELETE","path":"/z","dependsOn":["x","p"],"runIf":"always","headers":{"If-Match":"*"}}]`)
	ticket := w.ticket(a)
	if a := w.do("POST", base+"/retry?ticket="+ticket); a.status != 409 || a.code(t) != "CONFLICT" {
		t.Errorf("while it is unfinished: %d %s", a.status, a.body)
	}
	end := func(i, code int, status batch.ResultStatus) storage.Mark {
		m := done(i, code, "")
		m.Result.Status = status
		return m
	}
	first := done(0, 200, `{"id":7}`)
	first.Result.Headers = []batch.Header{{Name: "Etag", Value: `"e"`}}
	w.complete(w.claim(), first, end(1, 404, batch.Failed), end(2, 0, batch.NotExecuted), end(3, 502, batch.Failed), end(4, 0, batch.NotExecuted), end(5, 503, batch.Failed))

	again := w.ticket(w.do("POST", base+"/retry?ticket="+ticket))
	if second := w.ticket(w.do("POST", base+"/retry?ticket="+ticket)); second != again {
		t.Errorf("called twice: %s and %s", again, second)
	}
	c := w.claim()
	options := batch.Options{Parallel: true, Concurrency: 3, Retries: new(0), Success: batch.Success{Codes: "200", FailWhen: []string{"/errors"}}}
	if !reflect.DeepEqual(c.Options, options) || c.GroupID != "g" {
		t.Errorf("options %+v, group %q", c.Options, c.GroupID)
	}
	key := func(i int) string { return batch.IdempotencyKey(uuid.MustParse(ticket), i) }
	var got []string
	for _, r := range c.Requests {
		got = append(got, fmt.Sprintf("%s %s %s %s %+v", r.ID, r.Method, r.Path, r.Body, r.Links))
	}
	want := []string{
		`v POST /products/7/variations {"of":"\"e\""} <nil>`,
		fmt.Sprintf("w PUT /variations/{id}  %+v", &batch.Links{DependsOn: []int{0}, Refs: []batch.Ref{{Where: batch.InPath, Name: "id", From: 0, Path: "/id"}}}),
		fmt.Sprintf("x POST /orders  %+v", &batch.Links{Headers: []batch.Header{{Name: "Idempotency-Key", Value: key(3)}}}),
		fmt.Sprintf("z DELETE /z  %+v", &batch.Links{
			Headers: []batch.Header{{Name: "If-Match", Value: "*"}, {Name: "Idempotency-Key", Value: key(5)}}, DependsOn: []int{2}, RunIf: batch.Always,
		}),
	}
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			break
		}
	}
	if a := w.do("GET", base+"?details=true&ticket="+again); !strings.Contains(a.body, `"retryOf":"`+ticket+`"`) {
		t.Error(a.body)
	}
	w.finish(c, "")
	if third := w.ticket(w.do("POST", base+"/retry?ticket="+ticket)); third == again {
		t.Error("the retry has ended, and was not created again")
	}
	w.complete(w.claim(), done(0, 200, ""), done(1, 200, ""), done(2, 200, ""), done(3, 200, ""))

	conflict := w.ticket(w.post("?stopOnFirstFailure=false", `[{"method":"POST","path":"/a"},{"method":"POST","path":"/b"}]`))
	earlier := end(0, 409, batch.Failed)
	earlier.Tries.MaybeDone = true
	w.complete(w.claim(), earlier, end(1, 409, batch.Failed))
	w.ticket(w.do("POST", base+"/retry?ticket="+conflict))
	c = w.claim()
	if l := c.Requests[0].Links; l == nil || len(l.Headers) != 1 || l.Headers[0].Value != batch.IdempotencyKey(uuid.MustParse(conflict), 0) || c.Requests[1].Links != nil {
		t.Errorf("a request whose conflict an earlier attempt may have caused has lost its key: %+v, %+v", l, c.Requests[1].Links)
	}
	w.complete(c, done(0, 200, ""), done(1, 200, ""))

	well := w.create("", 1)
	w.complete(w.claim(), done(0, 200, ""))
	if a := w.do("POST", base+"/retry?ticket="+well); a.status != 409 || !strings.Contains(a.body, "nothing to retry") {
		t.Errorf("retry of a batch without failures: %d %s", a.status, a.body)
	}
	broken := w.ticket(w.post("?stopOnFirstFailure=false", `[{"id":"p","method":"POST","path":"/p"},{"method":"GET","path":"/{id}","refs":{"path:id":"p#/id"}}]`))
	w.complete(w.claim(), done(0, 200, "{}"), end(1, 424, batch.Failed))
	if a := w.do("POST", base+"/retry?ticket="+broken); a.status != 409 || !strings.Contains(a.body, "of request 1, the reference path:id from $[0]#/id finds nothing there") {
		t.Errorf("retry of a batch with a reference that can't be filled: %d %s", a.status, a.body)
	}
	for target, status := range map[string]int{"/retry": 400, "/retry?ticket=" + uuid.NewString(): 404, "/retry?ticket=x": 404} {
		if a := w.do("POST", base+target); a.status != status {
			t.Errorf("%s: %d", target, a.status)
		}
	}
}

// TestHeaders: a batch with a header that the operator no longer allows can't be retried, alone or
// with others.
func TestHeaders(t *testing.T) {
	admitted, err := batch.AdmitHeaders("X-Tenant")
	if err != nil {
		t.Fatal(err)
	}
	before := newWorld(t, func(o *Options) { o.Headers = admitted })
	given := `[{"method":"GET","path":"/a","headers":{"If-Match":"*","X-Tenant":"1"}}]`
	filled := `[{"id":"p","method":"GET","path":"/p"},{"method":"GET","path":"/a","refs":{"header:X-Tenant":"p#/id"}}]`
	failed := func(i int) storage.Mark {
		m := done(i, 500, "")
		m.Result.Status = batch.Failed
		return m
	}
	first := before.ticket(before.post("?stopOnFirstFailure=false", given))
	before.complete(before.claim(), failed(0))
	second := before.ticket(before.post("?stopOnFirstFailure=false", filled))
	before.complete(before.claim(), done(0, 200, `{}`), failed(1))
	well := before.ticket(before.post("?stopOnFirstFailure=false", `[{"method":"GET","path":"/a","headers":{"X-Tenant":"1"}},{"method":"GET","path":"/b"}]`))
	before.complete(before.claim(), done(0, 200, ``), failed(1))

	after := newWorld(t, func(o *Options) { o.Storage = before.node })
	for body, place := range map[string]string{given: `$[0].headers[\"X-Tenant\"]`, filled: `$[1].refs[\"header:X-Tenant\"]`} {
		a := after.post("", body)
		if a.status != 400 || !strings.Contains(a.body, place) || !strings.Contains(a.body, "--request-headers X-Tenant") {
			t.Errorf("create: %d %s", a.status, a.body)
		}
		if a := after.post("?dryRun=true", body); a.status != 400 {
			t.Errorf("dry run: %d %s", a.status, a.body)
		}
	}
	for ticket, place := range map[string]string{first: `$[0].headers[\"X-Tenant\"]`, second: `$[1].refs[\"header:X-Tenant\"]`} {
		a := after.do("POST", base+"/retry?ticket="+ticket)
		if a.status != 409 || !strings.Contains(a.body, place) || !strings.Contains(a.body, "--request-headers X-Tenant") {
			t.Errorf("retry: %d %s", a.status, a.body)
		}
	}
	if a := after.do("POST", base+"/retry-matching"); a.status != 200 || !strings.Contains(a.body, `"matched":3,"createdCount":1`) {
		t.Errorf("retry of all: %d %s", a.status, a.body)
	}
	if a := before.do("POST", base+"/retry?ticket="+first); a.status != 200 {
		t.Errorf("where it is admitted: %d %s", a.status, a.body)
	}
	if a := after.do("GET", base+"?details=true&ticket="+well); a.status != 200 {
		t.Errorf("the batch with one failure: %d %s", a.status, a.body)
	}
}

// complete records marks, ends the batch, and releases the queue.
func (w *world) complete(c *storage.Claim, marks ...storage.Mark) {
	w.t.Helper()
	w.record(c, marks...)
	w.finish(c, "")
}
