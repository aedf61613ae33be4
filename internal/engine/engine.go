// Package engine runs the batches that storage holds.
//
// It guarantees:
//   - The batches of a queue run one after the other.
//   - The requests of a batch run in order, or up to batch.MaxParallel at a time.
//   - No POST or PATCH leaves before its intent is durable. If its outcome is unknown, it isn't sent
//     again, unless the policy allows that.
//   - A recorded answer is final.
//   - A node sends requests only for queues that it certainly owns at that moment.
//
// When storage fails, a running batch pauses. It sends nothing that it couldn't record, keeps the
// answers that it has, and retries until storage answers or the node shuts down. When the process dies,
// this node or another one claims the queue again. The batch's marks show what was sent, and the batch
// continues from there.
//
// A node may be considered dead although it is alive, because it was suspended or lost its connection
// to the database. It then starts nothing more for its claims. Requests in flight finish, and their
// answers are recorded unless another node has claimed the queue.
//
// While the upstream is unavailable, batches wait for it and attempts don't count (outage.go).
//
// Waiting batches aren't kept in memory. If a batch's next attempt is due later, or its turn is over,
// it is released to storage and claimed again. Running batches share a limited amount of memory, and a
// batch that doesn't fit waits. Answers share a separate amount, from the first byte that is read until
// they are recorded. While all of it is in use, no request is sent, and answers are read more slowly.
package engine

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sheafapi/sheaf/internal/budget"
	"github.com/sheafapi/sheaf/internal/cpu"
	"github.com/sheafapi/sheaf/internal/governor"
	"github.com/sheafapi/sheaf/internal/outage"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/storage"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/semaphore"
)

const (
	// mostAdvance limits the memory, in bytes, that is reserved for an answer before the attempt
	// begins. Most answers need no more, so attempts in flight rarely wait for memory.
	mostAdvance = 16 << 10
	// lastWords is how long the release of a batch may take after the shutdown limit.
	lastWords = 5 * time.Second
)

// Storage is what the engine needs from a database. Package storage has the contract.
type Storage interface {
	storage.Queues
	storage.Runs
	Results(ctx context.Context, id storage.BatchID, from, maxBytes int) ([]storage.IndexedResult, error)
	Ping(ctx context.Context) error
}

// Upstream carries out one attempt. It is called from many goroutines.
type Upstream interface {
	Do(ctx context.Context, c *outbound.Call) outbound.Answer
	// Reach returns nil if a connection can be made. It sends no request.
	Reach(ctx context.Context) error
}

// Options configure an Engine. Only CPU, Observer, Tracer and TraceAttributes are optional.
type Options struct {
	Storage  Storage
	Upstream Upstream
	Unseal   func(c *storage.Claim) (token string, err error) // see ErrNoKey and ErrUnknownSeal
	Policy   Policy
	Governor *governor.Governor // limits the requests with one credential, over all nodes; runs while the engine does

	Strangers       bool // only the upstream checks tokens, and each token is a separate owner
	QueuesAtOnce    int
	MaxOutbound     int
	MaxBody         int64       // bytes of a create's body; used if Memory is 0
	MaxAnswer       int64       // bytes of an answer's body; used if Memory is 0
	Memory          int64       // bytes for all running batches, without answers; 0: derive all limits on memory from MaxBody, MaxAnswer and GOMEMLIMIT
	LargestBatch    int64       // bytes of Memory for one batch
	CPU             *cpu.Shares // shares the processors among stores; nil: no limit
	Answers         int64       // bytes for all answers, from the first byte that is read until they are recorded
	LargestAnswer   int64       // bytes of Answers for one answer
	ShutdownTimeout time.Duration
	Logger          *slog.Logger

	Observer        Observer             // nil: none
	Tracer          trace.Tracer         // nil: this node records no traces and only forwards callers' traces
	TraceAttributes []attribute.KeyValue // for each attempt: the upstream's address
}

