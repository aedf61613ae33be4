//go:build !race

package api

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/storage"
)

// constant is a database that returns the same Status every time.
type constant struct {
	Storage
	status *storage.Status
}

func (c constant) Status(context.Context, storage.Key, int) (*storage.Status, error) {
	return c.status, nil
}

// bare is a ResponseWriter that allocates nothing.
type bare struct{ header http.Header }

func (b *bare) Header() http.Header         { return b.header }
func (b *bare) WriteHeader(int)             {}
func (b *bare) Write(p []byte) (int, error) { return len(p), nil }

// TestAllocs counts the allocations of a poll outside of net/http and the database. The race
// detector itself allocates, so the command make test runs this test once without it.
func TestAllocs(t *testing.T) {
	w := newWorld(t, nil)
	ticket := w.create("", 3)
	status, err := w.node.Status(t.Context(), storage.Key{Store: "12345", Owner: w.owner(), Ticket: uuid.MustParse(ticket)}, 0)
	if err != nil {
		t.Fatal(err)
	}
	w.options.Storage = constant{w.node, status}
	handler := New(w.options)
	r := httptest.NewRequest("GET", base+"?ticket="+ticket+"&responses=false", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	writer := &bare{http.Header{}}
	poll := func() {
		clear(writer.header)
		handler.ServeHTTP(writer, r)
	}
	poll()
	const want = 11 // two are for the validator, two for the id of the call
	if got := testing.AllocsPerRun(200, poll); got != want {
		t.Errorf("%v allocations a poll, want %d", got, want)
	}
}
