//go:build postgres

package postgres

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// quick is the timing of nodes that detect each other's death within a second.
var quick = timing{
	lease: 1200 * time.Millisecond, send: 900 * time.Millisecond, renew: 200 * time.Millisecond,
	grace: 600 * time.Millisecond, proof: 400 * time.Millisecond,
	busyPing: 50 * time.Millisecond, idlePing: 100 * time.Millisecond,
	look: 100 * time.Millisecond,
}

// still is the timing of nodes that never consider each other dead.
var still = timing{
	lease: time.Hour, send: time.Hour, renew: time.Hour, grace: time.Hour, proof: time.Hour,
	busyPing: 20 * time.Millisecond, idlePing: 20 * time.Millisecond, look: 50 * time.Millisecond,
}

// newBatch returns a batch of n requests for a store.
func newBatch(store string, n int) *storage.NewBatch {
	b := &storage.NewBatch{Ticket: uuid.New(), Store: store, Queue: store, Owner: batch.OwnerOf("token"), Credential: []byte("sealed")}
	for i := range n {
		b.Requests = append(b.Requests, batch.Request{ID: fmt.Sprint(i), Method: "POST", Path: "products", Body: []byte(`{"name":"Chair"}`)})
	}
	return b
}

func key(b *storage.NewBatch) storage.Key {
	return storage.Key{Store: b.Store, Owner: b.Owner, Ticket: b.Ticket}
}

// done returns the mark of a request that has ended.
func done(i int, body string) storage.Mark {
	return storage.Mark{
		Index: i, State: storage.Done, Tries: storage.Tries{Attempts: 1},
		Result: batch.Result{Status: batch.Succeeded, Code: 200, Line: "OK", Body: []byte(body), Kind: batch.TextBody},
	}
}

func create(t *testing.T, db *DB, b *storage.NewBatch) storage.QueueID {
	t.Helper()
	c, err := db.Create(t.Context(), b)
	if err != nil {
		t.Fatal(err)
	}
	return c.Queue
}

// claimed stores the batch and claims its queue.
func claimed(t *testing.T, db *DB, b *storage.NewBatch) *storage.Claim {
	t.Helper()
	c, err := db.Claim(t.Context(), create(t, db, b))
	if err == nil {
		err = db.Load(t.Context(), c)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// outcome renders a batch: its status, and the bodies of its results.
func outcome(t *testing.T, db *DB, b *storage.NewBatch) string {
	t.Helper()
	s, err := db.Status(t.Context(), key(b), 1<<20)
	if err != nil {
		t.Error(err)
		return ""
	}
	words := []string{s.Status.String()}
	for _, r := range s.Results {
		words = append(words, fmt.Sprintf("%d:%s", r.Index, r.Body))
	}
	return strings.Join(words, " ")
}

func expect[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// authorize waits until the node may send for a claim.
func authorize(t *testing.T, db *DB, c *storage.Claim) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := db.Authorize(ctx, c); err != nil {
		t.Fatal(err)
	}
}

// logs collects what is logged.
type logs struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *logs) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// withHost returns a database's URL with another host.
func withHost(t *testing.T, address, host string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = host
	return u.String()
}

// withUser returns a database's URL for another user.
func withUser(t *testing.T, address string, user *url.Userinfo) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	u.User = user
	return u.String()
}
