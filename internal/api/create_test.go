package api

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/auth"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/storagetest"
)

const (
	oneGet   = `[{"method":"GET","path":"things"}]`
	dedupKey = "123e4567-e89b-42d3-a456-426614174000"
)

// TestCreateStores: a create stores what the caller sent, and wakes the queue.
func TestCreateStores(t *testing.T) {
	for _, tt := range []struct {
		query   string
		options batch.Options
		group   string
	}{
		{"", batch.Options{StopOnFailure: true}, ""},
		{"?allowParallelMode=YES&stopOnFirstFailure=off", batch.Options{Parallel: true}, ""},
		{"?groupId=spring+sale%20%26+more&unknown=1&stopOnFirstFailure=1&stopOnFirstFailure=1", batch.Options{StopOnFailure: true}, "spring sale & more"},
		{"?groupId=" + strings.Repeat("g", batch.MaxGroupID), batch.Options{StopOnFailure: true}, strings.Repeat("g", batch.MaxGroupID)},
		{"?groupId=", batch.Options{StopOnFailure: true}, ""},
		{"?concurrency=1", batch.Options{StopOnFailure: true, Concurrency: 1}, ""},
		{"?retries=0&successStatus=200,404", batch.Options{StopOnFailure: true, Retries: new(0), Success: batch.Success{Codes: "200,404"}}, ""},
		{
			"?allowParallelMode=1&stopOnFirstFailure=0&concurrency=100&retries=50&retryBackoff=exponential:1s..5m&successStatus=2xx&failWhen=/errors,/data/a%2Cb",
			batch.Options{
				Parallel: true, Concurrency: 100, Retries: new(50), Backoff: batch.Backoff{First: time.Second, Most: 5 * time.Minute},
				Success: batch.Success{Codes: "2xx", FailWhen: []string{"/errors", "/data/a,b"}},
			},
			"",
		},
		{"?stopOnFirstFailure=0&retryBackoff=fixed:3s", batch.Options{Backoff: batch.Backoff{First: 3 * time.Second, Most: 3 * time.Second}}, ""},
	} {
		w := newWorld(t, nil)
		a := w.post(tt.query, `[{"id":"x","method":"PUT","path":"/a?b=1","body":{"n":1.10}},{"method":"GET","path":"b"}]`)
		ticket := w.ticket(a)
		if got, want := a.body, `{"ticket":"`+ticket+`"}`; got != want {
			t.Errorf("%s: answer %s, want %s", tt.query, got, want)
		}
		if id, err := uuid.Parse(ticket); err != nil || id.Version() != 4 {
			t.Errorf("ticket %s can be guessed", ticket)
		}
		w.checkQueues("woken", &w.woken, 1)
		c := w.claim()
		if c.Store != "12345" || c.Owner != batch.OwnerOf(token) || c.Ticket.String() != ticket {
			t.Errorf("%s: stored for %s, %s, %s", tt.query, c.Store, c.Owner.Short(), c.Ticket)
		}
		if !reflect.DeepEqual(c.Options, tt.options) || c.GroupID != tt.group {
			t.Errorf("%s: stored %+v of group %q", tt.query, c.Options, c.GroupID)
		}
		if len(c.Requests) != 2 || c.Requests[0].ID != "x" || string(c.Requests[0].Body) != `{"n":1.10}` {
			t.Errorf("%s: stored %+v", tt.query, c.Requests)
		}
		if got, want := string(c.Credential), "sealed "+ticket+" 12345 "+token; got != want {
			t.Errorf("credential %q, want %q", got, want)
		}
	}
}

func TestCreateMediaTypes(t *testing.T) {
	w := newWorld(t, nil)
	for _, tt := range []struct {
		types  []string
		status int
	}{
		{[]string{"application/json"}, 200},
		{[]string{"text/json"}, 200},
		{[]string{"Application/JSON; Charset=UTF-8"}, 200},
		{[]string{`application/json;charset="utf-8";profile=x`}, 200},
		{[]string{"application/json; charset=utf8"}, 200},
		{[]string{`Text/JSON; Charset="UTF8"`}, 200},
		{[]string{"application/json; charset=utf-16"}, 415},
		{nil, 415},
		{[]string{""}, 415},
		{[]string{"text/plain"}, 415},
		{[]string{"application/x-www-form-urlencoded"}, 415},
		{[]string{"application/problem+json"}, 415},
		{[]string{"application/json; charset=iso-8859-1"}, 415},
		{[]string{"application/json", "application/json"}, 415},
		{[]string{"application/json, text/plain"}, 415},
	} {
		r := w.request("POST", base, strings.NewReader(oneGet))
		r.Header["Content-Type"] = tt.types
		a := w.send(r)
		if a.status != tt.status || tt.status == 415 && a.code(t) != "UNSUPPORTED_MEDIA_TYPE" {
			t.Errorf("%q: %d %s", tt.types, a.status, a.body)
		}
	}
}