// Engine runs batches. Make it with New.
type Engine struct {
	Options
	outbound *semaphore.Weighted // places for attempts in flight
	extras   *extras             // the part of these places that parallel batches may use for further attempts
	batches  *budget.Budget      // the memory of running batches
	answers  *budget.Budget      // the memory of answers
	advance  int64               // bytes that are reserved for an answer before the attempt begins
	inFlight atomic.Int64        // attempts in flight
	withheld atomic.Int64        // outbound places that are not in use yet after an outage
	silence  outage.Log          // attempts that got no answer
	keyless  outage.Log          // batches whose key is missing
	probation

	mu        sync.Mutex
	strangers strangers
	crowds    crowds
	open      bool                       // Run has begun, and shut has not been called
	queues    map[storage.QueueID]*queue // ready, running or waiting on this node
	hungry    int                        // queues that hold a place and wait for memory
	fresh     []storage.QueueID          // the line of queues that were idle until a batch was created
	ready     []storage.QueueID          // the line of the other queues
	ahead     int                        // how many of fresh got a place since the last of ready
	parked    []storage.QueueID          // queues that wait for the end of an outage, longest first; some may be in another state by now
	offers    []storage.QueueID          // offered to other nodes once mu is unlocked
	running   int                        // queues that hold a place
	idle      chan struct{}              // closed when open is false and running is 0
	scanned   chan struct{}              // closed after the first full scan
	work      context.Context            // the context of attempts; outlives drain
	abort     context.CancelFunc         // ends work
	drain     context.Context            // Run's context; once it has ended, nothing starts
}

// New returns an engine that isn't running yet. Wake and Notify may be called before Run.
func New(o Options) *Engine {
	if o.Memory == 0 {
		o.planMemory()
	}
	if o.Observer == nil {
		o.Observer = nobody{}
	}
	return &Engine{
		Options:   o,
		outbound:  semaphore.NewWeighted(int64(o.MaxOutbound)),
		extras:    newExtras(o.MaxOutbound * 3 / 4),
		batches:   budget.New(o.Memory, o.LargestBatch),
		answers:   budget.New(o.Answers, o.LargestAnswer),
		advance:   min(mostAdvance, o.LargestAnswer, max(1, (o.Answers-o.LargestAnswer)/int64(2*o.MaxOutbound))),
		queues:    map[storage.QueueID]*queue{},
		strangers: newStrangers(),
		crowds:    newCrowds(),
		idle:      make(chan struct{}),
		scanned:   make(chan struct{}),
	}
}

// Ready returns nil once the engine has found the batches that an earlier process left behind.
func (e *Engine) Ready() error {
	select {
	case <-e.scanned:
		return nil
	default:
		return errors.New("recovery is in progress")
	}
}

// Run runs batches until ctx ends. It then starts nothing more, waits for requests in flight for at
// most ShutdownTimeout, records their answers and returns. Requests that are still in flight after
// that are left to the next process, as after a crash. Run must be called only once.
func (e *Engine) Run(ctx context.Context) error {
	work, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	e.Governor.Poll(ctx)
	e.mu.Lock()
	e.open, e.work, e.drain, e.abort = true, work, ctx, abort
	e.fill()
	e.mu.Unlock()

	var helpers sync.WaitGroup
	// Storage calls Notify for every stop, even if this engine doesn't know the queue. The node may own
	// a queue that it doesn't run; only this node can claim that queue again and run it.
	helpers.Go(func() { e.Storage.Watch(ctx, e.hint, e.Notify) })
	helpers.Go(func() { e.scanLoop(ctx) })
	helpers.Go(func() { e.Governor.Run(ctx) })
	helpers.Go(func() { e.outageLoop(ctx) })
	<-ctx.Done()
	helpers.Wait()
	e.shut()

	limit := time.NewTimer(e.ShutdownTimeout)
	defer limit.Stop()
	select {
	case <-e.idle:
		return nil
	case <-limit.C:
	}
	e.Logger.Warn("shutdown limit reached; requests still in flight are abandoned, as after a crash", "limit", e.ShutdownTimeout.String())
	abort()
	<-e.idle
	return nil
}

// shut stops giving out places, and offers the queues in the lines to other nodes.
func (e *Engine) shut() {
	e.mu.Lock()
	defer e.unlock()
	e.open = false
	e.offers = append(append(e.offers, e.fresh...), e.ready...)
	for _, c := range e.crowds.waiting {
		e.offers = append(append(e.offers, c.known...), c.strangers...)
	}
	for _, ids := range e.strangers.line.queues {
		e.offers = append(e.offers, ids...)
	}
	for _, q := range e.queues {
		if q.timer != nil {
			q.timer.Stop()
		}
	}
	if e.running == 0 {
		close(e.idle)
	}
}
