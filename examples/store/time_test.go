package store_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/examples/store"
)

func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		send(store.New(store.Options{Latency: time.Minute}), "GET", "/products", "")
		if took := time.Since(began); took != time.Minute {
			t.Errorf("took %v", took)
		}
	})
}

func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := store.New(store.Options{RequestsPerSecond: 2})
		ask := func(path string, want int) {
			t.Helper()
			w := exchange(api, "GET", path, "", "Authorization", "Bearer t")
			if w.Code != want || (want == 429) != (w.Header().Get("Retry-After") == "1") {
				t.Errorf("%s: got %d, Retry-After %q, want %d", path, w.Code, w.Header().Get("Retry-After"), want)
			}
		}
		ask("/api/v3/1/products", 200)
		ask("/api/v3/1/orders", 200)
		ask("/api/v3/1/products", 429)
		ask("/api/v3/2/products", 200) // another store has its own limit
		<-time.After(time.Second)
		ask("/api/v3/1/products", 200)
	})
}