// zipped returns s as a gzip stream.
func zipped(t testing.TB, s string) string {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.WriteString(z, s); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// ofSize returns a create body of n bytes.
func ofSize(n int) string {
	const head, tail = `[{"method":"PUT","path":"a","body":"`, `"}]`
	return head + strings.Repeat("x", n-len(head)-len(tail)) + tail
}

// TestCreateByteOrderMark: a byte order mark at the beginning of a body, compressed or not, is
// skipped. Anywhere else, it is text.
func TestCreateByteOrderMark(t *testing.T) {
	w := newWorld(t, nil)
	const mark = "\ufeff"
	for _, query := range []string{"", "?dryRun=true"} {
		for body, want := range map[string]int{
			mark + `[{"method":"PUT","path":"a","body":"` + mark + `x"}]`: 200,
			mark + mark + `[{"method":"GET","path":"a"}]`:                 400,
			mark: 400,
		} {
			for _, compressed := range []bool{false, true} {
				r := w.request("POST", base+query, strings.NewReader(body))
				if compressed {
					r = w.request("POST", base+query, strings.NewReader(zipped(t, body)))
					r.Header.Set("Content-Encoding", "gzip")
				}
				if a := w.send(r); a.status != want {
					t.Errorf("%s %q: %d %s, want %d", query, body, a.status, a.body, want)
				}
			}
		}
	}
	if got := string(w.claim().Requests[0].Body); got != mark+"x" {
		t.Errorf("the body of a request arrived as %q", got)
	}
}

// TestCreateBodies: a body of any size and encoding is stored byte for byte, or refused.
func TestCreateBodies(t *testing.T) {
	const limit = 2 << 20
	w := newWorld(t, func(o *Options) { o.MaxBody = limit })
	for _, size := range []int{100, freeBody - 1, freeBody, freeBody + 1, smallBody - 1, smallBody, smallBody + 1, limit - 1, limit, limit + 1, 2 * limit} {
		forms := []string{"sized", "chunked", "gzip", "chunked gzip"}
		if size == 100 {
			forms = append(forms, "x-gzip", "identity") // other names of the same codings
		}
		for _, form := range forms {
			t.Run(fmt.Sprint(form, size), func(t *testing.T) {
				body := ofSize(size)
				sent := body
				if strings.Contains(form, "gzip") {
					sent = zipped(t, body)
				}
				r := w.request("POST", base, strings.NewReader(sent))
				if strings.Contains(form, "chunked") {
					r.ContentLength = -1
				}
				if coding := strings.TrimPrefix(strings.TrimPrefix(form, "chunked"), " "); coding != "" && coding != "sized" {
					r.Header.Set("Content-Encoding", coding)
				}
				a, err := try(r)
				if size > limit {
					// The server may close the connection instead of reading the rest.
					if err == nil && (a.status != 413 || a.code(t) != "PAYLOAD_TOO_LARGE" || !strings.Contains(a.body, fmt.Sprint(limit))) {
						t.Errorf("%d %s", a.status, a.body)
					}
					return
				}
				if err != nil || a.status != 200 {
					t.Fatalf("%v, %d %s", err, a.status, a.body)
				}
				c := w.claim()
				if got := c.Requests[0].Body; string(got) != body[len(`[{"method":"PUT","path":"a","body":"`):size-3] {
					t.Errorf("%d bytes of %d were stored, or other bytes", len(got), size)
				}
				w.finish(c, "")
			})
		}
	}
	s := w.server.Config.Handler.(*API)
	if !s.memory.small.Try(smallShare) || !s.memory.large.Try(largeShare) {
		t.Error("memory was not freed")
	}
}

func TestCreateRefusesBodies(t *testing.T) {
	w := newWorld(t, nil)
	whole := zipped(t, oneGet)
	corrupt := []byte(zipped(t, ofSize(1000)))
	corrupt[len(corrupt)/2] ^= 0xff
	for _, tt := range []struct {
		name, coding, body string
		status             int
		says               string
	}{
		{"empty", "", "", 400, "Batch request body is invalid"},
		{"no JSON", "", "{", 400, "Batch request body is invalid"},
		{"no request", "", "[]", 400, "Batch request body is invalid"},
		{"bad method", "", `[{"method":"GET","path":"a"},{"method":"FETCH","path":"b"}]`, 400, "Batch request body is invalid: $[1].method must be"},
		{"empty gzip", "gzip", "", 400, "completely"},
		{"no gzip", "gzip", oneGet, 400, "gzip"},
		{"cut gzip", "gzip", whole[:len(whole)-3], 400, "completely"},
		{"corrupt gzip", "gzip", string(corrupt), 400, "gzip"},
		{"tail after gzip", "gzip", whole + "tail tail tail", 400, "gzip"},
		{"deflate", "deflate", "x", 415, "Content-Encoding"},
		{"twice zipped", "gzip, gzip", whole, 415, "Content-Encoding"},
	} {
		r := w.request("POST", base, strings.NewReader(tt.body))
		if tt.coding != "" {
			r.Header.Set("Content-Encoding", tt.coding)
		}
		a := w.send(r)
		if a.code(t); a.status != tt.status || !strings.Contains(a.body, tt.says) {
			t.Errorf("%s: %d %s", tt.name, a.status, a.body)
		}
	}
	if a := w.do("GET", base+"?status=QUEUED"); a.body != `{"items":[]}` {
		t.Errorf("a refused create stored a batch: %s", a.body)
	}
}

// TestCreateGzipBomb: a small gzip stream that unpacks to gigabytes is refused at the limit.
func TestCreateGzipBomb(t *testing.T) {
	w := newWorld(t, nil)
	var once bytes.Buffer
	z := gzip.NewWriter(&once)
	if _, err := z.Write(make([]byte, 4<<20)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	r := w.request("POST", base, strings.NewReader(strings.Repeat(once.String(), 500))) // 2 GB
	r.Header.Set("Content-Encoding", "gzip")
	if a, err := try(r); err == nil && (a.status != 413 || a.code(t) != "PAYLOAD_TOO_LARGE") {
		t.Errorf("%d %s", a.status, a.body)
	}
}

// failingBody is a body that ends with an error.
type failingBody struct {
	io.Reader
	err error
}

func (b failingBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		err = b.err
	}
	return n, err
}

func (failingBody) Close() error { return nil }

func TestCreateBodyBreaks(t *testing.T) {
	w := newWorld(t, nil)
	for name, tt := range map[string]struct {
		err    error
		length int64
		status int
		code   string
	}{
		"cut":          {io.ErrUnexpectedEOF, -1, 400, "WRONG_PARAMETER"},
		"reset":        {errors.New("connection reset"), 500, 400, "WRONG_PARAMETER"},
		"short":        {io.EOF, 500, 400, "WRONG_PARAMETER"},
		"too slow":     {os.ErrDeadlineExceeded, 500, 408, "REQUEST_TIMEOUT"},
		"said too big": {io.EOF, maxBody + 1, 413, "PAYLOAD_TOO_LARGE"},
		"whole":        {io.EOF, -1, 200, ""},
		"whole, sized": {io.EOF, int64(len(oneGet)), 200, ""},
	} {
		r := httptest.NewRequest("POST", base, failingBody{strings.NewReader(oneGet), tt.err})
		r.ContentLength = tt.length
		r.Header = w.request("POST", base, strings.NewReader("")).Header
		rec := httptest.NewRecorder()
		w.server.Config.Handler.ServeHTTP(rec, r)
		a := response{status: rec.Code, body: rec.Body.String()}
		if a.status != tt.status || tt.code != "" && a.code(t) != tt.code {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
}

// TestCreateWaitsForMemory: when the memory for large bodies is taken, small bodies still get
// through. Creates with large ones wait and are then refused, and nothing of them is stored.
func TestCreateWaitsForMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := openDatabase(t)
		s := New(Options{
			Authorize: new(auth.Gate).Authorize, AuthorizeOperator: new(auth.Gate).AuthorizeOperator,
			Storage: node, MaxBody: maxBody, Wake: func(storage.QueueID) {},
			Seal: func(batch.Ticket, string, string) ([]byte, error) { return []byte("sealed"), nil },
		})
		s.Logger = discard
		create := func(size int) int {
			r := httptest.NewRequest("POST", base, strings.NewReader(ofSize(size)))
			r.Header.Set("Authorization", "Bearer abc")
			r.Header.Set("Content-Type", "application/json")
			rec := httptest.NewRecorder()
			s.ServeHTTP(rec, r)
			return rec.Code
		}
		if !s.memory.large.Try(largeShare) {
			t.Fatal("memory is not free")
		}
		if code := create(smallBody); code != 200 {
			t.Errorf("a small body next to large ones: %d", code)
		}
		if code := create(maxBody); code != 503 {
			t.Errorf("a large body without memory: %d", code)
		}
		if !s.memory.small.Try(smallShare) {
			t.Error("the refused body kept memory")
		}
		waited := make(chan int)
		go func() { waited <- create(smallBody) }()
		synctest.Wait()
		if code := create(freeBody); code != 200 {
			t.Errorf("a body that needs no memory: %d", code)
		}
		s.memory.small.Leave(smallShare)
		if code := <-waited; code != 200 {
			t.Errorf("a body that waited: %d", code)
		}
	})
}

