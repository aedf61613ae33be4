package api

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/storagetest"
)

// get reads a batch's status.
func (w *world) get(ticket, query string) response {
	w.t.Helper()
	return w.do("GET", base+"?ticket="+ticket+query)
}

// check compares a status with the one that the test expects.
func (w *world) check(what, ticket, query, want string) {
	w.t.Helper()
	a := w.get(ticket, query)
	if a.status != 200 || a.body != want {
		w.t.Errorf("%s: %d %s\nwant %s", what, a.status, a.body, want)
	}
	if got := a.header.Get("Content-Length"); got != strconv.Itoa(len(want)) {
		w.t.Errorf("%s: Content-Length %q of %d bytes", what, got, len(want))
	}
}

// TestStatus: from creation to end, a batch's status has the fields of the contract.
func TestStatus(t *testing.T) {
	w := newWorld(t, nil)
	ticket := w.ticket(w.post("", `[{"id":"000001","method":"GET","path":"a"},{"method":"GET","path":"b"},{"id":"3","method":"GET","path":"c"},{"method":"GET","path":"d"}]`))
	w.check("created", ticket, "", `{"status":"QUEUED","totalRequests":4,"completedRequests":0,"responses":[]}`)

	c := w.claim()
	w.record(c, done(1, 404, `not "there"`))
	w.check("out of order", ticket, "", `{"status":"IN_PROGRESS","totalRequests":4,"completedRequests":1,"responses":[`+
		`{"status":"FAILED","httpBody":"not \"there\"","httpStatusCode":404,"httpStatusLine":"Not Found"}]}`)

	w.record(c, done(0, 200, ` {"n": 12345678901234567890} `))
	w.finish(c, "the credential was abandoned")
	const head = `{"status":"COMPLETED","totalRequests":4,"completedRequests":2`
	const tail = `{"id":"3","status":"NOT_EXECUTED","reason":"the credential was abandoned"},{"status":"NOT_EXECUTED","reason":"the credential was abandoned"}]}`
	plain := head + `,"responses":[` +
		`{"id":"000001","status":"COMPLETED","httpBody":{"n": 12345678901234567890},"httpStatusCode":200,"httpStatusLine":"OK"},` +
		`{"status":"FAILED","httpBody":"not \"there\"","httpStatusCode":404,"httpStatusLine":"Not Found"},` + tail
	w.check("ended", ticket, "", plain)
	w.check("ended, explicitly", ticket, "&responses=1&escapedJson=no&unknown=x", plain)
	w.check("escaped", ticket, "&escapedJson=true", head+`,"responses":[`+
		`{"id":"000001","status":"COMPLETED","escapedHttpBody":" {\"n\": 12345678901234567890} ","httpStatusCode":200,"httpStatusLine":"OK"},`+
		`{"status":"FAILED","escapedHttpBody":"not \"there\"","httpStatusCode":404,"httpStatusLine":"Not Found"},`+tail)
	w.check("without responses", ticket, "&responses=false", head+`}`)

	for name, target := range map[string]string{
		"ticketId": "?ticketId=" + ticket, "both": "?ticketId=" + uuid.NewString() + "&ticket=" + ticket,
		"upper case": "?ticket=" + strings.ToUpper(ticket), "unknown parameters": "?Status=nonsense&ticket=" + ticket, "no offset": "?offset=0&ticket=" + ticket,
	} {
		if a := w.do("GET", base+target); a.body != plain {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	if a := w.do("HEAD", base+"?ticket="+ticket); a.status != 200 || a.body != "" {
		t.Errorf("HEAD: %d %q", a.status, a.body)
	}
}

// TestStatusNotFound: unknown, malformed and deleted tickets, and those of other callers, get the
// same answer.
func TestStatusNotFound(t *testing.T) {
	w := newWorld(t, nil)
	ticket, deleted := w.create("", 1), w.create("", 1)
	w.do("DELETE", base+"?ticket="+deleted)
	foreign := func(target, token string) response {
		r := w.request("GET", target, nil)
		r.Header.Set("Authorization", "Bearer "+token)
		return w.send(r)
	}
	want := w.get(uuid.NewString(), "").body
	for name, a := range map[string]response{
		"unknown":       w.get(uuid.NewString(), ""),
		"malformed":     w.get("000001", ""),
		"braces":        w.get("{"+ticket+"}", ""),
		"no dashes":     w.get(strings.ReplaceAll(ticket, "-", ""), ""),
		"zero":          w.get(uuid.Nil.String(), ""),
		"deleted":       w.get(deleted, ""),
		"other store":   w.do("GET", "/api/v3/12346/batch?ticket="+ticket),
		"other token":   foreign(base+"?ticket="+ticket, "somebody-else"),
		"token's start": foreign(base+"?ticket="+ticket, token[:len(token)-1]),
	} {
		if a.status != 404 || a.code(t) != "BATCH_NOT_FOUND" || a.body != want {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	if a := w.do("HEAD", base+"?ticket="+uuid.NewString()); a.status != 404 {
		t.Errorf("HEAD of an unknown ticket: %d", a.status)
	}
}

// large creates a batch of n requests. Those with an index below ended have been answered, each
// with a body of size bytes.
func (w *world) large(n, ended, size int) (ticket string, c *storage.Claim) {
	w.t.Helper()
	ticket = w.create("", n)
	c = w.claim()
	for i := range ended {
		w.record(c, done(i, 200, fmt.Sprintf(`{"index":%d,"fill":"%s"}`, i, strings.Repeat("x", size))))
	}
	return ticket, c
}

// TestStatusLarge: a status of many MiB arrives whole and in order.
func TestStatusLarge(t *testing.T) {
	w := newWorld(t, nil)
	ticket, c := w.large(60, 50, 150_000)
	for _, query := range []string{"", "&escapedJson=true"} {
		for _, state := range []string{"IN_PROGRESS", "COMPLETED"} {
			if state == "COMPLETED" && query != "" {
				w.finish(c, "")
			}
			w.checkLarge(w.get(ticket, query), query != "", 50)
		}
	}
}

// checkLarge checks the status of a batch of 60 requests that large created.
func (w *world) checkLarge(a response, escaped bool, ended int) {
	w.t.Helper()
	var got struct {
		Status    string
		Responses []struct {
			ID, Status, EscapedHTTPBody string
			HTTPBody                    struct{ Index int }
		}
	}
	if err := json.Unmarshal([]byte(a.body), &got); err != nil {
		w.t.Fatal(err)
	}
	want := ended
	if got.Status == "COMPLETED" {
		want = 60
	}
	if len(got.Responses) != want {
		w.t.Fatalf("%d responses, want %d", len(got.Responses), want)
	}
	for i, r := range got.Responses {
		if escaped && r.EscapedHTTPBody != "" {
			if err := json.Unmarshal([]byte(r.EscapedHTTPBody), &r.HTTPBody); err != nil {
				w.t.Fatal(err)
			}
		}
		if r.ID != fmt.Sprintf("r%d", i%10) || i < ended && (r.Status != "COMPLETED" || r.HTTPBody.Index != i) || i >= ended && r.Status != "NOT_EXECUTED" {
			w.t.Errorf("response %d is %s %s %d", i, r.ID, r.Status, r.HTTPBody.Index)
		}
	}
}

// pageHook calls do before the nth call to Results.
type pageHook struct {
	Storage
	n  int
	do func()
}

func (b *pageHook) Results(ctx context.Context, id storage.BatchID, from, maxBytes int) ([]storage.IndexedResult, error) {
	if b.n--; b.n == 0 {
		b.do()
	}
	return b.Storage.Results(ctx, id, from, maxBytes)
}

// lossy is a database that loses results after the first pages.
type lossy struct {
	Storage
	pages int
}

func (l *lossy) Results(ctx context.Context, id storage.BatchID, from, maxBytes int) ([]storage.IndexedResult, error) {
	if l.pages--; l.pages < 0 {
		return nil, nil
	}
	return l.Storage.Results(ctx, id, from, maxBytes)
}

// TestStatusIsOfOneMoment: a status that is being sent doesn't include requests that end meanwhile.
func TestStatusIsOfOneMoment(t *testing.T) {
	pages := &pageHook{n: 1}
	w := newWorld(t, func(o *Options) { pages.Storage, o.Storage = o.Storage, pages })
	ticket, c := w.large(60, 50, 150_000)
	pages.do = func() {
		w.record(c, done(50, 200, "{}"), done(55, 200, "{}"))
		w.finish(c, "")
	}
	a := w.get(ticket, "")
	if !strings.HasPrefix(a.body, `{"status":"IN_PROGRESS","totalRequests":60,"completedRequests":50,`) {
		t.Errorf("%.100s", a.body)
	}
	w.checkLarge(a, false, 50)
}

// TestStatusBreaks: a client can't mistake a part of a status for the whole. If the rest can't be
// read, the answer is an error before the first byte, and the connection breaks after it.
func TestStatusBreaks(t *testing.T) {
	for _, n := range []int{2, 5} { // the first bytes leave after page 1
		for how, logged := range map[string]string{"deleted": "", "fault": "storage failed", "bug": "caused a panic"} {
			t.Run(fmt.Sprint(how, " at page ", n), func(t *testing.T) {
				pages := &pageHook{n: n}
				w := newWorld(t, func(o *Options) { pages.Storage, o.Storage = o.Storage, pages })
				ticket, _ := w.large(60, 50, 150_000)
				pages.do = func() {
					switch how {
					case "fault":
						w.node.SetFault(func(string) storagetest.Fault { return storagetest.FailedNotStored })
						return
					case "bug":
						panic("a bug")
					}
					key := storage.Key{Store: "12345", Owner: w.owner(), Ticket: uuid.MustParse(ticket)}
					if _, err := w.node.Delete(context.Background(), key); err != nil {
						t.Error(err)
					}
				}
				if a, err := try(w.request("GET", base+"?ticket="+ticket, nil)); err == nil {
					t.Errorf("a part was sent as a whole: %d, %d bytes, ends with %q", a.status, len(a.body), a.body[max(0, len(a.body)-20):])
				}
				if log := w.log(); !strings.Contains(log, logged) || logged == "" && strings.Contains(log, "ERROR") {
					t.Errorf("log: %s", log)
				}
			})
		}
	}
	t.Run("result missing", func(t *testing.T) {
		w := newWorld(t, func(o *Options) { o.Storage = &lossy{o.Storage, 1} })
		ticket, _ := w.large(60, 50, 150_000)
		if a, err := try(w.request("GET", base+"?ticket="+ticket, nil)); err == nil {
			t.Errorf("a status without its results was sent: %d, %d bytes", a.status, len(a.body))
		}
	})
	t.Run("before the first byte", func(t *testing.T) {
		pages := &pageHook{n: 1}
		w := newWorld(t, func(o *Options) { pages.Storage, o.Storage = o.Storage, pages })
		// The first page holds only one body, which is larger than its limit.
		ticket, c := w.large(3, 1, 200_000)
		w.record(c, done(1, 200, strings.Repeat(" ", 1<<20)+"1"))
		pages.do = func() {
			w.node.SetFault(func(string) storagetest.Fault { return storagetest.FailedNotStored })
		}
		a := w.get(ticket, "")
		if a.status != 503 || a.code(t) != "UNAVAILABLE" {
			t.Errorf("%d %.100s", a.status, a.body)
		}
	})
}
