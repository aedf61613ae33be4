package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sheafapi/sheaf"
	"github.com/sheafapi/sheaf/client"
)

// world is a service with an upstream in its process.
type world struct {
	*client.Client
	url  string
	sent sync.Map // path: *atomic.Int64
	held chan struct{}
	gate chan struct{} // closed: what is below /hold may go on
}

// start starts a service, behind through unless that is nil.
func start(t *testing.T, o client.Options, through func(next http.Handler) http.Handler) *world {
	t.Helper()
	w := &world{held: make(chan struct{}, 1000), gate: make(chan struct{})}
	service, err := sheaf.New(sheaf.Options{
		Upstream: "http://api/{storeId}", UpstreamHandler: http.HandlerFunc(w.upstream),
		Database: "sqlite:" + filepath.Join(t.TempDir(), "b.db"), RetryLimit: -1, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { _ = service.Run(ctx) })
	var handler http.Handler = service
	if through != nil {
		handler = through(handler)
	}
	server := httptest.NewServer(handler)
	t.Cleanup(func() {
		server.CloseClientConnections()
		cancel()
		run.Wait()
		server.Close()
		_ = service.Close()
	})
	w.url = server.URL
	o.Server, o.Store, o.Token = server.URL, "1003", "t0ken"
	if w.Client, err = client.New(o); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) upstream(rw http.ResponseWriter, r *http.Request) {
	n, _ := w.sent.LoadOrStore(r.Method+" "+r.URL.Path, &atomic.Int64{})
	n.(*atomic.Int64).Add(1)
	switch {
	case strings.HasSuffix(r.URL.Path, "/missing"):
		http.Error(rw, `{"errorMessage":"there is none"}`, http.StatusNotFound)
		return
	case strings.HasSuffix(r.URL.Path, "/bytes"):
		_, _ = rw.Write([]byte{0xff, 0xfe})
		return
	case strings.Contains(r.URL.Path, "/hold"):
		w.held <- struct{}{}
		<-w.gate
	}
	rw.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(rw, `{"path":%q}`, r.URL.Path)
}

func (w *world) times(call string) int64 {
	n, ok := w.sent.Load(call)
	if !ok {
		return 0
	}
	return n.(*atomic.Int64).Load()
}

func requests(n int, path string) (out []client.Request) {
	for i := range n {
		out = append(out, client.Request{ID: fmt.Sprint("r", i), Method: "PUT", Path: fmt.Sprintf(path, i), Body: map[string]int{"n": i}})
	}
	return out
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestBatch(t *testing.T) {
	w, ctx := start(t, client.Options{}, nil), t.Context()
	ticket := must(w.Create(ctx, []client.Request{
		{ID: "a", Method: "GET", Path: "products"},
		{Method: "GET", Path: "/missing"},
		{Method: "GET", Path: "/bytes"},
	}, client.CreateOptions{ContinueOnFailure: true, GroupID: "spring"}))
	if b := must(w.Wait(ctx, ticket, nil)); b.Status != client.Completed || b.CompletedRequests != 3 || b.Responses != nil {
		t.Fatalf("%+v", b)
	}
	b := must(w.Get(ctx, ticket, client.GetOptions{}))
	if len(b.Responses) != 3 || b.Responses[0].ID != "a" || b.Responses[2].Index != 2 {
		t.Fatalf("%+v", b)
	}
	answer, err := client.Into[struct{ Path string }](&b.Responses[0])
	if err != nil || answer.Path != "/1003/products" {
		t.Errorf("%v, %v", answer, err)
	}
	_, err = client.Into[string](&b.Responses[1])
	if failed, ok := errors.AsType[*client.RequestError](err); !ok || failed.Response.StatusCode != 404 || err.Error() != "request #1 failed: 404 Not Found" {
		t.Errorf("%v", err)
	}
	if raw := must(b.Responses[2].Bytes()); string(raw) != "\xff\xfe" {
		t.Errorf("%x", raw)
	}
	if b = must(w.Get(ctx, ticket, client.GetOptions{Details: true, After: 1, Limit: 1})); len(b.Responses) != 1 || b.Responses[0].Index != 1 ||
		b.Responses[0].Path != "/missing" || b.GroupID != "spring" || b.FinishedAt.IsZero() || b.Responses[0].Attempts != 1 {
		t.Errorf("%+v", b)
	}
	again := must(w.Retry(ctx, ticket))
	if b = must(w.Wait(ctx, again, nil)); b.TotalRequests != 1 {
		t.Errorf("%+v", b)
	}
	if g := must(w.Group(ctx, "spring")); g.TotalRequests != 4 || g.Responses[client.Failed] != 2 || g.Batches[client.Completed] != 2 {
		t.Errorf("%+v", g)
	}
	var found []string
	for item, err := range w.List(ctx, "") {
		found = append(found, must(item, err).Ticket)
	}
	if len(found) != 2 || found[0] != again || found[1] != ticket {
		t.Errorf("%v", found)
	}
	if !must(w.Delete(ctx, ticket)) || must(w.Delete(ctx, ticket)) {
		t.Error("deleted twice, or not at all")
	}
	_, err = w.Get(ctx, ticket, client.GetOptions{})
	if refused, ok := errors.AsType[*client.Error](err); !ok || refused.Code != client.BatchNotFound || refused.StatusCode != 404 {
		t.Errorf("%v", err)
	}
}

func TestSteer(t *testing.T) {
	w, ctx := start(t, client.Options{}, nil), t.Context()
	if !must(w.Pause(ctx, "")) {
		t.Error("the queue was paused already")
	}
	ticket := must(w.Create(ctx, requests(3, "/hold/%d"), client.CreateOptions{}))
	if !must(w.Resume(ctx, "")) {
		t.Error("the queue was not paused")
	}
	<-w.held
	if !must(w.Cancel(ctx, ticket)) || must(w.Cancel(ctx, ticket)) {
		t.Error("cancelled twice, or not at all")
	}
	close(w.gate)
	if b := must(w.Wait(ctx, ticket, nil)); b.CompletedRequests != 1 {
		t.Errorf("%+v", b)
	}
	for range 2 {
		must(w.Create(ctx, requests(1, "/x/%d"), client.CreateOptions{GroupID: "g"}))
	}
	must(w.CancelGroup(ctx, "g"))
}

// TestLostAnswer: the answer of a create is lost, and the server refuses for a while. There is
// one batch all the same.
func TestLostAnswer(t *testing.T) {
	var calls atomic.Int64
	var told []string
	w := start(t, client.Options{OnRetry: func(err error, _ time.Duration) { told = append(told, err.Error()) }}, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method != http.MethodPost:
			case calls.Add(1) == 1:
				next.ServeHTTP(httptest.NewRecorder(), r)
				panic(http.ErrAbortHandler)
			case calls.Load() == 2:
				w.Header().Set("Retry-After", "1")
				http.Error(w, `{"errorMessage":"later","errorCode":"UNAVAILABLE"}`, http.StatusServiceUnavailable)
				return
			}
			next.ServeHTTP(w, r)
		})
	})
	began := time.Now()
	ticket := must(w.Create(t.Context(), requests(2, "/p/%d"), client.CreateOptions{}))
	if time.Since(began) < time.Second {
		t.Error("Retry-After was not waited for")
	}
	must(w.Wait(t.Context(), ticket, nil))
	if w.times("PUT /1003/p/0") != 1 {
		t.Error("the batch was created twice")
	}
	if len(told) != 2 || !strings.HasSuffix(told[0], "EOF") || told[1] != "UNAVAILABLE: later" {
		t.Errorf("%q", told)
	}
}

