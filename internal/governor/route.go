package governor

import (
	"context"
	"crypto/sha256"
	"strings"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Scope says which requests a RouteLimit counts together.
type Scope uint8

// The scopes.
const (
	PerCredential Scope = iota // those with the same upstream credential
	PerStore                   // those of one store
	PerAll                     // all
)

// RouteLimit limits the requests whose method and path match.
type RouteLimit struct {
	Method      string // "*": any
	Path        string // a pattern in which * stands for any text; begins with a slash
	Rate        Rate   // over all nodes; zero: no limit
	Concurrency int    // requests in flight on this node; 0: no limit
	Per         Scope
}

// Matches reports whether the limit applies to a request. path is relative to the upstream's base, as it
// is sent; its query doesn't matter.
func (l *RouteLimit) Matches(method, path string) bool {
	if l.Method != "*" && l.Method != method {
		return false
	}
	path, _, _ = strings.Cut(path, "?")
	return matches(l.Path[1:], strings.TrimPrefix(path, "/"))
}

// matches reports whether text matches a pattern in which * stands for any text.
func matches(pattern, text string) bool {
	first, rest, more := strings.Cut(pattern, "*")
	if !more {
		return pattern == text
	}
	text, ok := strings.CutPrefix(text, first)
	for ok {
		var part string
		if part, rest, more = strings.Cut(rest, "*"); !more {
			return strings.HasSuffix(text, part)
		}
		_, text, ok = strings.Cut(text, part)
	}
	return false
}

// key identifies what the limit counts together for a credential and a store.
func (l *RouteLimit) key(credential batch.Owner, store string) batch.Owner {
	scope := ""
	switch l.Per {
	case PerCredential:
		scope = "credential\x00" + string(credential[:])
	case PerStore:
		scope = "store\x00" + store
	case PerAll:
	}
	return sha256.Sum256([]byte("route\x00" + l.Method + " " + l.Path + "\x00" + scope))
}

// Route counts the requests to which one RouteLimit applies together. It is scheduled like a credential
// that learns nothing and is never held. Its methods are those of Credential, except that Done learns
// nothing.
type Route struct {
	limit *RouteLimit
	c     *Credential
}

// Routes returns the routes of a credential and a store, for one queue to use. The caller must call
// Detach on each when done.
func (g *Governor) Routes(credential batch.Owner, store string) []*Route {
	if len(g.limits) == 0 {
		return nil
	}
	out := make([]*Route, len(g.limits))
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.limits {
		l := &g.limits[i]
		key := l.key(credential, store)
		c := g.routes[key]
		if c == nil {
			c = &Credential{governor: g, key: key, rate: l.Rate, refilling: make(chan struct{}, 1)}
			c.fixed = l.Concurrency
			g.routes[key] = c
		}
		c.mu.Lock()
		c.users++
		c.mu.Unlock()
		out[i] = &Route{l, c}
	}
	return out
}

// Matches reports whether the route's limit applies to a request.
func (r *Route) Matches(method, path string) bool { return r.limit.Matches(method, path) }

// Try is Credential.Try.
func (r *Route) Try(ctx context.Context, q storage.QueueID, now time.Time) (due time.Time, ok bool) {
	return r.c.try(ctx, q, now)
}

// Line is Credential.Line. granted gets a signal when the waiter gets its place.
func (r *Route) Line(granted chan<- struct{}) *Waiter { return r.c.queueUp(granted) }

// Claim is Credential.Claim.
func (r *Route) Claim(ctx context.Context, q storage.QueueID) (due time.Time, ok bool) {
	return r.c.claim(ctx, q)
}

// Leave is Credential.Leave.
func (r *Route) Leave(w *Waiter) { r.c.Leave(w) }

// Undo is Credential.Undo.
func (r *Route) Undo(q storage.QueueID) { r.c.undo(q) }

// Done ends a request that was sent.
func (r *Route) Done() {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	r.c.exit()
	r.c.grant()
}

// Forget is Credential.Forget.
func (r *Route) Forget(q storage.QueueID) { r.c.Forget(q) }

// Detach is Credential.Detach.
func (r *Route) Detach() { r.c.Detach() }
