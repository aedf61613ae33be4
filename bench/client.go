package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// The token and the path of every call, on both sides.
const (
	token       = "bench"
	requestPath = "orders"
)

// requestBody is the body of every POST: 250 bytes of JSON.
var requestBody = `{"note":"` + strings.Repeat("x", 250-len(`{"note":""}`)) + `"}`

// pollPause is the pause between two polls of one driver. It limits the cost of driving to at
// most 200 polls a second.
const pollPause = 5 * time.Millisecond

// client calls the service's nodes in turn. It is safe for concurrent use.
type client struct {
	nodes []string // their addresses
	turn  atomic.Uint64
	http  *http.Client
}

func newClient(nodes ...string) *client { return &client{nodes: nodes, http: tunedClient(16)} }

// storeName returns the id of the store with this number.
func storeName(n int) string { return "store-" + strconv.Itoa(n) }

// batchPath returns the path of a store's batches, with a query.
func batchPath(store, query string) string { return "/api/v3/" + store + "/batch?" + query }

// batchBody returns the body that creates a batch of n POSTs, n at least 1.
func batchBody(n int) []byte {
	request := fmt.Sprintf(`{"path":%q,"method":"POST","body":%s}`, requestPath, requestBody)
	return []byte("[" + request + strings.Repeat(","+request, n-1) + "]")
}

// do makes one call and reads the whole answer.
func (c *client) do(ctx context.Context, method, path string, body []byte) (code int, answer []byte, err error) {
	node := c.nodes[c.turn.Add(1)%uint64(len(c.nodes))]
	r, err := http.NewRequestWithContext(ctx, method, node+path, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(resp.Body)
	return resp.StatusCode, answer, err
}

// ok makes one call and returns an error unless it is answered 200.
func (c *client) ok(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	code, answer, err := c.do(ctx, method, path, body)
	if err == nil && code != http.StatusOK {
		err = fmt.Errorf("%s %s: %d %s", method, path, code, answer)
	}
	return answer, err
}

// ticket identifies a batch and its store.
type ticket struct{ store, id string }

// create creates a batch.
func (c *client) create(ctx context.Context, store string, parallel bool, body []byte) (ticket, error) {
	query := ""
	if parallel {
		query = "allowParallelMode=true"
	}
	var created struct{ Ticket string }
	if err := c.into(ctx, http.MethodPost, batchPath(store, query), body, &created); err != nil {
		return ticket{}, err
	}
	if created.Ticket == "" {
		return ticket{}, errors.New("create: the answer has no ticket")
	}
	return ticket{store, created.Ticket}, nil
}

// into is ok and decodes the answer into v.
func (c *client) into(ctx context.Context, method, path string, body []byte, v any) error {
	answer, err := c.ok(ctx, method, path, body)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer, v); err != nil {
		return fmt.Errorf("%s %s: %w: %s", method, path, err, answer)
	}
	return nil
}

// status reads a batch, with or without its responses, and returns the undecoded answer.
func (c *client) status(ctx context.Context, t ticket, responses bool) ([]byte, error) {
	query := "ticket=" + t.id
	if !responses {
		query += "&responses=false"
	}
	return c.ok(ctx, http.MethodGet, batchPath(t.store, query), nil)
}

// batchStatus polls once and returns the batch's status.
func (c *client) batchStatus(ctx context.Context, t ticket) (string, error) {
	answer, err := c.status(ctx, t, false)
	if err != nil {
		return "", err
	}
	var batch struct{ Status string }
	if err := json.Unmarshal(answer, &batch); err != nil {
		return "", fmt.Errorf("status: %w: %s", err, answer)
	}
	return batch.Status, nil
}

// await polls until the batch is COMPLETED.
func (c *client) await(ctx context.Context, t ticket) error {
	for {
		status, err := c.batchStatus(ctx, t)
		if err != nil || status == "COMPLETED" {
			return err
		}
		select {
		case <-time.After(pollPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// checkAnswers checks that, according to a status with responses, all n requests were answered
// 201.
func checkAnswers(status []byte, n int) error {
	var batch struct {
		Responses []struct {
			Status         string
			HTTPStatusCode int
		}
	}
	if err := json.Unmarshal(status, &batch); err != nil {
		return fmt.Errorf("status: %w", err)
	}
	if len(batch.Responses) != n {
		return fmt.Errorf("status: %d responses instead of %d", len(batch.Responses), n)
	}
	for i, r := range batch.Responses {
		if r.Status != "COMPLETED" || r.HTTPStatusCode != http.StatusCreated {
			return fmt.Errorf("status: response %d is %s, %d", i, r.Status, r.HTTPStatusCode)
		}
	}
	return nil
}
