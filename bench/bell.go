package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"
)

// heldPrefix begins the names of stores whose requests are never answered.
const heldPrefix = "held-"

// bell is an upstream in this process. It tells when requests arrive.
type bell struct {
	server   *httptest.Server
	template string
	rings    chan time.Time // of requests that are answered; room for some that nobody waits for
}

func startBell() *bell {
	b := &bell{rings: make(chan time.Time, 1024)}
	b.server = httptest.NewServer(http.HandlerFunc(b.answer))
	b.template = b.server.URL + "/{storeId}"
	return b
}

func (b *bell) answer(w http.ResponseWriter, r *http.Request) {
	at := time.Now()
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return
	}
	if strings.HasPrefix(r.URL.Path, "/"+heldPrefix) {
		<-r.Context().Done()
		return
	}
	select {
	case b.rings <- at:
	default:
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	io.WriteString(w, upstreamAnswer)
}

// stop ends the requests that are held, too.
func (b *bell) stop() {
	b.server.CloseClientConnections()
	b.server.Close()
}

// quiet forgets the rings so far.
func (b *bell) quiet() {
	for len(b.rings) > 0 {
		<-b.rings
	}
}

// claimLimit is how long a request may take to arrive.
const claimLimit = 30 * time.Second

// timeClaims creates batches of one request in idle queues, one after the other, and
// returns how long after the create was sent each request arrived.
func (b *bell) timeClaims(ctx context.Context, c *client, stores, n int) ([]time.Duration, error) {
	body := batchBody(1)
	times := make([]time.Duration, n)
	for i := range times {
		b.quiet()
		start := time.Now()
		t, err := c.create(ctx, idleStore(i%stores), false, body)
		if err != nil {
			return nil, err
		}
		select {
		case at := <-b.rings:
			times[i] = at.Sub(start)
		case <-time.After(claimLimit):
			return nil, fmt.Errorf("the request of a batch in an idle queue did not arrive within %v", claimLimit)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if err := c.await(ctx, t); err != nil {
			return nil, err
		}
	}
	return times, nil
}

// idleStore returns the id of a store in whose queue nothing waits.
func idleStore(n int) string { return fmt.Sprint("idle-", n) }

// heldStore returns the id of a store whose queue does not move.
func heldStore(n int) string { return fmt.Sprint(heldPrefix, n) }
