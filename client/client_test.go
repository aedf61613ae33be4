package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sheafapi/sheaf"
	"github.com/sheafapi/sheaf/client"
	"github.com/sheafapi/sheaf/internal/webhook"
)

// world is a service and its upstream, in one process.
type world struct {
	*client.Client
	url  string
	sent sync.Map // path: *atomic.Int64
	held chan struct{}
	gate chan struct{} // when closed, requests below /hold are answered
}

// start starts a service. If through is not nil, it wraps the service's handler.
func start(t *testing.T, o client.Options, through func(next http.Handler) http.Handler) *world {
	t.Helper()
	return startWith(t, sheaf.Options{}, o, through)
}

func startWith(t *testing.T, s sheaf.Options, o client.Options, through func(next http.Handler) http.Handler) *world {
	t.Helper()
	w := &world{held: make(chan struct{}, 1000), gate: make(chan struct{})}
	s.Upstream = sheaf.Upstream{URL: "http://api/{storeId}", Handler: http.HandlerFunc(w.upstream)}
	s.Database.URL, s.Retries.Limit, s.Logger = "sqlite:"+filepath.Join(t.TempDir(), "b.db"), new(0), slog.New(slog.DiscardHandler)
	service, err := sheaf.New(s)
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
		http.Error(rw, `{"errorMessage":"not found"}`, http.StatusNotFound)
		return
	case strings.HasSuffix(r.URL.Path, "/bytes"):
		_, _ = rw.Write([]byte{0xff, 0xfe})
		return
	case strings.HasSuffix(r.URL.Path, "/echo"):
		_, _ = io.Copy(rw, r.Body)
		return
	case strings.Contains(r.URL.Path, "/hold"):
		w.held <- struct{}{}
		<-w.gate
	}
	rw.Header().Set("Content-Type", "application/json")
	fmt.Fprintf(rw, `{"path":%q}`, r.URL.Path)
}

// TestExactBodies checks that the bodies of requests and answers arrive unchanged.
func TestExactBodies(t *testing.T) {
	w := start(t, client.Options{}, nil)
	const body = `{"html":"<b>&</b>","n":12345678901234567890,"price":1.10}`
	ticket := must(w.Create(t.Context(), []client.Request{{Method: "POST", Path: "/echo", Body: json.RawMessage(body)}}, client.CreateOptions{}))
	for r, err := range w.Stream(t.Context(), ticket, client.GetOptions{}) {
		if got := must(r, err).Body; string(got) != body {
			t.Errorf("%s", got)
		}
	}
}

