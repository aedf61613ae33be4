package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

const pollInterval = 40 * time.Millisecond

// client calls one store's API, or the batch endpoint in front of it, over plain HTTP.
type client struct {
	base string // http://HOST:PORT/api/v3/STORE
}

// request is one request of a batch.
type request struct {
	ID     string `json:"id"`
	Method string `json:"method"`
	Path   string `json:"path"`
	Body   any    `json:"body,omitempty"`

	Refs map[string]string `json:"refs,omitempty"` // places that are filled from earlier answers

	want int // the code that its answer is to have
}

// status is a batch's status, and its answers where they were asked for.
type status struct {
	Status    string     `json:"status"`
	Total     int        `json:"totalRequests"`
	Completed int        `json:"completedRequests"`
	Responses []response `json:"responses"`
}

type response struct {
	ID     string          `json:"id"`
	Status string          `json:"status"`
	Body   json.RawMessage `json:"httpBody"`
	Code   int             `json:"httpStatusCode"`
	Line   string          `json:"httpStatusLine"`
}

// create hands over a batch that goes on after failures, and returns its ticket.
func (c client) create(ctx context.Context, batch []request) (string, error) {
	return c.createCalling(ctx, batch, "")
}

// createCalling is create with an address that is told of the batch's end; empty: none.
func (c client) createCalling(ctx context.Context, batch []request, callback string) (string, error) {
	body, err := json.Marshal(batch)
	if err != nil {
		return "", err
	}
	var answer struct {
		Ticket string `json:"ticket"`
	}
	err = c.call(ctx, http.MethodPost, "/batch?stopOnFirstFailure=false&callbackUrl="+url.QueryEscape(callback), body, &answer)
	return answer.Ticket, err
}

// status reads a batch's status with its answers.
func (c client) status(ctx context.Context, ticket string) (*status, error) {
	s := &status{}
	return s, c.call(ctx, http.MethodGet, "/batch?ticket="+url.QueryEscape(ticket), nil, s)
}

// watch reads a batch's status, without its answers, again and again until enough
// says so. Each one is told to see.
func (c client) watch(ctx context.Context, ticket string, see func(*status), enough func(*status) bool) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		s := &status{}
		if err := c.call(ctx, http.MethodGet, "/batch?responses=false&ticket="+url.QueryEscape(ticket), nil, s); err != nil {
			return err
		}
		see(s)
		if enough(s) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// ledger returns how many times a POST with each sku arrived at the store itself.
func (c client) ledger(ctx context.Context) (map[string]int, error) {
	var page struct {
		Total int `json:"total"`
		Items []struct {
			Body string `json:"body"`
		} `json:"items"`
	}
	if err := c.call(ctx, http.MethodGet, "/ledger", nil, &page); err != nil {
		return nil, err
	}
	if page.Total != len(page.Items) {
		return nil, fmt.Errorf("the store's ledger has %d POSTs, more than one page", page.Total)
	}
	arrived := map[string]int{}
	for _, post := range page.Items {
		var product struct {
			SKU string `json:"sku"`
		}
		if err := json.Unmarshal([]byte(post.Body), &product); err != nil {
			return nil, fmt.Errorf("a POST arrived at the store with the body %q: %w", post.Body, err)
		}
		arrived[product.SKU]++
	}
	return arrived, nil
}

// call sends one request and decodes its answer, which has to be 200.
func (c client) call(ctx context.Context, method, path string, body []byte, answer any) error {
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Authorization", "Bearer demo")
	r.Header.Set("Content-Type", "application/json")
	w, err := http.DefaultClient.Do(r)
	if err != nil {
		return err
	}
	defer w.Body.Close()
	text, err := io.ReadAll(w.Body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, r.URL, err)
	}
	if w.StatusCode != http.StatusOK {
		return fmt.Errorf("%s %s was answered %s: %s", method, r.URL, w.Status, text)
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("%s %s: %w", method, r.URL, err)
	}
	return nil
}
