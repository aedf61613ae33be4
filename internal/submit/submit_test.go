package submit_test

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sheafapi/sheaf"
	"github.com/sheafapi/sheaf/client"
	"github.com/sheafapi/sheaf/internal/submit"
	"pgregory.net/rapid"
)

// world is a service and its upstream, in one process.
type world struct {
	url   string
	mu    sync.Mutex
	calls map[string]int    // by method and path
	fails map[string]int    // the status codes with which paths are answered
	says  map[string]string // the JSON with which paths are answered
	sent  map[string]string // the last body by method and path
}

func start(t *testing.T) *world {
	t.Helper()
	w := &world{calls: map[string]int{}, fails: map[string]int{}, sent: map[string]string{}}
	service, err := sheaf.New(sheaf.Options{
		Upstream: sheaf.Upstream{URL: "http://api/{storeId}", Handler: http.HandlerFunc(w.upstream)},
		Retries:  sheaf.Retries{Limit: new(0), OutageLimit: new(time.Duration(0))}, // failures count, as the contract's letter says
		Database: sheaf.Database{URL: "sqlite:" + filepath.Join(t.TempDir(), "b.db")},
		Logger:   slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { _ = service.Run(ctx) })
	server := httptest.NewServer(service)
	t.Cleanup(func() {
		server.CloseClientConnections()
		cancel()
		run.Wait()
		server.Close()
		_ = service.Close()
	})
	w.url = server.URL
	return w
}

func (w *world) upstream(rw http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	w.mu.Lock()
	w.calls[r.Method+" "+r.URL.RequestURI()]++
	w.sent[r.Method+" "+r.URL.RequestURI()] = string(body)
	code, says := w.fails[r.URL.Path], w.says[r.URL.Path]
	w.mu.Unlock()
	rw.Header().Set("Content-Type", "application/json")
	if code != 0 {
		rw.WriteHeader(code)
		fmt.Fprintf(rw, `{"errorMessage":"no, \"%d\""}`, code)
		return
	}
	if says != "" {
		_, _ = io.WriteString(rw, says)
		return
	}
	fmt.Fprintf(rw, `{"at":%q,"got":%s}`, r.URL.Path, append(body, " null"[:max(0, 5-len(body))]...)[:max(len(body), 5)])
}

func (w *world) body(call string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent[call]
}

func (w *world) count(call string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls[call]
}

// clients returns a function that creates clients for a store.
func (w *world) clients(store string, transport http.RoundTripper) func(time.Duration, func(error, time.Duration)) (*client.Client, error) {
	return func(retryFor time.Duration, onRetry func(error, time.Duration)) (*client.Client, error) {
		o := client.Options{Server: w.url, Store: store, Token: "t0ken", RetryFor: retryFor, OnRetry: onRetry}
		if transport != nil {
			o.HTTPClient = &http.Client{Transport: transport}
		}
		return client.New(o)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func file(t rapid.TB, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// begin plans and starts a submission to a store.
func begin(t *testing.T, w *world, store string, o submit.Options) *submit.Run {
	t.Helper()
	o.Server, o.Store = w.url, store
	p, err := submit.NewPlan(o)
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.Start(io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// allowed allows any journal.
func allowed(submit.Header) error { return nil }

func lines(t rapid.TB, path string) (out []map[string]any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		var one map[string]any
		if err := json.Unmarshal(line, &one); err != nil {
			t.Fatalf("%.100s: %v", line, err)
		}
		out = append(out, one)
	}
	return out
}

// TestCSV checks that results follow the columns of the input, in its order, and that the failed requests
// are written in the same format.
func TestCSV(t *testing.T) {
	w, dir := start(t), t.TempDir()
	w.fails["/1/products/3"], w.fails["/1/products/2"] = 404, 409
	in := file(t, dir, "prices.csv", "id,price,note\n1,1.50,\n2,2,\"a, \"\"b\"\"\"\n3,3,\"two\nlines\"\n4,4.10,\n")
	o := submit.Options{
		Input:      submit.Input{Path: in, Template: `{"method":"PUT","path":"/products/{{id}}","body":{"price":{{price:number}}}}`},
		FailedOnly: filepath.Join(dir, "again.csv"),
	}
	s, err := begin(t, w, "1", o).Do(t.Context(), w.clients("1", nil))
	if err != nil {
		t.Fatal(err)
	}
	want := submit.Counts{Completed: 2, Failed: 2}
	if s.Counts != want || s.Requests != 4 || s.Batches != 1 || len(s.Groups) != 2 {
		t.Errorf("%+v", s)
	}
	table := must(csv.NewReader(must(os.Open(filepath.Join(dir, "prices.results.csv")))).ReadAll())
	var got []string
	for _, row := range table {
		got = append(got, strings.Join(row, "|"))
	}
	expect(t, strings.Join(got, "\n"), `id|price|note|result_status|result_code|result_message|result_body
1|1.50||COMPLETED|200|OK|{"at":"/1/products/1","got":{"price":1.50}}
2|2|a, "b"|FAILED|409|Conflict|{"errorMessage":"no, \"409\""}
3|3|two
lines|FAILED|404|Not Found|{"errorMessage":"no, \"404\""}
4|4.10||COMPLETED|200|OK|{"at":"/1/products/4","got":{"price":4.10}}`)
	expect(t, string(must(os.ReadFile(o.FailedOnly))), "id,price,note\n2,2,\"a, \"\"b\"\"\"\n3,3,\"two\nlines\"\n")
	if left := must(filepath.Glob(filepath.Join(dir, "*sheaf-run*"))); len(left) > 0 {
		t.Errorf("%v remains", left)
	}
	// Submit the failed requests.
	delete(w.fails, "/1/products/3")
	o.Input.Path, o.FailedOnly = o.FailedOnly, ""
	s = must(begin(t, w, "1", o).Do(t.Context(), w.clients("1", nil)))
	if want := (submit.Counts{Completed: 1, Failed: 1}); s.Counts != want {
		t.Errorf("%+v", s)
	}
}

func expect(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// TestNDJSON checks that results have the line numbers of the input, and that the failed requests of an
// array are written one per line.
func TestNDJSON(t *testing.T) {
	w, dir := start(t), t.TempDir()
	w.fails["/1/b"] = 400
	in := file(t, dir, "calls.json", `[{"id":"x","method":"GET","path":"/a"},
 {"method":"DELETE",
  "path":"/b?q=1"}]`)
	o := submit.Options{Input: submit.Input{Path: in}, FailedOnly: filepath.Join(dir, "again.ndjson"), Results: filepath.Join(dir, "out.ndjson")}
	s := must(begin(t, w, "1", o).Do(t.Context(), w.clients("1", nil)))
	got := string(must(os.ReadFile(s.Results)))
	ticket, _ := lines(t, s.Results)[0]["ticket"].(string)
	expect(t, strings.ReplaceAll(got, ticket, "T"), `{"line":1,"id":"x","method":"GET","path":"/a","ticket":"T","status":"COMPLETED","httpStatusCode":200,"httpStatusLine":"OK","httpBody":{"at":"/1/a","got":null}}
{"line":2,"method":"DELETE","path":"/b?q=1","ticket":"T","status":"FAILED","httpStatusCode":400,"httpStatusLine":"Bad Request","httpBody":{"errorMessage":"no, \"400\""}}
`)
	expect(t, string(must(os.ReadFile(o.FailedOnly))), `{"method":"DELETE","path":"/b?q=1"}`+"\n")
}

// TestInDoubt checks that a POST that may have been carried out is not among the failed requests to send
// again.
func TestInDoubt(t *testing.T) {
	w, dir := start(t), t.TempDir()
	w.fails["/1/doubt"] = 504
	in := file(t, dir, "a.ndjson", "{\"method\":\"POST\",\"path\":\"/doubt\",\"body\":{}}\n{\"method\":\"PUT\",\"path\":\"/doubt\",\"body\":{}}\n")
	o := submit.Options{Input: submit.Input{Path: in}, FailedOnly: filepath.Join(dir, "again.ndjson")}
	s := must(begin(t, w, "1", o).Do(t.Context(), w.clients("1", nil)))
	if want := (submit.Counts{Failed: 2, InDoubt: 1}); s.Counts != want {
		t.Errorf("%+v", s)
	}
	expect(t, string(must(os.ReadFile(o.FailedOnly))), `{"method":"PUT","path":"/doubt","body":{}}`+"\n")
	if got := lines(t, s.Results); got[0]["inDoubt"] != true || got[0]["status"] != "FAILED" || got[1]["inDoubt"] != nil {
		t.Errorf("%v", got)
	}
}

// plainServer makes the service answer like a server without Sheaf's additions.
type plainServer struct{}

func (plainServer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	q := r.URL.Query()
	for _, name := range []string{"wait", "details", "after", "only", "limit"} {
		q.Del(name)
	}
	r.URL.RawQuery = q.Encode()
	for _, name := range []string{"Accept", "Prefer", "Accept-Encoding"} {
		r.Header.Del(name)
	}
	resp, err := (&http.Transport{DisableCompression: true, DisableKeepAlives: true}).RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	body = bytes.ReplaceAll(body, []byte(`"inDoubt":true,`), nil)
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	return resp, nil
}

// TestInDoubtOfPlainServer checks that a POST without an answer is not among the failed requests to send
// again if the server doesn't report requests in doubt.
func TestInDoubtOfPlainServer(t *testing.T) {
	w, dir := start(t), t.TempDir()
	w.fails["/1/doubt"], w.fails["/1/bad"] = 504, 400
	in := file(t, dir, "a.ndjson", "{\"method\":\"POST\",\"path\":\"/doubt\"}\n{\"method\":\"PUT\",\"path\":\"/doubt\"}\n{\"method\":\"POST\",\"path\":\"/bad\"}\n")
	o := submit.Options{Input: submit.Input{Path: in}, FailedOnly: filepath.Join(dir, "again.ndjson")}
	s := must(begin(t, w, "1", o).Do(t.Context(), w.clients("1", plainServer{})))
	if want := (submit.Counts{Failed: 3, InDoubt: 1}); s.Counts != want {
		t.Errorf("%+v", s)
	}
	expect(t, string(must(os.ReadFile(o.FailedOnly))), `{"method":"PUT","path":"/doubt"}`+"\n"+`{"method":"POST","path":"/bad"}`+"\n")
}

// TestStopOnFailure checks that nothing is sent after the first failure, not even from later batches.
func TestStopOnFailure(t *testing.T) {
	w, dir := start(t), t.TempDir()
	w.fails["/1/p/700"] = 400
	var text strings.Builder
	for i := range 1800 {
		fmt.Fprintf(&text, "{\"method\":\"PUT\",\"path\":\"/p/%d\"}\n", i)
	}
	o := submit.Options{Input: submit.Input{Path: file(t, dir, "a.ndjson", text.String())}, Choices: submit.Choices{StopOnFailure: true}, FailedOnly: filepath.Join(dir, "again.ndjson")}
	s := must(begin(t, w, "1", o).Do(t.Context(), w.clients("1", nil)))
	if want := (submit.Counts{Completed: 700, Failed: 1, NotExecuted: 1099}); s.Counts != want {
		t.Errorf("%+v", s)
	}
	if n := len(lines(t, o.FailedOnly)); n != 1100 {
		t.Errorf("%d requests are to be sent again", n)
	}
	for i := range 1800 {
		if n, want := w.count(fmt.Sprintf("PUT /1/p/%d", i)), 0; i <= 700 {
			want = 1
			if n != want {
				t.Fatalf("request %d was sent %d times", i, n)
			}
		} else if n != want {
			t.Fatalf("request %d was sent %d times", i, n)
		}
	}
}

// mortalTransport simulates the death of a process at one of its calls, before or after the call is
// carried out.
type mortalTransport struct {
	left   atomic.Int64
	before bool
	die    context.CancelFunc
}

var errDead = errors.New("the process is dead")

func (d *mortalTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	n := d.left.Add(-1)
	if n < 0 || n == 0 && d.before {
		d.die()
		return nil, errDead
	}
	resp, err := http.DefaultTransport.RoundTrip(r)
	if n > 0 || err != nil {
		return resp, err
	}
	_, _ = io.Copy(io.Discard, resp.Body) // it has been carried out
	resp.Body.Close()
	d.die()
	return nil, errDead
}

// TestDeaths checks that each request is sent once and has one result, in the order of the input,
// wherever the process dies and whatever it was writing.
//
// It runs only 25 checks, because each one is slow. make chaos runs more, with -rapid.checks.
func TestDeaths(t *testing.T) {
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue {
		checks.Value.Set("25")
		defer checks.Value.Set(checks.DefValue)
	}
	w, dir := start(t), t.TempDir()
	check := 0
	rapid.Check(t, func(t *rapid.T) {
		check++
		store := fmt.Sprint("s", check)
		n := rapid.SampledFrom([]int{0, 0, 0, 500, 1000}).Draw(t, "batches") + rapid.IntRange(1, 10).Draw(t, "requests")
		var text strings.Builder
		for i := range n {
			fmt.Fprintf(&text, "{\"method\":\"POST\",\"path\":\"/p/%d\",\"body\":{\"n\":%d}}\n", i, i)
		}
		in := file(t, dir, store+".ndjson", text.String())
		journal := submit.JournalPath(in)
		p := must(submit.NewPlan(submit.Options{Input: submit.Input{Path: in}, Server: w.url, Store: store, Choices: submit.Choices{Parallel: rapid.Bool().Draw(t, "parallel")}}))
		run := must(p.Start(io.Discard))
		for deaths := 0; ; deaths++ {
			ctx, cancel := context.WithCancel(context.Background())
			d := &mortalTransport{die: cancel, before: rapid.Bool().Draw(t, "before")}
			d.left.Store(int64(rapid.IntRange(1, 14).Draw(t, "calls")))
			if deaths == 6 {
				d.left.Store(1 << 40)
			}
			s, err := run.Do(ctx, w.clients(store, d))
			dead := ctx.Err() != nil
			cancel()
			if err == nil {
				if s.Completed != n || s.Requests != n {
					t.Fatalf("%+v", s)
				}
				break
			}
			if !dead {
				t.Fatal(err)
			}
			if rapid.Bool().Draw(t, "torn") { // an incomplete line of the journal
				appendTo(t, journal, `{"chunk":0,"at":"2026`)
				appendTo(t, filepath.Join(dir, store+".results.ndjson"), strings.Repeat(`{"line":1,"meth`, 30_000))
			}
			if _, err := p.Start(io.Discard); err == nil || !strings.Contains(err.Error(), "an unfinished submission") {
				t.Fatalf("started again: %v", err)
			}
			if run, err = submit.Resume(in, false, allowed, io.Discard); err != nil {
				t.Fatal(err)
			}
		}
		results := lines(t, filepath.Join(dir, store+".results.ndjson"))
		if len(results) != n {
			t.Fatalf("%d results of %d", len(results), n)
		}
		for i, r := range results {
			if r["line"] != float64(i+1) || r["path"] != fmt.Sprintf("/p/%d", i) || r["httpBody"].(map[string]any)["at"] != fmt.Sprintf("/%s/p/%d", store, i) {
				t.Fatalf("result %d is %v", i, r)
			}
		}
		for i := range n {
			if sent := w.count(fmt.Sprintf("POST /%s/p/%d", store, i)); sent != 1 {
				t.Fatalf("request %d was sent %d times", i, sent)
			}
		}
	})
}

func appendTo(t rapid.TB, path, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString(text)
		f.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
}

// original passes on only what Ecwid's API has (docs/contract.md#what-sheaf-adds).
func original(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		for name := range q {
			switch name {
			case "ticket", "ticketId", "status", "limit", "offset", "allowParallelMode", "stopOnFirstFailure", "deduplicationKey", "groupId", "escapedJson":
			default:
				q.Del(name)
			}
		}
		if r.Method == http.MethodGet && q.Get("ticket") == "" && q.Get("status") == "" {
			http.Error(w, `{"errorMessage":"ticket is missing","errorCode":"WRONG_PARAMETER"}`, http.StatusBadRequest)
			return
		}
		r.URL.RawQuery = q.Encode()
		r.Header.Del("Accept")
		r.Header.Del("Prefer")
		next.ServeHTTP(w, r)
	})
}

// TestOriginal checks that submit works with a server without Sheaf's additions.
func TestOriginal(t *testing.T) {
	w, dir := start(t), t.TempDir()
	target := w.url
	server := httptest.NewServer(original(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { forward(rw, r, target) })))
	defer server.Close()
	w.url = server.URL
	w.fails["/1/p/3"] = 404
	var text strings.Builder
	for i := range 1200 {
		fmt.Fprintf(&text, "{\"method\":\"PUT\",\"path\":\"/p/%d\"}\n", i)
	}
	s := must(begin(t, w, "1", submit.Options{Input: submit.Input{Path: file(t, dir, "a.ndjson", text.String())}}).Do(t.Context(), w.clients("1", nil)))
	if want := (submit.Counts{Completed: 1199, Failed: 1}); s.Counts != want {
		t.Errorf("%+v", s)
	}
	for i, r := range lines(t, s.Results) {
		if r["line"] != float64(i+1) || r["path"] != fmt.Sprintf("/p/%d", i) {
			t.Fatalf("result %d is %v", i, r)
		}
	}
}

func forward(w http.ResponseWriter, r *http.Request, target string) {
	q := must(http.NewRequestWithContext(r.Context(), r.Method, target+r.URL.RequestURI(), r.Body))
	q.Header = r.Header.Clone()
	q.Header.Del("Accept-Encoding") // so that the transport decodes the answer
	resp, err := http.DefaultTransport.RoundTrip(q)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
	w.WriteHeader(resp.StatusCode)
	_, _ = io.Copy(w, resp.Body)
}

// die starts a submission and kills it at one of its calls.
func die(t *testing.T, w *world, r *submit.Run, store string, calls int, before bool) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	d := &mortalTransport{die: cancel, before: before}
	d.left.Store(int64(calls))
	if _, err := r.Do(ctx, w.clients(store, d)); err == nil {
		t.Fatal("the submission was not killed")
	}
}

// backdate changes the times in a journal, as if its process had died long ago.
func backdate(t *testing.T, path string, by time.Duration) {
	t.Helper()
	var out []byte
	for _, line := range lines(t, path) {
		if at, ok := line["at"].(string); ok {
			line["at"] = must(time.Parse(time.RFC3339, at)).Add(-by).Format(time.RFC3339)
		}
		out = append(append(out, must(json.Marshal(line))...), '\n')
	}
	if err := os.WriteFile(path, out, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestLongAgo checks that a batch whose answer was lost is found by its group after its key was forgotten.
// If it isn't found, that is an error.
func TestLongAgo(t *testing.T) {
	w, dir := start(t), t.TempDir()
	in := file(t, dir, "a.ndjson", `{"method":"POST","path":"/a","body":{}}`)
	die(t, w, begin(t, w, "1", submit.Options{Input: submit.Input{Path: in}}), "1", 1, false)
	backdate(t, submit.JournalPath(in), 2*time.Hour)
	s := must(must(submit.Resume(in, false, allowed, io.Discard)).Do(t.Context(), w.clients("1", nil)))
	if want := (submit.Counts{Completed: 1}); s.Counts != want || w.count("POST /1/a") != 1 {
		t.Errorf("%+v, sent %d times", s, w.count("POST /1/a"))
	}

	again := submit.Options{Input: submit.Input{Path: in}, Overwrite: true}
	die(t, w, begin(t, w, "2", again), "2", 1, true) // the batch was not created, but the journal can't know that
	backdate(t, submit.JournalPath(in), 2*time.Hour)
	for range 2 {
		if _, err := must(submit.Resume(in, false, allowed, io.Discard)).Do(t.Context(), w.clients("2", nil)); err == nil || !strings.Contains(err.Error(), "is unknown") {
			t.Fatalf("got %v", err)
		}
	}
	s = must(must(submit.Resume(in, true, allowed, io.Discard)).Do(t.Context(), w.clients("2", nil)))
	if want := (submit.Counts{Unknown: 1}); s.Counts != want || w.count("POST /2/a") != 0 {
		t.Errorf("%+v, sent %d times", s, w.count("POST /2/a"))
	}
}

// TestForgotten checks that a batch that the service no longer has causes an error, unless giveUp is set.
func TestForgotten(t *testing.T) {
	w, dir := start(t), t.TempDir()
	in := file(t, dir, "a.ndjson", `{"method":"POST","path":"/a","body":{}}`)
	die(t, w, begin(t, w, "1", submit.Options{Input: submit.Input{Path: in}}), "1", 2, true)
	c := must(client.New(client.Options{Server: w.url, Store: "1", Token: "t0ken"}))
	for item, err := range c.List(t.Context(), "") {
		must(c.Delete(t.Context(), must(item, err).Ticket))
	}
	if _, err := must(submit.Resume(in, false, allowed, io.Discard)).Do(t.Context(), w.clients("1", nil)); err == nil || !strings.Contains(err.Error(), "has no batch") {
		t.Fatalf("got %v", err)
	}
	s := must(must(submit.Resume(in, true, allowed, io.Discard)).Do(t.Context(), w.clients("1", nil)))
	if want := (submit.Counts{Unknown: 1}); s.Counts != want {
		t.Errorf("%+v", s)
	}
	expect(t, lines(t, s.Results)[0]["status"].(string), "UNKNOWN")
}

// TestRefusals checks that a submission that can't start leaves no files.
func TestRefusals(t *testing.T) {
	w, dir := start(t), t.TempDir()
	in := file(t, dir, "a.ndjson", `{"method":"GET","path":"/a"}`)
	o := submit.Options{Input: submit.Input{Path: in}, Server: w.url, Store: "1"}
	plan := func(o submit.Options) *submit.Plan { return must(submit.NewPlan(o)) }
	if _, err := submit.Resume(in, false, allowed, io.Discard); err == nil || !strings.Contains(err.Error(), "nothing to resume") {
		t.Errorf("got %v", err)
	}
	same := o
	same.Results, same.FailedOnly = filepath.Join(dir, "x"), filepath.Join(dir, "x")
	if _, err := plan(same).Start(io.Discard); err == nil || !strings.Contains(err.Error(), "is used twice") {
		t.Errorf("got %v", err)
	}
	same.FailedOnly = in
	same.Overwrite = true
	if _, err := plan(same).Start(io.Discard); err == nil || !strings.Contains(err.Error(), "is used twice") {
		t.Errorf("got %v", err)
	}
	file(t, dir, "a.results.ndjson", "precious")
	if _, err := plan(o).Start(io.Discard); err == nil || !strings.Contains(err.Error(), "already exists") {
		t.Errorf("got %v", err)
	}
	expect(t, string(must(os.ReadFile(filepath.Join(dir, "a.results.ndjson")))), "precious")
	o.Overwrite = true
	// A second process starts while the first one runs.
	first := must(plan(o).Start(io.Discard))
	if _, err := submit.Resume(in, false, allowed, io.Discard); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("got %v", err)
	}
	if _, err := plan(o).Start(io.Discard); err == nil || !strings.Contains(err.Error(), "an unfinished submission") {
		t.Errorf("got %v", err)
	}
	// No batch was created, so Close removes all files.
	refused := func(time.Duration, func(error, time.Duration)) (*client.Client, error) {
		return client.New(client.Options{Server: w.url + "/elsewhere", Store: "1", Token: "t0ken", RetryFor: -1})
	}
	if _, err := first.Do(t.Context(), refused); err == nil || !strings.Contains(err.Error(), "batch 1 of 1 (lines 1 to 1)") {
		t.Errorf("got %v", err)
	}
	if left := must(filepath.Glob(filepath.Join(dir, "*"))); len(left) != 1 {
		t.Errorf("%v remains", left)
	}
}

// TestThrottled checks that submit waits for a service that refuses batches, and that the refused batches
// are not in doubt.
func TestThrottled(t *testing.T) {
	w, dir := start(t), t.TempDir()
	target, left := w.url, atomic.Int64{}
	left.Store(2)
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && left.Add(-1) >= 0 {
			rw.Header().Set("Retry-After", "0")
			http.Error(rw, `{"errorMessage":"full","errorCode":"RATE_LIMITED"}`, http.StatusTooManyRequests)
			return
		}
		forward(rw, r, target)
	}))
	defer server.Close()
	w.url = server.URL
	in := file(t, dir, "a.ndjson", `{"method":"POST","path":"/a","body":{}}`)
	r := begin(t, w, "1", submit.Options{Input: submit.Input{Path: in}})
	s := must(r.Do(t.Context(), w.clients("1", nil)))
	if want := (submit.Counts{Completed: 1}); s.Counts != want || w.count("POST /1/a") != 1 {
		t.Errorf("%+v", s)
	}
	if p := r.Snapshot(); p.Done != 1 || p.Failed != 0 || p.Sent != 1 || p.Problem != "" {
		t.Errorf("%+v", p)
	}
}