// TestCreateOptions checks that the service gets every option of a batch.
func TestCreateOptions(t *testing.T) {
	w := start(t, client.Options{}, nil)
	get := func(o client.CreateOptions) string {
		t.Helper()
		ticket := must(w.Create(t.Context(), requests(1, "/p/%d"), o))
		r := must(http.NewRequestWithContext(t.Context(), "GET", w.url+"/api/v3/1003/batch/timeline?ticket="+ticket, nil))
		r.Header.Set("Authorization", "Bearer t0ken")
		answer := must(http.DefaultClient.Do(r)) //nolint:bodyclose // the linter does not look into must
		defer answer.Body.Close()
		return string(must(io.ReadAll(answer.Body)))
	}
	text := get(client.CreateOptions{
		Parallel: true, ContinueOnFailure: true, Concurrency: 3, Retries: new(0), RetryBackoff: "fixed:3s", SuccessStatus: "200,404", FailWhen: []string{"/errors", "/a"},
	})
	const want = `"parallel":true,"stopOnFirstFailure":false,"concurrency":3,"retries":0,"retryBackoff":"fixed:3s","successStatus":"200,404","failWhen":"/errors,/a","requests"`
	if !strings.Contains(text, want) {
		t.Errorf("got %s", text)
	}
	if text := get(client.CreateOptions{}); !strings.Contains(text, `"parallel":false,"stopOnFirstFailure":true,"requests"`) {
		t.Errorf("without options: %s", text)
	}
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
		t.Error("canceled twice, or not at all")
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

// TestDeliveries checks that callbacks are listed page by page and can be sent again.
func TestDeliveries(t *testing.T) {
	received := make(chan string, 1000)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { received <- r.Header.Get("Webhook-Id") }))
	defer receiver.Close()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := webhook.CreateSecret(secret); err != nil {
		t.Fatal(err)
	}
	w := startWith(t, sheaf.Options{Webhooks: sheaf.Webhooks{SecretFile: secret, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}}, client.Options{}, nil)
	const n = 120
	tickets := map[string]bool{}
	for range n {
		tickets[must(w.Create(t.Context(), requests(1, "/p/%d"), client.CreateOptions{CallbackURL: receiver.URL}))] = true
	}
	for range n {
		<-received
	}
	var last client.Delivery
	for d, err := range w.Deliveries(t.Context(), "") {
		last = must(d, err)
		delete(tickets, last.Ticket)
	}
	if len(tickets) != 0 || last.URL != receiver.URL || last.Attempts != 1 || last.CreatedAt.IsZero() {
		t.Errorf("%d callbacks are not listed; the last is %+v", len(tickets), last)
	}
	if err := w.Redeliver(t.Context(), last.Ticket); err != nil {
		t.Fatal(err)
	}
	if id := <-received; id != last.ID {
		t.Errorf("%s was sent again, want %s", id, last.ID)
	}
	for d, err := range w.Deliveries(t.Context(), last.Ticket) {
		if must(d, err).Ticket != last.Ticket {
			t.Errorf("%+v", d)
		}
	}
}

// TestLostAnswer checks that only one batch is created if the answer to a create is lost and the
// server then refuses for a while.
func TestLostAnswer(t *testing.T) {
	var calls atomic.Int64
	var reported []string
	w := start(t, client.Options{OnRetry: func(err error, _ time.Duration) { reported = append(reported, err.Error()) }}, func(next http.Handler) http.Handler {
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
		t.Error("the client did not wait for Retry-After")
	}
	must(w.Wait(t.Context(), ticket, nil))
	if w.times("PUT /1003/p/0") != 1 {
		t.Error("the batch was created twice")
	}
	if len(reported) != 2 || !strings.HasSuffix(reported[0], "EOF") || reported[1] != "UNAVAILABLE: later" {
		t.Errorf("%q", reported)
	}
}

// TestRetryIsNotRepeated checks that a call of Retry whose answer is lost is not made again.
func TestRetryIsNotRepeated(t *testing.T) {
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
		t.Error("no error after a lost answer")
	}
	for item, err := range w.List(t.Context(), "") {
		must(w.Wait(t.Context(), must(item, err).Ticket, nil))
	}
	if n := w.times("POST /1003/missing"); n != 2 {
		t.Errorf("sent %d times", n)
	}
}

// breaking breaks the connections of the first answers to GET after the given number of bytes.
// times is the number of these answers.
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

// TestBrokenReads checks that no response is lost or repeated when connections break midway.
func TestBrokenReads(t *testing.T) {
	const n = 100
	stream := func(w *world, ticket string) iter.Seq2[*client.Response, error] {
		return w.Stream(t.Context(), ticket, client.GetOptions{Details: true})
	}
	results := func(w *world, ticket string) iter.Seq2[*client.Response, error] {
		must(w.Wait(t.Context(), ticket, nil))
		return w.Results(t.Context(), ticket, client.GetOptions{})
	}
	for name, c := range map[string]struct {
		read    func(w *world, ticket string) iter.Seq2[*client.Response, error]
		through func(http.Handler) http.Handler
	}{
		"results": {results, breaking(3000, 3)},
		"stream":  {stream, breaking(3000, 3)},
		"results of a server without Sheaf's additions": {results, func(next http.Handler) http.Handler { return breaking(8000, 2)(original(next)) }},
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, client.Options{}, c.through)
			ticket := must(w.Create(t.Context(), requests(n, "/p/%d"), client.CreateOptions{Parallel: true}))
			seen := map[int]bool{}
			for r, err := range c.read(w, ticket) {
				if err != nil {
					t.Fatal(err)
				}
				if seen[r.Index] || r.ID != fmt.Sprint("r", r.Index) {
					t.Errorf("%+v is repeated or has a wrong index", r)
				}
				seen[r.Index] = true
			}
			if len(seen) != n {
				t.Errorf("%d responses of %d", len(seen), n)
			}
		})
	}
}

