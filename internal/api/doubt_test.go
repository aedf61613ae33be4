package api

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// doubtful returns the mark of a request that is in doubt.
func doubtful(i int) storage.Mark {
	m := done(i, 504, "")
	m.Tries.InDoubt = true
	return m
}

// notExecuted returns the mark of a request that was not executed.
func notExecuted(i int) storage.Mark {
	return storage.Mark{Index: i, State: storage.Done, Result: batch.Result{Status: batch.NotExecuted}}
}

// TestInDoubt: every call that shows or counts outcomes also shows which requests are in doubt.
func TestInDoubt(t *testing.T) {
	w := newWorld(t, nil)
	w.create("?groupId=calm", 1)
	w.complete(w.claim(), done(0, 404, ""))
	ticket := w.create("?groupId=g&stopOnFirstFailure=false", 4)
	w.complete(w.claim(), done(0, 200, ""), done(1, 500, ""), doubtful(2))
	for target, want := range map[string][]string{
		"?ticket=" + ticket:                              {`"status":"FAILED","inDoubt":true,"httpStatusCode":504`},
		"?only=IN_DOUBT&ticket=" + ticket:                {`"responses":[{"index":2,`},
		"?only=FAILED&ticket=" + ticket:                  {`{"index":1,`, `{"index":2,`},
		"?details=true&responses=false&ticket=" + ticket: {`"completedRequests":3,"failedRequests":2,"inDoubtRequests":1`},
		"/group?groupId=g":                               {`"FAILED":2,"NOT_EXECUTED":1},"inDoubtRequests":1`},
		"/search?inDoubt=true":                           {`{"items":[{"ticket":"` + ticket + `"`, `"failedRequests":2,"inDoubtRequests":1`},
		"/timeline?ticket=" + ticket:                     {`"failedRequests":2,"inDoubtRequests":1`, `"status":"FAILED","httpStatusCode":504,"httpStatusLine":"Gateway Timeout","inDoubt":true`},
		"/activity":                                      {`"inDoubt":1.0`},
	} {
		a := w.do("GET", base+target)
		for _, text := range want {
			if a.status != 200 || !strings.Contains(a.body, text) {
				t.Errorf("%s: %d %s lacks %s", target, a.status, a.body, text)
			}
		}
	}
	if a := w.do("GET", base+"?only=IN_DOUBT&ticket="+ticket); strings.Count(a.body, `"index"`) != 1 {
		t.Errorf("the requests in doubt: %s", a.body)
	}
	if n := len(w.search("?inDoubt=true").Items); n != 1 {
		t.Errorf("%d batches have requests in doubt, want 1", n)
	}
	as := func(mediaType string) response {
		t.Helper()
		r := w.request("GET", base+"?ticket="+ticket, nil)
		r.Header.Set("Accept", mediaType)
		return w.send(r)
	}
	lines := as("application/x-ndjson")
	if strings.Count(lines.body, `"inDoubt":true`) != 1 {
		t.Errorf("lines: %s", lines.body)
	}
	events := as("text/event-stream")
	if strings.Count(events.body, `"inDoubt":true`) != 1 || !strings.Contains(events.body, `"completedRequests":3,"failedRequests":2,"inDoubtRequests":1}`) {
		t.Errorf("events: %s", events.body)
	}
}