func TestCreateQuota(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxQueued = 2 })
	first := w.create("?deduplicationKey="+dedupKey, 1)
	w.create("", 1)
	a := w.post("", oneGet)
	if a.status != 429 || a.code(t) != "RATE_LIMITED" || a.header.Get("Retry-After") != "5" || !strings.Contains(a.body, "2") {
		t.Errorf("%d %v %s", a.status, a.header, a.body)
	}
	if again := w.create("?deduplicationKey="+dedupKey, 1); again != first {
		t.Errorf("the deduplication key was checked after the quota: %s, want %s", again, first)
	}
	w.finish(w.claim(), "")
	w.create("", 1)
}

// TestCreateQuotaBytes: batches that have ended count toward the quota, with their answers, until
// they are deleted.
func TestCreateQuotaBytes(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxStored = 1000 })
	full := func(what string) {
		t.Helper()
		if a := w.post("", oneGet); a.status != 429 || a.code(t) != "RATE_LIMITED" || a.header.Get("Retry-After") != "60" ||
			!strings.Contains(a.body, "1000 bytes") || !strings.Contains(a.body, "Delete") {
			t.Errorf("%s: %d %v %s", what, a.status, a.header, a.body)
		}
	}
	incompressible := ""
	for range 60 {
		incompressible += rand.Text()
	}
	if a := w.post("", `[{"method":"POST","path":"p","body":"`+incompressible+`"}]`); a.status != 429 {
		t.Errorf("a batch that is larger than the quota: %d %s", a.status, a.body)
	}
	first := w.create("?deduplicationKey="+dedupKey, 1)
	c := w.claim()
	w.record(c, done(0, 200, `"`+strings.Repeat("y", 998)+`"`))
	w.create("", 1) // its answers count once it has ended
	w.finish(c, "")
	full("after the end of a batch whose answer is as large as the quota")
	if again := w.create("?deduplicationKey="+dedupKey, 1); again != first {
		t.Errorf("the deduplication key was checked after the quota: %s, want %s", again, first)
	}
	if a := w.do("DELETE", base+"?ticket="+first); a.status != 200 && a.status != 204 {
		t.Fatal(a.status)
	}
	full("before the deleted batch is gone")
	for more := true; more; {
		var err error
		if more, err = w.node.Purge(t.Context(), time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	w.create("", 1)
}

// TestCreateLinks: dependencies between requests are checked with the batch's options, and stored.
func TestCreateLinks(t *testing.T) {
	w := newWorld(t, nil)
	const body = `[{"id":"p","method":"POST","path":"/products"},
		{"method":"DELETE","path":"/products/{id}","headers":{"If-Match":"*"},"runIf":"always","refs":{"path:id":"p#/id"}}]`
	a := w.post("", body)
	if a.status != 400 || !strings.Contains(a.body, "$[1].runIf can be always only with stopOnFirstFailure=false") {
		t.Errorf("%d %s", a.status, a.body)
	}
	w.ticket(w.post("?stopOnFirstFailure=false", body))
	l := w.claim().Requests[1].Links
	want := &batch.Links{
		Headers: []batch.Header{{Name: "If-Match", Value: "*"}}, DependsOn: []int{0}, RunIf: batch.Always,
		Refs: []batch.Ref{{Where: batch.InPath, Name: "id", From: 0, Path: "/id"}},
	}
	if !reflect.DeepEqual(l, want) {
		t.Errorf("stored %+v, want %+v", l, want)
	}
}

// TestQueues: each token has its own queue in a store, so that a made-up token blocks nobody.
func TestQueues(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxQueued = 1 })
	send := func(store, token string) int {
		r := w.request("POST", "/api/v3/"+store+"/batch", strings.NewReader(`[{"method":"GET","path":"p"}]`))
		r.Header.Set("Authorization", "Bearer "+token)
		return w.send(r).status
	}
	for _, c := range []struct {
		store, token string
		want         int
	}{{"1", "a", 200}, {"1", "b", 200}, {"2", "a", 200}, {"1", "a", 429}, {"1", "b", 429}} {
		if got := send(c.store, c.token); got != c.want {
			t.Errorf("store %s, token %s: %d, want %d", c.store, c.token, got, c.want)
		}
	}
	queues, err := w.node.Runnable(t.Context(), 0, 10)
	if err != nil || len(queues) != 3 {
		t.Errorf("the queues are %v, %v; want three", queues, err)
	}
}