// A journal or results file that another user may have planted is refused, and nothing is written or
// sent.
func TestPlanted(t *testing.T) {
	w, elsewhere := start(t), filepath.Join(t.TempDir(), "precious")
	started := func(t *testing.T) (in, journal string) {
		dir := t.TempDir()
		in = file(t, dir, "a.ndjson", `{"method":"GET","path":"/a"}`)
		r := begin(t, w, "1", submit.Options{Input: submit.Input{Path: in}})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, _ = r.Do(ctx, w.clients("1", nil))
		text := fmt.Sprintf(`{"sheafRun":1,"server":%q,"store":"1","format":"ndjson","results":%q,"resultsFormat":"ndjson","chunks":[{"n":1}]}`+"\n", w.url, elsewhere)
		return in, file(t, dir, "a.ndjson.sheaf-run", text)
	}
	resumed := func(in string, allow func(submit.Header) error) error {
		r, err := submit.Resume(in, false, allow, io.Discard)
		if err == nil {
			_, err = r.Do(t.Context(), w.clients("1", nil))
		}
		return err
	}
	for name, c := range map[string]struct {
		plant func(in, journal string) error
		want  string
	}{
		"others may read the journal": {func(_, journal string) error { return os.Chmod(journal, 0o644) }, "open to other users"},
		"the journal is a link": {func(_, journal string) error {
			return errors.Join(os.Rename(journal, journal+".real"), os.Symlink(journal+".real", journal))
		}, "a.ndjson.sheaf-run is a symbolic link"},
		"the results are a link":      {func(string, string) error { return os.Symlink(filepath.Join(t.TempDir(), "x"), elsewhere) }, "is a symbolic link"},
		"the results are a folder":    {func(string, string) error { return os.Mkdir(elsewhere, 0o700) }, "is a directory"},
		"the caller doesn't allow it": {func(string, string) error { return os.WriteFile(elsewhere, []byte("precious"), 0o600) }, "not what I meant"},
	} {
		t.Run(name, func(t *testing.T) {
			_ = os.Remove(elsewhere)
			in, journal := started(t)
			if err := c.plant(in, journal); err != nil {
				t.Fatal(err)
			}
			allow := allowed
			if name == "the caller doesn't allow it" {
				allow = func(submit.Header) error { return errors.New("not what I meant") }
			}
			calls := w.count("GET /1/a")
			if err := resumed(in, allow); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
			if w.count("GET /1/a") != calls {
				t.Error("a request was sent")
			}
			if text, err := os.ReadFile(elsewhere); err == nil && string(text) != "precious" {
				t.Errorf("the file contains %q", text)
			}
		})
	}
	// A symbolic link in place of the results is replaced, not followed.
	in := file(t, t.TempDir(), "b.ndjson", `{"method":"GET","path":"/a"}`)
	_ = os.Remove(elsewhere)
	target := file(t, t.TempDir(), "target", "precious")
	if err := os.Symlink(target, elsewhere); err != nil {
		t.Fatal(err)
	}
	if _, err := begin(t, w, "1", submit.Options{Input: submit.Input{Path: in}, Results: elsewhere, Overwrite: true}).Do(t.Context(), w.clients("1", nil)); err != nil {
		t.Fatal(err)
	}
	expect(t, string(must(os.ReadFile(target))), "precious")
	if got := lines(t, elsewhere); len(got) != 1 {
		t.Errorf("results: %v", got)
	}
}
