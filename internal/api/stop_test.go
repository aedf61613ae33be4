package api

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage/storagetest"
)

func (w *world) owner() batch.Owner { return batch.OwnerOf(token) }

func TestSearch(t *testing.T) {
	w := newWorld(t, nil)
	tickets := make([]string, 103)
	for i := range tickets {
		tickets[i] = w.create("", 2)
	}
	items := func(status string, tickets ...string) string {
		parts := make([]string, len(tickets))
		for i, ticket := range tickets {
			parts[i] = fmt.Sprintf(`{"ticket":"%s","status":"%s"}`, ticket, status)
		}
		return `{"items":[` + strings.Join(parts, ",") + `]}`
	}
	w.finish(w.claim(), "")
	w.record(w.claim(), done(0, 200, ""))
	for query, want := range map[string]string{
		"status=COMPLETED":                 items("COMPLETED", tickets[0]),
		"status=IN_PROGRESS":               items("IN_PROGRESS", tickets[1]),
		"status=QUEUED":                    items("QUEUED", tickets[2:102]...),
		"status=QUEUED&limit=100&offset=0": items("QUEUED", tickets[2:102]...),
		"status=QUEUED&limit=1":            items("QUEUED", tickets[2]),
		"status=QUEUED&limit=2&offset=3":   items("QUEUED", tickets[5:7]...),
		"status=QUEUED&offset=100":         items("QUEUED", tickets[102]),
		"status=QUEUED&offset=101":         items("QUEUED"),
		"status=QUEUED&offset=10000":       items("QUEUED"),
	} {
		if a := w.do("GET", base+"?"+query); a.status != 200 || a.body != want {
			t.Errorf("%s: %d %s", query, a.status, a.body)
		}
	}
	r := w.request("GET", base+"?status=QUEUED", nil)
	r.Header.Set("Authorization", "Bearer somebody-else")
	if a := w.send(r); a.body != items("QUEUED") {
		t.Errorf("another caller sees %s", a.body)
	}
	if a := w.do("GET", "/api/v3/12346/batch?status=QUEUED"); a.body != items("QUEUED") {
		t.Errorf("another store shows %s", a.body)
	}
}

func TestCancelGroup(t *testing.T) {
	w := newWorld(t, nil)
	running := w.create("?groupId=g", 3)
	c := w.claim()
	w.record(c, done(0, 200, `{"a":1}`))
	queued, other := w.create("?groupId=g", 1), w.create("?groupId=h", 1)
	stop := func(query string) string {
		t.Helper()
		a := w.send(w.request("POST", base+"/cancel-group?"+query, strings.NewReader("{}")))
		if a.status != 200 {
			t.Errorf("%s: %d", query, a.status)
		}
		return a.body
	}
	const none = `{"updateCount":0}`
	for _, query := range []string{
		"groupId=unknown", "ticket=" + uuid.NewString(), "ticketId=malformed", "ticketId=" + uuid.Nil.String() + "&groupId=g",
		"ticketId=malformed&groupId=g", "ticketId=malformed&escapedJson=true", "ticketId=" + uuid.NewString() + "&escapedJson=true",
		"groupId=h&ticketId=" + running, "groupId=h&escapedJson=true&ticketId=" + running,
	} {
		if got := stop(query); got != none {
			t.Errorf("%s: %s", query, got)
		}
	}
	r := w.request("POST", base+"/cancel-group?groupId=g", nil)
	r.Header.Set("Authorization", "Bearer somebody-else")
	if a := w.send(r); a.body != none {
		t.Errorf("another caller stopped %s", a.body)
	}
	w.checkQueues("notified of nothing", &w.notified)

	if got, want := stop("groupId=g"), `{"updateCount":2}`; got != want {
		t.Errorf("the group: %s, want %s", got, want)
	}
	w.checkQueues("notified", &w.notified, 1)
	if got := stop("groupId=g&escapedJson=true"); got != none {
		t.Errorf("the group again: %s", got)
	}
	const had = `,"responses":[{"id":"r0","status":"COMPLETED","escapedHttpBody":"{\"a\":1}","httpStatusCode":200,"httpStatusLine":"OK"}]}`
	if got, want := stop("escapedJson=true&groupId=g&ticketId="+running), `{"updateCount":0`+had; got != want {
		t.Errorf("the ended requests: %s, want %s", got, want)
	}
	w.finish(c, "")
	if got, want := stop("escapedJson=true&ticket="+running), `{"updateCount":0`+had; got != want {
		t.Errorf("the ended requests, after the end: %s, want %s", got, want)
	}
	if got, want := stop("ticketId="+other+"&groupId=&escapedJson=1"), `{"updateCount":1,"responses":[]}`; got != want {
		t.Errorf("by ticket: %s, want %s", got, want)
	}
	for ticket, want := range map[string]string{
		running: `{"status":"COMPLETED","totalRequests":3,"completedRequests":1}`,
		queued:  `{"status":"COMPLETED","totalRequests":1,"completedRequests":0}`,
		other:   `{"status":"COMPLETED","totalRequests":1,"completedRequests":0}`,
	} {
		w.check("stopped", ticket, "&responses=false", want)
	}
}

