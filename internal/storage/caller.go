package storage

import (
	"context"

	"github.com/sheafapi/sheaf/internal/batch"
)

// Caller is the store and owner that a call is made for. Databases share their connections fairly
// among stores, and among the owners of a store.
type Caller struct {
	Store string
	Owner batch.Owner
}

type (
	callerKey  struct{}
	serviceKey struct{}
)

// WithCaller returns a context that names the caller. Results, Marks, Requests and Queue need it
// because their arguments don't name one.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// CallerOf returns the caller that a context names; the zero value if it names none.
func CallerOf(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

// ForService returns a context for reads that the service needs to run batches. They don't wait for
// callers' reads.
func ForService(ctx context.Context) context.Context {
	return context.WithValue(ctx, serviceKey{}, true)
}

// IsForService reports whether ForService made the context.
func IsForService(ctx context.Context) bool { return ctx.Value(serviceKey{}) != nil }
