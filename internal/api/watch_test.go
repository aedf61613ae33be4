package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// tried returns a mark with all values that details show.
func tried(i, code int, body string) storage.Mark {
	m := done(i, code, body)
	m.Result.Headers = []batch.Header{{Name: "Etag", Value: `"v1"`}}
	m.Tries = storage.Tries{Attempts: 2, StartedAt: time.UnixMilli(1_700_000_000_000), EndedAt: time.UnixMilli(1_700_000_000_250)}
	return m
}

func TestViews(t *testing.T) {
	w := newWorld(t, nil)
	a := w.post("?groupId=g", `[{"id":"a","method":"POST","path":"/p?x=1"},{"method":"GET","path":"b"},{"id":"c","method":"GET","path":"c"},{"method":"GET","path":"d"}]`)
	ticket := w.ticket(a)
	c := w.claim()
	skipped := storage.Mark{Index: 2, State: storage.Done, Result: batch.Result{Status: batch.NotExecuted, Line: "why"}}
	failed := done(1, 404, "{\n\"e\":1}")
	failed.Result.Status = batch.Failed
	w.record(c, tried(0, 200, `{"id":1}`), failed, skipped)
	const (
		first  = `{"index":0,"id":"a","status":"COMPLETED","httpBody":{"id":1},"httpStatusCode":200,"httpStatusLine":"OK"}`
		second = "{\"index\":1,\"status\":\"FAILED\",\"httpBody\":{\n\"e\":1},\"httpStatusCode\":404,\"httpStatusLine\":\"Not Found\"}"
		third  = `{"index":2,"id":"c","status":"NOT_EXECUTED","reason":"why"}`
		fourth = `{"index":3,"status":"NOT_EXECUTED","reason":"the end"}`
	)
	check := func(query string, want ...string) {
		t.Helper()
		a := w.do("GET", base+"?ticket="+ticket+query)
		_, got, _ := strings.Cut(a.body, `"responses":[`)
		if got, _ = strings.CutSuffix(got, "]}"); a.status != 200 || got != strings.Join(want, ",") {
			t.Errorf("%s: %d %s, want %s", query, a.status, a.body, want)
		}
	}
	check("&after=-1&limit=500", first, second, third)
	check("&after=0", second, third)
	check("&after=0&limit=1", second)
	check("&limit=2", first, second)
	check("&after=2")
	check("&only=FAILED", second)
	check("&only=COMPLETED", first)
	check("&only=NOT_EXECUTED", third)
	check("&only=NOT_EXECUTED&after=2")
	w.finish(c, "the end")
	check("&only=NOT_EXECUTED", third, fourth)
	check("&only=NOT_EXECUTED&limit=1&after=2", fourth)

	a = w.do("GET", base+"?ticket="+ticket+"&details=true&limit=1")
	var st struct {
		CreatedAt, StartedAt, FinishedAt time.Time
		GroupID                          string
		Responses                        []json.RawMessage
	}
	if err := json.Unmarshal([]byte(a.body), &st); err != nil {
		t.Fatal(err)
	}
	if st.CreatedAt.IsZero() || st.StartedAt.Before(st.CreatedAt) || st.FinishedAt.Before(st.StartedAt) || st.GroupID != "g" {
		t.Errorf("details of the batch: %s", a.body)
	}
	want := strings.TrimSuffix(first, "}") + `,"method":"POST","path":"/p?x=1","headers":{"Etag":"\"v1\""},"attempts":2,"startedAt":"2023-11-14T22:13:20.000Z","durationMs":250}`
	if string(st.Responses[0]) != want {
		t.Errorf("details %s, want %s", st.Responses[0], want)
	}

	r := w.request("GET", base+"?ticket="+ticket, nil)
	r.Header.Set("Accept", "application/json;q=0.5, application/x-ndjson")
	a = w.send(r)
	want = strings.Join([]string{first, strings.ReplaceAll(second, "\n", " "), third, fourth, ""}, "\n")
	if a.body != want || a.header.Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("lines: %v %q, want %q", a.header, a.body, want)
	}
	for accept, lines := range map[string]bool{"*/*": false, "application/*": false, "application/x-ndjson;q=0": false, "Application/X-NDJSON; q=0.1": true} {
		r.Header.Set("Accept", accept)
		if a := w.send(r); (a.header.Get("Content-Type") == "application/x-ndjson") != lines {
			t.Errorf("Accept %s: %v", accept, a.header)
		}
	}
}