// TestRetryIsMadeOnce: a retry whose answer is lost is not repeated.
func TestRetryIsMadeOnce(t *testing.T) {
	lose := false
	w := start(t, client.Options{}, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if lose && r.Method == http.MethodPost {
				next.ServeHTTP(httptest.NewRecorder(), r)
				panic(http.ErrAbortHandler)
			}
			next.ServeHTTP(w, r)
		})
	})
	ticket := must(w.Create(t.Context(), []client.Request{{Method: "POST", Path: "/missing"}}, client.CreateOptions{}))
	must(w.Wait(t.Context(), ticket, nil))
	lose = true
	if _, err := w.Retry(t.Context(), ticket); err == nil {
		t.Error("a lost answer is no error")
	}
	for item, err := range w.List(t.Context(), "") {
		must(w.Wait(t.Context(), must(item, err).Ticket, nil))
	}
	if n := w.times("POST /1003/missing"); n != 2 {
		t.Errorf("sent %d times", n)
	}
}

// breaking passes answers to GET on in pieces of so many bytes, and breaks the connection after
// each, until it has done so often enough.
func breaking(bytes, times int) func(next http.Handler) http.Handler {
	var broken atomic.Int64
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && !strings.Contains(r.URL.RawQuery, "responses=false") && broken.Add(1) <= int64(times) {
				next.ServeHTTP(&breaker{w, bytes}, r)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
}

type breaker struct {
	http.ResponseWriter
	left int
}

func (b *breaker) Unwrap() http.ResponseWriter { return b.ResponseWriter }

func (b *breaker) Write(p []byte) (int, error) {
	n, err := b.ResponseWriter.Write(p[:min(len(p), b.left)])
	if b.left -= n; b.left == 0 {
		_ = http.NewResponseController(b.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}

// TestBrokenReads: connections that break midway lose no response and repeat none.
func TestBrokenReads(t *testing.T) {
	const n = 100
	for name, read := range map[string]func(w *world, ticket string) func(func(*client.Response, error) bool){
		"results": func(w *world, ticket string) func(func(*client.Response, error) bool) {
			must(w.Wait(t.Context(), ticket, nil))
			return w.Results(t.Context(), ticket, client.GetOptions{})
		},
		"stream": func(w *world, ticket string) func(func(*client.Response, error) bool) {
			return w.Stream(t.Context(), ticket, client.GetOptions{Details: true})
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, client.Options{}, breaking(3000, 5))
			ticket := must(w.Create(t.Context(), requests(n, "/p/%d"), client.CreateOptions{Parallel: true}))
			seen := map[int]bool{}
			for r, err := range read(w, ticket) {
				if err != nil {
					t.Fatal(err)
				}
				if seen[r.Index] || r.ID != fmt.Sprint("r", r.Index) {
					t.Errorf("%+v comes twice, or is another one", r)
				}
				seen[r.Index] = true
			}
			if len(seen) != n {
				t.Errorf("%d responses of %d", len(seen), n)
			}
		})
	}
}

// original passes on only what the wire contract has.
func original(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, more := range []string{"/group", "/retry", "/pause", "/resume"} {
			if strings.HasSuffix(r.URL.Path, "/batch"+more) {
				http.NotFound(w, r)
				return
			}
		}
		q := r.URL.Query()
		for _, name := range []string{"wait", "details", "after", "only", "responses", "dryRun"} {
			q.Del(name)
		}
		if q.Has("ticket") {
			q.Del("limit")
		}
		r.URL.RawQuery = q.Encode()
		r.Header.Del("Accept")
		r.Header.Del("Prefer")
		next.ServeHTTP(w, r)
	})
}

