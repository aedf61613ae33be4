package client_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/client"
)

// transport is an http.RoundTripper without sockets.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answer(r *http.Request, contentType string, body io.ReadCloser) (*http.Response, error) {
	return &http.Response{Status: "200 OK", StatusCode: 200, Header: http.Header{"Content-Type": {contentType}}, Body: body, Request: r}, nil
}

func newClient(f transport, retryFor time.Duration) *client.Client {
	return must(client.New(client.Options{Server: "http://sheaf", Store: "1", Token: "t", RetryFor: retryFor, HTTPClient: &http.Client{Transport: f}}))
}

// TestCreateEndsWithItsKey checks that a create is not retried after the server may have forgotten
// its key, however long RetryFor is. Otherwise it could create a second batch.
func TestCreateEndsWithItsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, last := time.Now(), time.Duration(0)
		keys := map[string]bool{}
		c := newClient(func(r *http.Request) (*http.Response, error) {
			last = time.Since(began)
			keys[r.URL.Query().Get("deduplicationKey")] = true
			return nil, errors.New("connection refused")
		}, 24*time.Hour)
		_, err := c.Create(t.Context(), []client.Request{{Method: "GET", Path: "/"}}, client.CreateOptions{})
		if err == nil || last < 45*time.Minute || last > 55*time.Minute || len(keys) != 1 {
			t.Errorf("%v; the last attempt was after %v, with %d keys", err, last, len(keys))
		}
		began = time.Now()
		if _, err := c.Get(t.Context(), "x", client.GetOptions{}); err == nil || last < 23*time.Hour {
			t.Errorf("%v; the last attempt at a read was after %v", err, last)
		}
	})
}

// TestSilence checks that a call fails after the server has sent nothing for a minute, before or
// during its answer.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silent := newClient(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, context.Cause(r.Context())
		}, -1)
		began := time.Now()
		_, err := silent.Get(t.Context(), "x", client.GetOptions{})
		if err == nil || err.Error() != "call http://sheaf: timeout waiting for an answer" || time.Since(began) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		stalling := newClient(func(r *http.Request) (*http.Response, error) {
			return answer(r, "application/json", &stalledBody{strings.NewReader(`{"status":`), r.Context()})
		}, -1)
		began = time.Now()
		_, err = stalling.Get(t.Context(), "x", client.GetOptions{})
		if err == nil || err.Error() != "call http://sheaf: timeout waiting for an answer" || time.Since(began) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// stalledBody is a body that blocks after its beginning until the call is canceled.
type stalledBody struct {
	io.Reader
	ctx context.Context //nolint:containedctx // the call's own
}

func (h *stalledBody) Read(p []byte) (int, error) {
	if n, err := h.Reader.Read(p); err == nil {
		return n, nil
	}
	<-h.ctx.Done()
	return 0, h.ctx.Err()
}

func (h *stalledBody) Close() error { return nil }

// TestSlowReader checks that a caller may take as long as it likes with each response.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newClient(func(r *http.Request) (*http.Response, error) {
			lines := io.MultiReader(strings.NewReader(`{"index":0,"status":"COMPLETED"}`+"\n"), strings.NewReader(`{"index":1,"status":"COMPLETED"}`+"\n"))
			return answer(r, "application/x-ndjson", &contextBody{lines, r.Context()})
		}, -1)
		n := 0
		for _, err := range c.Results(t.Context(), "x", client.GetOptions{}) {
			if err != nil {
				t.Fatal(err)
			}
			n++
			<-time.After(10 * time.Minute)
		}
		if n != 2 {
			t.Errorf("%d responses", n)
		}
	})
}

// contextBody is a body that can't be read after the call's context is done, as in net/http.
type contextBody struct {
	io.Reader
	ctx context.Context //nolint:containedctx // the call's own
}

func (u *contextBody) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.Reader.Read(p)
}

func (u *contextBody) Close() error { return nil }
