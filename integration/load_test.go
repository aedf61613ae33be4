package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"testing"
	"time"
)

// loadBatch is a batch of a load, with its ticket.
type loadBatch struct {
	ticket   string
	requests []request
	parallel bool
	stop     bool // stopOnFirstFailure
}

// load is a number of stores, each with a creator that creates one batch after another.
type load struct {
	client client
	stores [][]loadBatch // by store, in the order of creation; complete once finish has returned
	enough chan struct{}
	cancel context.CancelFunc // stops the creators immediately
	failed []error            // by store, why its creator stopped
	gated  bool               // a gateway in front of the ledger may answer 503 itself
	all    sync.WaitGroup
}

// openBatches is the maximum number of unfinished batches in a store. After every pauseAfter
// batches, the creator waits until the store is empty, so that any node may run it next.
const (
	openBatches = 6
	pauseAfter  = 15
)

// startLoad starts the creators. They keep trying while the service is down.
func startLoad(ctx context.Context, c client, stores int) *load {
	l := &load{client: c, stores: make([][]loadBatch, stores), enough: make(chan struct{}), failed: make([]error, stores)}
	ctx, l.cancel = context.WithCancel(ctx)
	for store := range stores {
		l.all.Go(func() { l.failed[store] = l.create(ctx, store) })
	}
	return l
}

// storeName returns the id of a store.
func storeName(store int) string { return "store-" + strconv.Itoa(store) }

// batch returns the n-th batch of a store. It is empty if its create was never answered.
func (l *load) batch(store string, n int) loadBatch {
	for i, batches := range l.stores {
		if storeName(i) == store && n < len(batches) {
			return batches[n]
		}
	}
	return loadBatch{}
}

// create creates batches for one store, one after the other, until the load ends.
func (l *load) create(ctx context.Context, store int) error {
	for {
		select {
		case <-l.enough:
			return nil
		default:
		}
		made := l.stores[store]
		open := openBatches
		if len(made)%pauseAfter == 0 {
			open = 1
		}
		if n := len(made); n >= open {
			if _, err := l.client.awaitEnd(ctx, storeName(store), made[n-open].ticket); err != nil {
				return err
			}
		}
		b := newBatch(len(made))
		query := url.Values{
			"allowParallelMode":  {strconv.FormatBool(b.parallel)},
			"stopOnFirstFailure": {strconv.FormatBool(b.stop)},
		}
		var err error
		if b.ticket, err = l.client.create(ctx, storeName(store), query, b.requests); err != nil {
			return fmt.Errorf("create batch %d of store %d: %w", len(made), store, err)
		}
		l.stores[store] = append(made, b)
	}
}

// finish stops the creation and waits until every batch with a ticket has ended. It returns the
// number of stores with unfinished batches.
func (l *load) finish(ctx context.Context, t *testing.T) (stuck int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	defer context.AfterFunc(ctx, l.cancel)()
	close(l.enough)
	l.all.Wait()
	for store, batches := range l.stores {
		err := l.failed[store]
		if n := len(batches); err == nil && n > 0 {
			_, err = l.client.awaitEnd(ctx, storeName(store), batches[n-1].ticket)
		}
		if err != nil || len(batches) == 0 {
			t.Errorf("store %d, after %d batches: %v", store, len(batches), err)
			stuck++
		}
	}
	return stuck
}

// methods are the methods of the requests. Those that must not be repeated are more frequent.
var methods = []string{"POST", "POST", "POST", "PATCH", "PATCH", "PUT", "PUT", "DELETE", "GET", "GET", "HEAD"}

// newBatch returns the n-th batch of a store, with 1 to 24 requests. Each request has its own path,
// n/index-of-total.
func newBatch(n int) loadBatch {
	b := loadBatch{parallel: rand.N(3) == 0, stop: rand.N(2) == 0}
	total := 1 + rand.N(24)
	for i := range total {
		name := fmt.Sprintf("%d/%d-of-%d", n, i, total)
		r := request{ID: name, Path: "items/" + name, Method: methods[rand.N(len(methods))]}
		if r.Method == "POST" || r.Method == "PUT" || r.Method == "PATCH" {
			r.Body = json.RawMessage(fmt.Sprintf(`{"name":%q}`, name))
		}
		b.requests = append(b.requests, r)
	}
	return b
}

// moody is an upstream that takes up to 4 ms. At the first arrival of a path it sometimes answers
// 429, 503 or 409, or breaks the connection in the middle of the answer.
func moody(a Arrival) Reply {
	r := Reply{Delay: rand.N(4 * time.Millisecond)}
	if a.Nth > 1 {
		return r
	}
	switch rand.N(100) {
	case 0, 1:
		r.Status = http.StatusTooManyRequests
	case 2, 3:
		r.Status = http.StatusServiceUnavailable
	case 4:
		r.Status = http.StatusConflict
	case 5:
		r.HangUp = a.Method != http.MethodHead // an answer to HEAD has no body
	}
	return r
}

// steady is an upstream that takes up to 4 ms and has no faults.
func steady(Arrival) Reply { return Reply{Delay: rand.N(4 * time.Millisecond)} }