// TestOriginal: a server that knows the wire contract alone is served as well.
func TestOriginal(t *testing.T) {
	w, ctx := start(t, client.Options{}, original), t.Context()
	ticket := must(w.Create(ctx, requests(5, "/p/%d"), client.CreateOptions{}))
	seen := 0
	for r, err := range w.Stream(ctx, ticket, client.GetOptions{}) {
		if err != nil || r.Index != seen || r.ID != fmt.Sprint("r", seen) {
			t.Fatalf("%+v, %v", r, err)
		}
		seen++
	}
	if seen != 5 {
		t.Errorf("%d responses", seen)
	}
	_, err := w.Group(ctx, "g")
	if e, ok := errors.AsType[*client.Error](err); !ok || e.StatusCode != http.StatusNotFound || !strings.Contains(e.Message, "is the address right?") {
		t.Errorf("%v", err)
	}
}

// TestWaitIsTold: progress is told of, and a wait ends with its context.
func TestWaitIsTold(t *testing.T) {
	w := start(t, client.Options{}, nil)
	ctx, cancel := context.WithCancel(t.Context())
	ticket := must(w.Create(ctx, append(requests(1, "/p/%d"), requests(1, "/hold/%d")...), client.CreateOptions{}))
	<-w.held
	_, err := w.Wait(ctx, ticket, func(b *client.Batch) {
		if b.CompletedRequests == 1 && b.TotalRequests == 2 && b.Status == client.InProgress {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	close(w.gate)
}

// TestNoRepetition: what does not pass is told at once, and RetryFor ends the rest.
func TestNoRepetition(t *testing.T) {
	for _, c := range []struct {
		status int
		body   string
		within time.Duration
		want   string
		calls  int64
	}{
		{400, `{"errorMessage":"no","errorCode":"WRONG_PARAMETER"}`, 0, "WRONG_PARAMETER: no", 1},
		{401, `{"errorMessage":"who?","errorCode":"MISSING_API_TOKEN"}`, 0, "MISSING_API_TOKEN: who?", 1},
		{503, `{"errorMessage":"later","errorCode":"UNAVAILABLE"}`, -1, "UNAVAILABLE: later", 1},
		{502, `<html>`, 100 * time.Millisecond, "answered 502 Bad Gateway, which is no answer of the batch API: is the address right?", 1},
		{200, `<html>`, 0, "is no JSON of the batch API", 1},
		{301, ``, 0, "301 Moved Permanently", 1},
	} {
		var calls atomic.Int64
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			calls.Add(1)
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(c.status)
			_, _ = io.WriteString(w, c.body)
		}))
		cl := must(client.New(client.Options{Server: s.URL, Store: "1", Token: "t", RetryFor: c.within}))
		_, err := cl.Get(t.Context(), "x", client.GetOptions{})
		if err == nil || !strings.Contains(err.Error(), c.want) || calls.Load() != c.calls {
			t.Errorf("%d: %v after %d calls", c.status, err, calls.Load())
		}
		s.Close()
	}
}

