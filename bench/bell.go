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

// heldPrefix is the prefix of the stores whose requests are never answered.
const heldPrefix = "held-"

// bell is an upstream in this process. It reports when requests arrive.
type bell struct {
	server   *httptest.Server
	template string
	rings    chan time.Time // when answered requests arrived; rings beyond its capacity are dropped
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

// stop stops the upstream and ends the requests that it holds.
func (b *bell) stop() {
	b.server.CloseClientConnections()
	b.server.Close()
}

// discard discards the rings so far.
func (b *bell) discard() {
	for len(b.rings) > 0 {
		<-b.rings
	}
}

// claimLimit is the longest time that a request may take to arrive.
const claimLimit = 30 * time.Second

// timeClaims creates batches of one request in idle queues, one after the other. For each it
// returns the time from sending the create to the arrival of the request.
func (b *bell) timeClaims(ctx context.Context, c *client, stores, n int) ([]time.Duration, error) {
	body := batchBody(1)
	times := make([]time.Duration, n)
	for i := range times {
		b.discard()
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

// idleStore returns the id of a store whose queue is empty.
func idleStore(n int) string { return fmt.Sprint("idle-", n) }

// heldStore returns the id of a store whose queue doesn't move.
func heldStore(n int) string { return fmt.Sprint(heldPrefix, n) }
