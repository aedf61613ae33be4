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

// transport answers calls without a socket.
type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func answer(r *http.Request, contentType string, body io.ReadCloser) (*http.Response, error) {
	return &http.Response{Status: "200 OK", StatusCode: 200, Header: http.Header{"Content-Type": {contentType}}, Body: body, Request: r}, nil
}

func over(f transport, retryFor time.Duration) *client.Client {
	return must(client.New(client.Options{Server: "http://sheaf", Store: "1", Token: "t", RetryFor: retryFor, HTTPClient: &http.Client{Transport: f}}))
}

// TestCreateEndsWithItsKey: however long the client is told to go on, a create is not
// repeated when the server may have forgotten its key: that would make a second batch.
func TestCreateEndsWithItsKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began, last := time.Now(), time.Duration(0)
		keys := map[string]bool{}
		c := over(func(r *http.Request) (*http.Response, error) {
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

// TestSilence: a server that says nothing for a minute is given up, before its answer and
// within it.
func TestSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dumb := over(func(r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, context.Cause(r.Context())
		}, -1)
		began := time.Now()
		_, err := dumb.Get(t.Context(), "x", client.GetOptions{})
		if err == nil || err.Error() != "ask http://sheaf: no answer came in time" || time.Since(began) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		halting := over(func(r *http.Request) (*http.Response, error) {
			return answer(r, "application/json", &halts{strings.NewReader(`{"status":`), r.Context()})
		}, -1)
		began = time.Now()
		_, err = halting.Get(t.Context(), "x", client.GetOptions{})
		if err == nil || err.Error() != "ask http://sheaf: no answer came in time" || time.Since(began) != time.Minute {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// halts is an answer that stops in the middle.
type halts struct {
	io.Reader
	ctx context.Context //nolint:containedctx // the call's own
}

func (h *halts) Read(p []byte) (int, error) {
	if n, err := h.Reader.Read(p); err == nil {
		return n, nil
	}
	<-h.ctx.Done()
	return 0, h.ctx.Err()
}

func (h *halts) Close() error { return nil }

// TestSlowReader: who takes its time with each response is not cut off.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := over(func(r *http.Request) (*http.Response, error) {
			lines := io.MultiReader(strings.NewReader(`{"index":0,"status":"COMPLETED"}`+"\n"), strings.NewReader(`{"index":1,"status":"COMPLETED"}`+"\n"))
			return answer(r, "application/x-ndjson", &unlessCancelled{lines, r.Context()})
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

// unlessCancelled is an answer as the HTTP library gives it: it ends with the call's context.
type unlessCancelled struct {
	io.Reader
	ctx context.Context //nolint:containedctx // the call's own
}

func (u *unlessCancelled) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.Reader.Read(p)
}

func (u *unlessCancelled) Close() error { return nil }