func TestSearchAll(t *testing.T) {
	w := newWorld(t, nil)
	one, two := w.create("", 1), w.create("", 1)
	w.finish(w.claim(), "")
	want := fmt.Sprintf(`{"items":[{"ticket":"%s","status":"QUEUED"},{"ticket":"%s","status":"COMPLETED"}]}`, two, one)
	if a := w.do("GET", base); a.status != 200 || a.body != want {
		t.Errorf("%d %s, want %s", a.status, a.body, want)
	}
	if a := w.do("GET", base+"?offset=1&limit=1"); a.body != fmt.Sprintf(`{"items":[{"ticket":"%s","status":"COMPLETED"}]}`, one) {
		t.Error(a.body)
	}
}

func TestETag(t *testing.T) {
	w := newWorld(t, nil)
	ticket := w.create("", 3)
	ask := func(query, tag string) response {
		r := w.request("GET", base+"?ticket="+ticket+query, nil)
		if tag != "" {
			r.Header.Set("If-None-Match", tag)
		}
		return w.send(r)
	}
	first := ask("", "")
	tag := first.header.Get("ETag")
	if tag == "" || first.header.Get("Retry-After") != "2" {
		t.Errorf("headers %v", first.header)
	}
	for _, tag := range []string{tag, strings.TrimPrefix(tag, "W/"), `"x", ` + tag, "*"} {
		if a := ask("", tag); a.status != 304 || a.body != "" || a.header.Get("ETag") == "" {
			t.Errorf("If-None-Match %s: %d %v %s", tag, a.status, a.header, a.body)
		}
	}
	if a := ask("&escapedJson=true", tag); a.status != 200 {
		t.Errorf("a different view: %d", a.status)
	}
	c := w.claim()
	w.record(c, storage.Mark{Index: 1, State: storage.Done, Result: batch.Result{Status: batch.NotExecuted}})
	second := ask("", tag)
	if second.status != 200 || second.header.Get("ETag") == tag {
		t.Errorf("after one was not executed: %d %v", second.status, second.header)
	}
	w.finish(c, "")
	if a := ask("", second.header.Get("ETag")); a.status != 200 || a.header.Get("Retry-After") != "" {
		t.Errorf("after the end: %d %v", a.status, a.header)
	}
}

// TestWaitWithETag: if the client's status is older than the current one, the answer comes immediately, so
// that the client misses nothing between two calls.
func TestWaitWithETag(t *testing.T) {
	w := newWorld(t, nil)
	ticket := w.create("", 3)
	tag := `"of long ago"`
	ask := func() <-chan response {
		r := w.request("GET", base+"?wait=60&responses=false&ticket="+ticket, nil)
		r.Header.Set("If-None-Match", tag)
		return w.answering(r)
	}
	arrived := func(answer <-chan response) {
		t.Helper()
		select {
		case a := <-answer:
			if a.status != 200 || a.header.Get("ETag") == tag {
				t.Fatalf("%d %v", a.status, a.header)
			}
			tag = a.header.Get("ETag")
		case <-time.After(30 * time.Second):
			t.Fatal("the answer waits, although the batch has changed")
		}
	}
	arrived(ask())
	c := w.claim()
	w.record(c, done(0, 200, "")) // while no call waits
	arrived(ask())
	waiting := ask()
	w.watched(1)
	w.record(c, done(1, 200, ""))
	w.api.Hub.Changed(c.ID)
	arrived(waiting)
}

// answering sends a request and returns a channel for its answer.
func (w *world) answering(r *http.Request) <-chan response {
	out := make(chan response, 1)
	go func() {
		a, err := try(r)
		if err != nil {
			w.t.Error(err)
		}
		out <- a
	}()
	return out
}

// watched waits until n calls watch a batch.
func (w *world) watched(n int) {
	w.t.Helper()
	eventually(w.t, fmt.Sprintf("%d watchers", n), func() bool { return w.api.Hub.Watchers() == n })
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	limit := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-limit:
			t.Fatalf("this did not happen in time: %s", what)
		case <-time.After(time.Millisecond):
		}
	}
}