// TestCreateDedup: if many creates with one key arrive at the same time, only one stores a batch
// and wakes its queue. The same key of another caller is a different key.
func TestCreateDedup(t *testing.T) {
	w := newWorld(t, nil)
	tickets := make([]string, 20)
	var all sync.WaitGroup
	for i := range tickets {
		all.Go(func() { tickets[i] = w.create("?deduplicationKey="+strings.ToUpper(dedupKey), 1) })
	}
	all.Wait()
	for _, ticket := range tickets {
		if ticket != tickets[0] {
			t.Errorf("tickets differ: %v", tickets)
			break
		}
	}
	w.checkQueues("woken", &w.woken, 1)
	r := w.request("POST", base+"?deduplicationKey="+dedupKey, strings.NewReader(oneGet))
	r.Header.Set("Authorization", "Bearer somebody-else")
	if other := w.ticket(w.send(r)); other == tickets[0] {
		t.Error("a key returned another caller's batch")
	}
}

// TestCreateFaults: a failed create is answered with an error. A batch that was stored nevertheless
// runs.
func TestCreateFaults(t *testing.T) {
	for _, fault := range []storagetest.Fault{storagetest.FailedNotStored, storagetest.FailedButStored} {
		t.Run(fault.String(), func(t *testing.T) {
			w := newWorld(t, nil)
			w.node.SetFault(func(string) storagetest.Fault { return fault })
			a := w.post("?deduplicationKey="+dedupKey, oneGet)
			if a.status != 503 || a.code(t) != "UNAVAILABLE" || a.header.Get("Retry-After") != "1" {
				t.Errorf("%d %s", a.status, a.body)
			}
			if n := strings.Count(w.log(), "storage failed"); n != 1 {
				t.Errorf("logged %d times: %s", n, w.log())
			}
			w.node.SetFault(nil)
			ticket := w.create("?deduplicationKey="+dedupKey, 1)
			if a := w.do("GET", base+"?status=QUEUED"); strings.Count(a.body, "ticket") != 1 || !strings.Contains(a.body, ticket) {
				t.Errorf("after the second create there isn't exactly one batch: %s", a.body)
			}
		})
	}
}

