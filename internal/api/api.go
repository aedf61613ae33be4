// Package api serves the wire contract (docs/contract.md) over HTTP: it creates, shows, searches, stops
// and deletes batches, and answers health checks.
//
// A 200 answer to a create guarantees that the batch is stored. After a 503, it may be stored;
// after any other answer, it isn't. What a caller isn't allowed to see is answered as if it did not
// exist. Package reply says what a status guarantees.
//
// Log lines never contain a token, a body or a query.
package api

import (
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/sheafapi/sheaf/internal/api/reply"
	"github.com/sheafapi/sheaf/internal/api/watch"
	"github.com/sheafapi/sheaf/internal/audit"
	"github.com/sheafapi/sheaf/internal/auth"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/cpu"
	"github.com/sheafapi/sheaf/internal/gate"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/telemetry"
	"go.opentelemetry.io/otel/trace"
)

// Storage is what calls about batches need from a database. Package storage defines the contract.
type Storage interface {
	storage.Batches
	storage.Reader
}

// Callbacks is what calls about callbacks need from a database; see storage.Callbacks.
type Callbacks interface {
	Deliveries(ctx context.Context, s storage.DeliverySearch) ([]storage.Delivery, error)
	Redeliver(ctx context.Context, key storage.Key) error
}

// Operations is what operators' calls need from a database; see storage.Operations.
type Operations interface {
	Quarantined(ctx context.Context, after storage.BatchID, limit int) ([]storage.QuarantinedBatch, error)
	Unquarantine(ctx context.Context, ticket batch.Ticket, end bool) (storage.QueueID, error)
	Overview(ctx context.Context, loads int) (storage.Overview, error)
}

// Options configure the API. A field must be set unless its comment says what happens without it.
type Options struct {
	// Storage, Callbacks and Operations are parts of the same database.
	Storage    Storage
	Callbacks  Callbacks
	Operations Operations
	// Seal encrypts a caller's token for a batch.
	Seal func(ticket batch.Ticket, store, token string) ([]byte, error)
	// Introduce, if set, is called with the owner of each created batch's queue, before Wake.
	Introduce func(q storage.QueueID, store string, owner batch.Owner)
	// Wake is called with the queue of each batch that was created or taken out of quarantine.
	// Notify is called with each queue in which a batch was stopped, deleted, paused or resumed.
	// They must not block.
	Wake, Notify func(storage.QueueID)
	// Ready returns nil while the service can do its work. Its error is shown at /readyz.
	Ready func(context.Context) error

	// Authorize checks whether a token has a right at a store. It is called before anything else is
	// done for the call. An error that isn't an *auth.Refusal means that the token could not be
	// checked.
	Authorize func(r *http.Request, store, token, right string) (auth.Caller, error)

	// AuthorizeOperator checks an operator's token in the same way.
	AuthorizeOperator func(r *http.Request, token string) error

	// Node returns the state of this node, for GET /operator.
	Node func() telemetry.Node

	// Observe, if set, is called after the answer to every call. template is that of the call's
	// route, or "none". status is 0 if the connection was aborted. Created, if set, is called after
	// a batch is stored.
	Observe func(method, template string, status int, took time.Duration)
	Created func(store string)

	// From, if set, returns the network that a call came from. Places and memory are shared fairly
	// between owners and between networks.
	From func(r *http.Request) netip.Prefix

	// Tracer, if set, traces calls. A caller's trace is stored with its batch even without it.
	Tracer trace.Tracer

	// Audit, if set, logs calls about batches and calls by operators, after their answer.
	Audit *audit.Log

	// Forward, if set, answers calls below a store that aren't about batches. path is the part
	// after the store, still escaped, with the query. An error is an *outbound.ForwardError and
	// means that no part of an answer was sent.
	Forward func(w http.ResponseWriter, r *http.Request, store, path string) error

	// MaxForwards limits the calls that are forwarded at the same time. Each has a connection to the
	// upstream. A caller gets at most half of the free places.
	MaxForwards int

	// CheckCallback checks a callbackUrl. Its errors complete the sentence "Parameter callbackUrl
	// …". Without it, there are no callbacks. Callback is the URL for batches that have no
	// callbackUrl; empty: none.
	CheckCallback func(url string) error
	Callback      string

	// Hub wakes the calls that wait for changes of a batch. Code that records something about a
	// batch must report it to the hub. Default: a hub for this API only.
	Hub   *watch.Hub
	Alone bool // no other node uses the database, so every change is reported to Hub

	Headers batch.HeaderPolicy // the headers that a batch's requests may have

	MaxBody   int64 // bytes of a create body, before and after decompression
	MaxAnswer int64 // bytes of an answer's body
	MaxQueued int   // unfinished batches that a queue may hold; 0: no limit
	MaxStored int64 // bytes that a queue's batches may take; 0: no limit

	// CPU shares the processors fairly between stores and networks. Nil means no limit.
	CPU *cpu.Shares

	// HasRoom, if set, reports whether the database has room for a batch of about this many bytes.
	HasRoom func(owner batch.Owner, bytes int64) bool

	// Crowded, if set, reports whether a batch would exceed the store's limit on unfinished batches
	// of tokens that the upstream has not accepted yet. All callers with such tokens share this
	// limit.
	Crowded func(store string, owner batch.Owner) bool

	Logger *slog.Logger
}

// maxStreams is the maximum number of calls that wait for changes of a batch: event streams, and
// statuses with the parameter wait.
const maxStreams = 10 << 10

// API is the HTTP API, a handler that answers every path. Its only state is the memory taken by
// bodies and answers, the calls that wait for changes, and the latest activities.
type API struct {
	Options
	source     *reply.Source
	memory     memory
	streams    *gate.Gate[reply.Name] // places of calls that wait for changes
	forwards   *gate.Gate[reply.Name] // places of forwarded calls
	activities *activities
}

// New returns an API. While Run runs, calls that wait for changes also learn of changes by other
// nodes.
func New(o Options) *API {
	if o.Hub == nil {
		o.Hub = &watch.Hub{}
	}
	s := &API{
		Options: o, memory: newMemory(o.MaxBody), activities: newActivities(),
		streams:  gate.New[reply.Name](maxStreams, maxStreams),
		forwards: gate.New[reply.Name](int64(o.MaxForwards), int64(o.MaxForwards)),
	}
	s.source = reply.NewSource(o.Storage, o.Hub, o.MaxAnswer, largestBatch(o.MaxBody))
	return s
}

// Run polls storage, until ctx ends, for changes by other nodes to batches that calls wait for.
// Then it ends the waiting of these calls, which answer with the current state.
func (s *API) Run(ctx context.Context) {
	if s.Alone {
		s.Hub.Run(ctx, nil)
	} else {
		s.Hub.Run(ctx, s.Storage)
	}
}
