package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	webhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// hook receives callbacks.
type hook struct {
	url    string
	bodies chan string // bodies with a valid signature
}

// listen starts a receiver with the store's secret. The receiver stops when ctx is done.
func listen(ctx context.Context, secret string) (*hook, error) {
	verifier, err := webhooks.NewWebhook(secret)
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	h := &hook{url: "http://" + listener.Addr().String() + "/hooks", bodies: make(chan string, 10)}
	server := &http.Server{ReadHeaderTimeout: limit, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err == nil {
			err = verifier.Verify(body, r.Header)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		h.bodies <- string(body)
	})}
	go func() { _ = server.Serve(listener) }() // ends when the server is closed
	context.AfterFunc(ctx, func() { server.Close() })
	return h, nil
}

// wait returns the body of a callback.
func (h *hook) wait(ctx context.Context) (string, error) {
	select {
	case body := <-h.bodies:
		return body, nil
	case <-time.After(limit / 2):
		return "", errors.New("no callback with a valid signature arrived")
	case <-ctx.Done():
		return "", fmt.Errorf("no callback arrived: %w", context.Cause(ctx))
	}
}