func TestLongPoll(t *testing.T) {
	w := newWorld(t, nil)
	ticket := w.create("", 2)
	ask := func(query, prefer string) <-chan response {
		r := w.request("GET", base+"?responses=false&ticket="+ticket+query, nil)
		if prefer != "" {
			r.Header.Set("Prefer", prefer)
		}
		return w.answering(r)
	}
	one, two := ask("&wait=30", ""), ask("", "respond-async, Wait=30")
	w.watched(2)
	c := w.claim()
	w.record(c, done(0, 200, ""))
	w.api.Hub.Changed(c.ID)
	for _, a := range []response{<-one, <-two} {
		if !strings.Contains(a.body, `"IN_PROGRESS","totalRequests":2,"completedRequests":1`) {
			t.Errorf("got %s", a.body)
		}
	}
	three := ask("", "wait=3600")
	w.watched(1)
	w.finish(c, "")
	w.api.Hub.Changed(c.ID)
	if a := <-three; !strings.Contains(a.body, "COMPLETED") || a.header.Get("Preference-Applied") != "wait=60" {
		t.Errorf("%v %s", a.header, a.body)
	}
	if a := <-ask("&wait=60", ""); !strings.Contains(a.body, "COMPLETED") { // at once
		t.Error(a.body)
	}
	ticket = w.create("", 1)
	if a := <-ask("&wait=1", ""); !strings.Contains(a.body, "QUEUED") {
		t.Error(a.body)
	}
	for _, prefer := range []string{"wait=soon", "wait", "wait=-1", "x=y"} {
		if a := <-ask("", prefer); a.status != 200 || a.header.Get("Preference-Applied") != "" {
			t.Errorf("Prefer %s: %d %v", prefer, a.status, a.header)
		}
	}
	w.watched(0)
}