func TestCreateSealFails(t *testing.T) {
	w := newWorld(t, func(o *Options) {
		o.Seal = func(batch.Ticket, string, string) ([]byte, error) { return nil, errors.New("no randomness") }
	})
	if a := w.post("", oneGet); a.status != 500 || a.code(t) != "INTERNAL_ERROR" || strings.Contains(a.body, "randomness") {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := w.do("GET", base+"?status=QUEUED"); a.body != `{"items":[]}` {
		t.Errorf("a batch without credential was stored: %s", a.body)
	}
}

// TestClientGone: a client that is gone gets no answer and causes no log line.
func TestClientGone(t *testing.T) {
	w := newWorld(t, nil)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r := httptest.NewRequestWithContext(ctx, "GET", base+"?status=QUEUED", nil)
	r.Header.Set("Authorization", "Bearer abc")
	rec := httptest.NewRecorder()
	defer func() {
		if v := recover(); v != http.ErrAbortHandler { //nolint:errorlint // a panic's value isn't wrapped
			t.Errorf("recovered %v, want the connection to break", v)
		}
		if rec.Body.Len() > 0 || w.log() != "" {
			t.Errorf("answered %q, logged %q", rec.Body, w.log())
		}
	}()
	w.server.Config.Handler.ServeHTTP(rec, r)
}