// TestParts checks that GetOptions select the responses, whether or not the server supports the
// options, and even if connections break.
func TestParts(t *testing.T) {
	for name, through := range map[string]func(http.Handler) http.Handler{
		"sheaf": nil, "without additions": original, "broken": breaking(150, 1),
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, client.Options{}, through)
			ticket := must(w.Create(t.Context(), []client.Request{
				{ID: "0", Method: "GET", Path: "/0"},
				{ID: "1", Method: "GET", Path: "/missing"},
				{ID: "2", Method: "GET", Path: "/2"},
				{ID: "3", Method: "GET", Path: "/missing"},
				{ID: "4", Method: "GET", Path: "/4"},
			}, client.CreateOptions{ContinueOnFailure: true}))
			must(w.Wait(t.Context(), ticket, nil))
			for _, c := range []struct {
				o    client.GetOptions
				want string
			}{
				{client.GetOptions{}, "01234"},
				{client.GetOptions{After: 2}, "234"},
				{client.GetOptions{After: 1, Limit: 2}, "12"},
				{client.GetOptions{Limit: 1}, "0"},
				{client.GetOptions{Only: client.Failed}, "13"},
				{client.GetOptions{Only: client.Succeeded, After: 1, Limit: 1}, "2"},
			} {
				for what, seq := range map[string]iter.Seq2[*client.Response, error]{
					"results": w.Results(t.Context(), ticket, c.o), "stream": w.Stream(t.Context(), ticket, c.o),
				} {
					got := ""
					for r, err := range seq {
						got += must(r, err).ID
					}
					if got != c.want {
						t.Errorf("%s, %+v: %s, want %s", what, c.o, got, c.want)
					}
				}
			}
		})
	}
}

// original limits the service to the original batch API, without Sheaf's additions.
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

// TestOriginal checks that the client works with a server without Sheaf's additions.
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
	if e, ok := errors.AsType[*client.Error](err); !ok || e.StatusCode != http.StatusNotFound || !strings.Contains(e.Message, "check the server's URL") {
		t.Errorf("%v", err)
	}
}

// TestWaitProgress checks that Wait reports progress and ends with its context.
func TestWaitProgress(t *testing.T) {
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

// TestNoRetry checks that permanent failures are returned at once and that RetryFor limits retries.
func TestNoRetry(t *testing.T) {
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
		{502, `<html>`, 100 * time.Millisecond, "answered 502 Bad Gateway, which isn't an answer from the batch API; check the server's URL", 1},
		{200, `<html>`, 0, "but not with JSON of the batch API", 1},
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
		`the server is "x" but must be a URL such as http://127.0.0.1:8080`:         {Server: "x", Store: "1", Token: "t"},
		"the server's URL must not have a user name, query or fragment":             {Server: "http://a:b@c", Store: "1", Token: "t"},
		`the store is "../x" but must be 1 to 64 of the characters A-Z a-z 0-9 _ -`: {Server: "http://c", Store: "../x", Token: "t"},
		"a store is required": {Server: "http://c", Token: "t"},
		"a token is required": {Server: "http://c", Store: "1"},
		"the token has an invalid character: a space, a control character or one beyond ASCII": {Server: "http://c", Store: "1", Token: "t\n"},
	} {
		if _, err := client.New(o); err == nil || err.Error() != want {
			t.Errorf("%v", err)
		}
	}
}

// TestBodyForms checks that Bytes returns every form of body as the upstream sent it.
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
