package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const plainCommand = "plain"

// plainWork is the work of the plain client: the same calls as the service makes, with no
// queue, no disk and no order except within each worker.
type plainWork struct {
	upstream string // the URL template, as for the service
	stores   int
	calls    int // a store
	workers  int // a store
}

// runPlain is the plain client. It prints how many nanoseconds its calls took, without the
// warm-up.
func runPlain(ctx context.Context, args []string, stdout io.Writer) error {
	var w plainWork
	flags := flag.NewFlagSet(plainCommand, flag.ContinueOnError)
	flags.StringVar(&w.upstream, "upstream", "", "template of the upstream's address")
	flags.IntVar(&w.stores, "stores", 1, "stores")
	flags.IntVar(&w.calls, "calls", 1, "calls a store")
	flags.IntVar(&w.workers, "workers", 1, "calls of a store at the same time")
	warmUp := flags.Int("warm-up", 0, "calls a store before the clock starts")
	if err := flags.Parse(args); err != nil {
		return err
	}
	client := tunedClient(w.stores * w.workers)
	warm := w
	warm.calls = *warmUp
	if err := warm.run(ctx, client); err != nil {
		return fmt.Errorf("warm-up: %w", err)
	}
	start := time.Now()
	if err := w.run(ctx, client); err != nil {
		return err
	}
	_, err := fmt.Fprintln(stdout, time.Since(start).Nanoseconds())
	return err
}

// tunedClient returns a client that keeps its connections. By default, net/http keeps 2 per host
// and would dial for most calls.
func tunedClient(conns int) *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: conns, DisableCompression: true}}
}

// run makes the calls and stops at the first failure.
func (w plainWork) run(ctx context.Context, client *http.Client) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	left := make([]atomic.Int64, w.stores)
	var workers sync.WaitGroup
	for i := range w.stores * w.workers {
		store := i % w.stores
		url := strings.ReplaceAll(w.upstream, "{storeId}", storeName(store)) + "/" + requestPath
		workers.Go(func() {
			for ctx.Err() == nil {
				n := left[store].Add(1)
				if n > int64(w.calls) {
					return
				}
				if err := plainCall(ctx, client, url, store, n); err != nil {
					cancel(err)
				}
			}
		})
	}
	workers.Wait()
	return context.Cause(ctx)
}

// plainCall makes one call like the service: it sends the same headers and reads the whole answer.
func plainCall(ctx context.Context, client *http.Client, url string, store int, n int64) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(requestBody))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Idempotency-Key", fmt.Sprintf("00000000-0000-8000-%04x-%012x", store, n))
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusCreated {
		return fmt.Errorf("POST %s: %s", url, resp.Status)
	}
	return nil
}

// plain runs the plain client in its own process and returns how long its calls took.
func (b *bench) plain(ctx context.Context, upstream string, s scenario) (time.Duration, error) {
	out, err := b.command(ctx, b.self, plainCommand,
		"-upstream", upstream,
		"-stores", strconv.Itoa(s.stores),
		"-calls", strconv.Itoa(s.batches*s.requests),
		"-workers", strconv.Itoa(s.workers),
		"-warm-up", strconv.Itoa(s.warmUp().requests)).Output()
	if err != nil {
		return 0, fmt.Errorf("plain client: %w", withStderr(err))
	}
	ns, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("plain client: %w", err)
	}
	return time.Duration(ns), nil
}
