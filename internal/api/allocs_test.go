//go:build !race

package api

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// bare is a ResponseWriter that allocates nothing.
type bare struct{ header http.Header }

func (b *bare) Header() http.Header         { return b.header }
func (b *bare) WriteHeader(int)             {}
func (b *bare) Write(p []byte) (int, error) { return len(p), nil }

// TestAllocs counts the allocations of a poll outside of net/http, with a database in memory. The race
// detector itself allocates, so make test runs this test once without it.
func TestAllocs(t *testing.T) {
	w := newWorld(t, nil)
	ticket := w.create("", 3)
	handler := New(w.options)
	r := httptest.NewRequest("GET", base+"?ticket="+ticket+"&responses=false", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	writer := &bare{http.Header{}}
	poll := func() {
		clear(writer.header)
		handler.ServeHTTP(writer, r)
	}
	poll()
	const want = 13 // two are for the validator, two for the id of the call
	if got := testing.AllocsPerRun(200, poll); got != want {
		t.Errorf("%v allocations a poll, want %d", got, want)
	}
}