// TestWatchElsewhere: a waiting call soon learns of changes by another node. At shutdown, it is
// answered.
func TestWatchElsewhere(t *testing.T) {
	w := newWorld(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { w.api.Run(ctx); close(ended) }()
	ticket := w.create("", 3)
	c := w.claim()
	ask := func() <-chan response {
		return w.answering(w.request("GET", base+"?ticket="+ticket+"&wait=60&responses=false", nil))
	}
	for i := range 2 {
		waiting := ask()
		w.watched(1)
		w.record(c, done(i, 200, "")) // nobody calls Changed
		began := time.Now()
		if a := <-waiting; !strings.Contains(a.body, fmt.Sprintf(`"completedRequests":%d`, i+1)) {
			t.Error(a.body)
		}
		t.Logf("reported after %v", time.Since(began))
	}
	waiting := ask()
	w.watched(1)
	cancel()
	<-ended
	if a := <-waiting; a.status != 200 {
		t.Errorf("at the shutdown: %d", a.status)
	}
}

// event is an event of a stream.
type event struct{ name, id, data string }

// stream sends the events of a batch to a channel until the connection ends.
func (w *world) stream(ticket, last string, events chan<- event) {
	r := w.request("GET", base+"?ticket="+ticket, nil)
	r.Header.Set("Accept", "text/event-stream")
	if last != "" {
		r.Header.Set("Last-Event-ID", last)
	}
	go func() {
		defer close(events)
		resp, err := transport.RoundTrip(r)
		if err != nil {
			w.t.Error(err)
			return
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			events <- event{name: fmt.Sprint(resp.StatusCode)}
			return
		}
		var e event
		lines := bufio.NewScanner(resp.Body)
		lines.Buffer(nil, 1<<20)
		for lines.Scan() {
			field, value, _ := strings.Cut(lines.Text(), ": ")
			switch field {
			case "event":
				e.name = value
			case "id":
				e.id = value
			case "data":
				e.data += value
			case "":
				if e.name != "" {
					events <- e
				}
				e = event{}
			}
		}
	}()
}

func TestEvents(t *testing.T) {
	w := newWorld(t, nil)
	ticket := w.create("?allowParallelMode=true", 5)
	c := w.claim()
	w.record(c, done(3, 200, "[\n1]"))
	events := make(chan event, 100)
	w.stream(ticket, "", events)
	first := <-events
	if first.name != "response" || first.data != `{"index":3,"id":"r3","status":"COMPLETED","httpBody":[ 1],"httpStatusCode":200,"httpStatusLine":"OK"}` {
		t.Errorf("the earlier events: %+v", first)
	}
	w.record(c, done(1, 200, "x"), done(0, 200, "y"))
	w.api.Hub.Changed(c.ID)
	got := []event{<-events, <-events}
	if !strings.Contains(got[0].data, `"index":0`) || !strings.Contains(got[1].data, `"index":1`) {
		t.Errorf("got %+v", got)
	}
	w.finish(c, "stopped")
	w.api.Hub.Changed(c.ID)
	rest := []event{<-events, <-events, <-events}
	if !strings.Contains(rest[0].data, `{"index":2,"id":"r2","status":"NOT_EXECUTED","reason":"stopped"}`) || !strings.Contains(rest[1].data, `"index":4`) ||
		rest[2] != (event{"end", "end", `{"status":"COMPLETED","totalRequests":5,"completedRequests":3,"failedRequests":0,"inDoubtRequests":0}`}) {
		t.Errorf("got %+v", rest)
	}
	if e, open := <-events; open {
		t.Errorf("an event after the end: %+v", e)
	}

	// A stream that is resumed after an event sends exactly the remaining events.
	all := append(append([]event{first}, got...), rest...)
	for n, e := range all {
		again := make(chan event, 100)
		w.stream(ticket, e.id, again)
		var data []string
		for e := range again {
			data = append(data, e.data+e.name)
		}
		want := []string{}
		for _, e := range all[n+1:] {
			want = append(want, e.data+e.name)
		}
		if n == len(all)-1 {
			want = []string{"204"}
		}
		slices.Sort(data)
		slices.Sort(want)
		if !slices.Equal(data, want) {
			t.Errorf("resumed after %s: %v, want %v", e.id, data, want)
		}
	}
	for _, unknown := range []string{uuid.NewString(), "x"} {
		r := w.request("GET", base+"?ticket="+unknown, nil)
		r.Header.Set("Accept", "text/event-stream")
		if a := w.send(r); a.status != 404 {
			t.Errorf("an unknown ticket: %d", a.status)
		}
	}
	w.watched(0)
}

// fat is storage in which every result is large.
type fat struct {
	Storage
	body []byte
}

func (s fat) Status(ctx context.Context, key storage.Key, maxBytes int) (*storage.Status, error) {
	st, err := s.Storage.Status(ctx, key, maxBytes)
	if err == nil {
		st.Results = nil // they are read from Results
	}
	return st, err
}

func (s fat) Results(_ context.Context, _ storage.BatchID, from, _ int) ([]storage.IndexedResult, error) {
	return []storage.IndexedResult{{Index: from, Result: batch.Result{Status: batch.Succeeded, Code: 200, Kind: batch.JSONBody, Body: bytes.Clone(s.body)}}}, nil
}

// TestLinesAreFlat: 100 answers of 1 MB are streamed as lines in little memory.
func TestLinesAreFlat(t *testing.T) {
	body := []byte(`"` + strings.Repeat("x", 1<<20) + `"`)
	w := newWorld(t, func(o *Options) { o.Storage = fat{o.Storage, body} })
	const answers = 100
	ticket := w.create("", answers)
	c := w.claim()
	var marks []storage.Mark
	for i := range answers {
		marks = append(marks, done(i, 200, ""))
	}
	w.record(c, marks...)
	w.finish(c, "")
	r := w.request("GET", base+"?after=0&ticket="+ticket, nil)
	r.Header.Set("Accept", "application/x-ndjson")
	resp, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before, most := heap(), int64(0)
	buf, total := make([]byte, 64<<10), 0
	for mark := 0; ; {
		n, err := resp.Body.Read(buf)
		total += n
		if total-mark > 5<<20 {
			mark, most = total, max(most, heap()-before)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if total < (answers-1)<<20 {
		t.Errorf("%d bytes arrived", total)
	}
	t.Logf("%d MB arrived, and the service held at most %d MB", total>>20, most>>20)
	if most > 16<<20 {
		t.Errorf("the service held %d MB", most>>20)
	}
}