func TestDelete(t *testing.T) {
	w := newWorld(t, nil)
	ticket := w.create("?deduplicationKey="+dedupKey, 1)
	for _, tt := range []struct{ target, token, want string }{
		{base + "?ticketId=malformed", token, `{"deleteCount":0}`},
		{base + "?ticketId=" + uuid.Nil.String(), token, `{"deleteCount":0}`},
		{base + "?ticketId=" + uuid.NewString(), token, `{"deleteCount":0}`},
		{base + "?ticketId=" + ticket, "somebody-else", `{"deleteCount":0}`},
		{"/api/v3/12346/batch?ticketId=" + ticket, token, `{"deleteCount":0}`},
		{base + "?ticketId=" + ticket, token, `{"deleteCount":1}`},
		{base + "?ticket=" + ticket, token, `{"deleteCount":0}`},
	} {
		r := w.request("DELETE", tt.target, nil)
		r.Header.Set("Authorization", "Bearer "+tt.token)
		if a := w.send(r); a.status != 200 || a.body != tt.want {
			t.Errorf("%s: %d %s, want %s", tt.target, a.status, a.body, tt.want)
		}
	}
	w.checkQueues("notified", &w.notified, 1)
	if a := w.get(ticket, ""); a.status != 404 {
		t.Errorf("a deleted batch is still there: %d", a.status)
	}
	if again := w.create("?deduplicationKey="+dedupKey, 1); again == ticket {
		t.Error("the key still returns the deleted batch")
	}
}

// TestFaults: if the database fails, every call gets a 503 that says when to retry. The failure is
// logged once, and nothing changes.
func TestFaults(t *testing.T) {
	w := newWorld(t, nil)
	ticket := w.create("?groupId=g", 1)
	for _, tt := range []struct{ op, method, target string }{
		{"Status", "GET", "?ticket=" + ticket},
		{"Status", "HEAD", "?ticket=" + ticket},
		{"Find", "GET", "?status=QUEUED"},
		{"Stop", "POST", "/cancel-group?groupId=g"},
		{"Delete", "DELETE", "?ticket=" + ticket},
	} {
		before := strings.Count(w.log(), "storage failed")
		w.node.SetFault(func(op string) storagetest.Fault {
			if op == tt.op {
				return storagetest.FailedNotStored
			}
			return storagetest.None
		})
		a := w.do(tt.method, base+tt.target)
		if a.status != 503 || a.header.Get("Retry-After") != "1" || tt.method != "HEAD" && a.code(t) != "UNAVAILABLE" {
			t.Errorf("%s: %d %s", tt.op, a.status, a.body)
		}
		if strings.Contains(a.body, storagetest.ErrInjected.Error()) {
			t.Errorf("%s: internals were shown: %s", tt.op, a.body)
		}
		if n := strings.Count(w.log(), "storage failed") - before; n != 1 {
			t.Errorf("%s: logged %d times", tt.op, n)
		}
		w.node.SetFault(nil)
		w.check("after "+tt.op, ticket, "", `{"status":"QUEUED","totalRequests":1,"completedRequests":0,"responses":[]}`)
	}
	w.checkQueues("notified", &w.notified)

	// Even if the second half of a stop fails, the batch is stopped and its queue is notified.
	c := w.claim()
	w.node.SetFault(func(op string) storagetest.Fault {
		if op == "Status" {
			return storagetest.FailedNotStored
		}
		return storagetest.None
	})
	if a := w.do("POST", base+"/cancel-group?escapedJson=true&ticketId="+ticket); a.status != 503 {
		t.Errorf("%d %s", a.status, a.body)
	}
	w.checkQueues("notified", &w.notified, c.Queue)
}

// TestSecrets: neither the log at debug level nor an answer contains the caller's token, bodies or
// queries.
func TestSecrets(t *testing.T) {
	w := newWorld(t, nil)
	const body = `[{"method":"PUT","path":"p?q=hidden-path","body":"hidden-body","id":"hidden-id"}]`
	const bad = `[{"method":"hidden-method","path":"//hidden-path","body":"hidden-body"}]`
	ticket := w.ticket(w.post("?groupId=hidden-group&x=hidden-query", body))
	answers := ""
	calls := func() {
		for _, tt := range []struct{ method, target, body string }{
			{"POST", "?groupId=hidden-group&x=hidden-query", body},
			{"POST", "?x=hidden-query", bad},
			{"POST", "?stopOnFirstFailure=hidden-query", body},
			{"GET", "?responses=0&x=hidden-query&ticket=" + ticket, ""},
			{"GET", "?ticket=hidden-query", ""},
			{"GET", "?status=hidden-query", ""},
			{"GET", "?status=QUEUED&x=hidden-query", ""},
			{"POST", "/cancel-group?groupId=hidden-group", ""},
			{"POST", "/cancel-group?escapedJson=1&x=hidden-query&ticketId=" + ticket, ""},
			{"DELETE", "?x=hidden-query&ticket=" + uuid.NewString(), ""},
			{"PUT", "?x=hidden-query", body},
			{"GET", "/hidden-query", ""},
		} {
			answers += w.send(w.request(tt.method, base+tt.target, strings.NewReader(tt.body))).body
		}
		r := w.request("GET", base, nil)
		r.Header.Set("Authorization", "Bearer "+token+"\u00e4")
		answers += w.send(r).body
	}
	calls()
	w.node.SetFault(func(string) storagetest.Fault { return storagetest.FailedNotStored })
	calls()
	w.node.SetFault(nil)
	w.do("DELETE", base+"?ticket="+ticket)
	log := w.log()
	if !strings.Contains(log, ticket) || !strings.Contains(log, "12345") || !strings.Contains(log, "storage failed") {
		t.Errorf("the log does not name batch and store: %s", log)
	}
	for _, secret := range []string{"hidden-query", "hidden-body", "hidden-path", "hidden-group", "hidden-id", token} {
		if strings.Contains(log, secret) {
			t.Errorf("%s was logged: %s", secret, log)
		}
	}
	for _, secret := range []string{"hidden-query", "hidden-body", token} {
		if strings.Contains(answers, secret) {
			t.Errorf("%s was in an answer: %s", secret, answers)
		}
	}
}