func TestOptions(t *testing.T) {
	for want, o := range map[string]client.Options{
		`the server is "x" and has to be an address such as http://127.0.0.1:8080`: {Server: "x", Store: "1", Token: "t"},
		"the server's address must have no user name, query or fragment":           {Server: "http://a:b@c", Store: "1", Token: "t"},
		"a store is required": {Server: "http://c", Token: "t"},
		"a token is required": {Server: "http://c", Store: "1"},
		"the token has a character that no token has: a space, a line end or one beyond ASCII": {Server: "http://c", Store: "1", Token: "t\n"},
	} {
		if _, err := client.New(o); err == nil || err.Error() != want {
			t.Errorf("%v", err)
		}
	}
}

// TestBodyForms: a body comes back as the upstream sent it.
func TestBodyForms(t *testing.T) {
	for text, want := range map[string]string{
		`{"httpBody":{"n": 12345678901234567890}}`:        `{"n": 12345678901234567890}`,
		`{"httpBody":"a\nb"}`:                             "a\nb",
		`{"httpBody":"//4=","httpBodyEncoding":"base64"}`: "\xff\xfe",
		`{}`: "",
	} {
		var r client.Response
		if err := json.Unmarshal([]byte(text), &r); err != nil || r.Index != -1 {
			t.Fatal(err, r.Index)
		}
		if got := must(r.Bytes()); string(got) != want {
			t.Errorf("%q", got)
		}
	}
}
