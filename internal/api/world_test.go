package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sheafapi/sheaf/internal/auth"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/sqlite"
	"github.com/sheafapi/sheaf/internal/storage/storagetest"
)

const (
	token   = "s3cret-token_of.the~caller+/=="
	base    = "/api/v3/12345/batch"
	maxBody = batch.DefaultMaxBody
)

var discard = slog.New(slog.DiscardHandler)

// openDatabase opens a new SQLite database whose calls can be made to fail.
func openDatabase(t testing.TB) *storagetest.Faulty {
	db, err := sqlite.Open(context.Background(), filepath.Join(t.TempDir(), "sheaf.db"), sqlite.Options{Logger: discard})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return storagetest.NewFaulty(db)
}

// world is the API in front of a SQLite database, behind a real HTTP server.
type world struct {
	t       testing.TB
	api     *API
	node    *storagetest.Faulty
	server  *httptest.Server
	options Options

	mu       sync.Mutex
	logs     bytes.Buffer
	woken    []storage.QueueID
	notified []storage.QueueID
	ready    error
}

// newWorld starts the API. configure, if not nil, changes its options first.
func newWorld(t testing.TB, configure func(*Options)) *world {
	w := &world{t: t, node: openDatabase(t)}
	w.options = Options{
		Authorize: new(auth.Gate).Authorize, AuthorizeOperator: new(auth.Gate).AuthorizeOperator,
		Storage: w.node, Callbacks: w.node, Operations: w.node,
		Seal: func(ticket batch.Ticket, store, token string) ([]byte, error) {
			return []byte("sealed " + ticket.String() + " " + store + " " + token), nil
		},
		Wake:    func(q storage.QueueID) { w.locked(func() { w.woken = append(w.woken, q) }) },
		Notify:  func(q storage.QueueID) { w.locked(func() { w.notified = append(w.notified, q) }) },
		Ready:   func(context.Context) error { return w.ready },
		MaxBody: maxBody,
		Logger:  slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if configure != nil {
		configure(&w.options)
	}
	w.api = New(w.options)
	w.server = httptest.NewServer(w.api)
	t.Cleanup(w.server.Close)
	return w
}

func (w *world) locked(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

// Write receives the log.
func (w *world) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.logs.Write(p)
}

func (w *world) log() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.logs.String()
}

// response is an answer that arrived completely.
type response struct {
	status int
	header http.Header
	body   string
}

// code returns the answer's errorCode. It fails the test unless the answer is an error as in the
// contract.
func (r response) code(t testing.TB) string {
	t.Helper()
	var e struct{ ErrorMessage, ErrorCode string }
	if err := json.Unmarshal([]byte(r.body), &e); err != nil || e.ErrorMessage == "" || e.ErrorCode == "" {
		t.Fatalf("this isn't an error of the API: %d %q", r.status, r.body)
	}
	return e.ErrorCode
}

// request returns a request to the API with the caller's token. If it has a body, the type is JSON.
func (w *world) request(method, target string, body io.Reader) *http.Request {
	w.t.Helper()
	r, err := http.NewRequest(method, w.server.URL+target, body)
	if err != nil {
		w.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return r
}

// transport returns answers as they arrive, without decompressing them.
var transport = &http.Transport{DisableCompression: true}

// try sends a request and returns the error of sending it or of reading the answer.
func try(r *http.Request) (response, error) {
	resp, err := transport.RoundTrip(r)
	if err != nil {
		return response{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	a := response{status: resp.StatusCode, header: resp.Header, body: string(body)}
	if err == nil {
		err = conforms(r, &a)
	}
	return a, err
}

func (w *world) send(r *http.Request) response {
	w.t.Helper()
	a, err := try(r)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

func (w *world) do(method, target string) response {
	w.t.Helper()
	return w.send(w.request(method, target, nil))
}

func (w *world) post(query, body string) response {
	w.t.Helper()
	return w.send(w.request("POST", base+query, strings.NewReader(body)))
}

// create creates a batch of n GETs with the ids r0, r1, … and returns its ticket.
func (w *world) create(query string, n int) string {
	w.t.Helper()
	requests := make([]map[string]string, n)
	for i := range requests {
		requests[i] = map[string]string{"id": "r" + string(rune('0'+i%10)), "method": "GET", "path": "things"}
	}
	body, err := json.Marshal(requests)
	if err != nil {
		w.t.Fatal(err)
	}
	return w.ticket(w.post(query, string(body)))
}

// ticket returns the ticket in the answer to a create.
func (w *world) ticket(a response) string {
	w.t.Helper()
	var got struct{ Ticket string }
	if err := json.Unmarshal([]byte(a.body), &got); err != nil || a.status != 200 || len(got.Ticket) != 36 {
		w.t.Fatalf("create: %d %s", a.status, a.body)
	}
	return got.Ticket
}

// claim takes the queue of the store 12345, as the engine does.
func (w *world) claim() *storage.Claim {
	w.t.Helper()
	c, err := w.node.Claim(context.Background(), 1)
	if err == nil {
		err = w.node.Load(context.Background(), c)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

// record records results of the claimed batch.
func (w *world) record(c *storage.Claim, marks ...storage.Mark) {
	w.t.Helper()
	if _, err := w.node.Record(context.Background(), c, marks); err != nil {
		w.t.Fatal(err)
	}
}

// finish ends the claimed batch and releases its queue.
func (w *world) finish(c *storage.Claim, reason string) {
	w.t.Helper()
	if _, err := w.node.Finish(context.Background(), c, nil, reason, true); err != nil {
		w.t.Fatal(err)
	}
}

// done returns the mark of a request that was answered.
func done(i, status int, body string) storage.Mark {
	r := batch.Result{Status: batch.Succeeded, Code: status, Line: http.StatusText(status), Body: []byte(body), Kind: batch.KindOf([]byte(body))}
	if status != 200 {
		r.Status = batch.Failed
	}
	return storage.Mark{Index: i, State: storage.Done, Result: r}
}

func (w *world) checkQueues(what string, got *[]storage.QueueID, want ...storage.QueueID) {
	w.t.Helper()
	w.locked(func() {
		if !slices.Equal(*got, want) {
			w.t.Errorf("%s: queues %v, want %v", what, *got, want)
		}
		*got = nil
	})
}