// TestRetryInDoubt: a retry repeats requests that are known not to have been carried out, and those
// in doubt only if the caller asks for them. Together, retries of both kinds repeat each request
// once.
func TestRetryInDoubt(t *testing.T) {
	w := newWorld(t, nil)
	ticket := w.ticket(w.post("?stopOnFirstFailure=false", `[
		{"id":"ok","method":"POST","path":"/ok"},
		{"id":"bad","method":"POST","path":"/bad"},
		{"id":"doubt","method":"POST","path":"/doubt"},
		{"id":"child","method":"POST","path":"/child/{id}","refs":{"path:id":"doubt#/id"}},
		{"id":"grandchild","method":"POST","path":"/grandchild","dependsOn":["child"]},
		{"id":"mixed","method":"POST","path":"/mixed","dependsOn":["bad","doubt"]},
		{"id":"clean","method":"POST","path":"/clean","dependsOn":["doubt"],"runIf":"failure"},
		{"id":"late","method":"POST","path":"/late","dependsOn":["bad","ok"]}]`))
	w.complete(w.claim(), done(0, 200, `{"id":1}`), done(1, 404, ""), doubtful(2), notExecuted(3), notExecuted(4), notExecuted(5), done(6, 500, ""), notExecuted(7))
	retry := func(query string) response { return w.do("POST", base+"/retry?ticket="+ticket+query) }
	for query, want := range map[string]string{
		"":               "/bad /clean /late",
		"&inDoubt=false": "/bad /clean /late",
		"&inDoubt=only":  "/doubt /child/{id} /grandchild",
		"&inDoubt=true":  "/bad /doubt /child/{id} /grandchild /mixed /clean /late",
	} {
		n := strings.Count(want, " ") + 1
		if a := retry(query + "&dryRun=true"); a.body != fmt.Sprintf(`{"valid":true,"totalRequests":%d,"inDoubtRequests":1}`, n) {
			t.Errorf("dry run of %q: %s", query, a.body)
		}
		a := retry(query)
		made := w.ticket(a)
		if a.body != fmt.Sprintf(`{"ticket":"%s","totalRequests":%d,"inDoubtRequests":1}`, made, n) {
			t.Errorf("%q: %s", query, a.body)
		}
		if again := w.ticket(retry(query)); again != made {
			t.Errorf("%q: created twice", query)
		}
		c := w.claim()
		var paths []string
		for _, r := range c.Requests {
			paths = append(paths, r.Path)
			key := ""
			if r.Links != nil {
				for _, h := range r.Links.Headers {
					key = h.Value
				}
			}
			if r.Path == "/doubt" && key != batch.IdempotencyKey(uuid.MustParse(ticket), 2) {
				t.Errorf("%q: the request in doubt has the key %q", query, key)
			}
			if r.Path == "/clean" && len(r.Links.DependsOn) == 0 && r.Links.RunIf == batch.IfFailure {
				t.Errorf("%q: the request that runs after a failure would not run: %+v", query, r.Links)
			}
		}
		if got := strings.Join(paths, " "); got != want {
			t.Errorf("%q repeats %s, want %s", query, got, want)
		}
		if query == "" {
			if a := retry("&inDoubt=only"); a.status != 409 || !strings.Contains(a.body, made) {
				t.Errorf("while a retry of the rest is unfinished: %d %s", a.status, a.body)
			}
		}
		w.finish(c, "")
	}
	if a := retry("&inDoubt=perhaps"); a.status != 400 || !strings.Contains(a.body, "inDoubt must be false, true or only") {
		t.Errorf("%d %s", a.status, a.body)
	}

	ticket = w.create("?stopOnFirstFailure=false", 2)
	w.complete(w.claim(), done(0, 200, ""), doubtful(1))
	if a := retry(""); a.status != 409 || !strings.Contains(a.body, "in doubt: 1") || !strings.Contains(a.body, "inDoubt=only") {
		t.Errorf("retry of a batch with only requests in doubt: %d %s", a.status, a.body)
	}
	if a := retry("&dryRun=true"); a.body != `{"valid":true,"totalRequests":0,"inDoubtRequests":1}` {
		t.Errorf("its dry run: %s", a.body)
	}
}

// TestRetryMatchingInDoubt: a retry of many batches also leaves out requests in doubt.
func TestRetryMatchingInDoubt(t *testing.T) {
	w := newWorld(t, nil)
	create := func(marks ...storage.Mark) {
		w.create("?stopOnFirstFailure=false&allowParallelMode=true", 3)
		w.complete(w.claim(), marks...)
	}
	create(done(0, 200, ""), done(1, 500, ""), doubtful(2))
	create(done(0, 200, ""), done(1, 200, ""), doubtful(2))
	create(done(0, 500, ""), done(1, 200, ""), done(2, 200, ""))
	post := func(query, want string) {
		t.Helper()
		if a := w.do("POST", base+"/retry-matching"+query); a.body != want {
			t.Errorf("%q: %s, want %s", query, a.body, want)
		}
	}
	post("?dryRun=true", `{"matched":2,"totalRequests":2,"inDoubtRequests":2}`)
	post("?dryRun=true&inDoubt=true", `{"matched":1,"totalRequests":1,"inDoubtRequests":2}`)
	post("?dryRun=true&repeatInDoubt=true", `{"matched":3,"totalRequests":4,"inDoubtRequests":2}`)
	post("?inDoubt=true", `{"matched":1,"createdCount":1,"inDoubtRequests":2}`)
	c := w.claim()
	if len(c.Requests) != 1 || c.Requests[0].ID != "r1" {
		t.Errorf("repeated: %+v", c.Requests)
	}
	w.finish(c, "")
	post("?inDoubt=true&repeatInDoubt=true", `{"matched":1,"createdCount":1,"inDoubtRequests":1}`)
	c = w.claim()
	if len(c.Requests) != 1 || c.Requests[0].ID != "r2" {
		t.Errorf("repeated: %+v", c.Requests)
	}
}
