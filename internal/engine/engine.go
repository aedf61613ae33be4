// Package engine runs the batches that storage holds.
//
// The guarantee: within a queue, batches run one after the other; within a batch,
// requests run in order (or up to batch.MaxParallel at once); no POST or PATCH
// leaves before its intent is durable, and none whose outcome is unknown is sent
// again (unless the policy says so); an answer that was recorded is final. A node
// sends only for a queue that it certainly owns at that moment.
//
// When storage fails, a running batch pauses: it sends nothing that could not be
// recorded, keeps the answers that it has, and tries again until storage answers or
// the node shuts down. When the process dies, the next Claim of the queue, here or
// on another node, finds in the batch's marks what had been sent and goes on.
//
// A node that was taken for dead while it lived (it was stopped, or cut off from the
// database) starts nothing more for what it had claimed, lets end what it had sent, and
// records that if nobody else has claimed the queue since.
//
// Nothing that waits is held in memory: a batch whose next attempt is due later,
// or whose turn is over, is released to storage and claimed again. The batches that
// run share a bounded amount of memory; one that does not fit waits for its share.
// Answers share another one, from the first byte that is read until they are recorded:
// while it is used up, nothing is sent, and what was sent is read more slowly.
package engine

import (
	"context"
	"errors"
	"log/slog"
	"slices"
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
	// turn is how long a queue may run while others wait for a place; shortTurn while one of
	// them was idle until now, and firstTurn if it was idle itself before.
	turn      = 2 * time.Second
	shortTurn = time.Second
	firstTurn = 250 * time.Millisecond
	// mostAhead is how many queues that were idle get a place before one that was busy.
	mostAhead = 8
	// scanInterval is how often storage is asked for queues that nobody runs: those
	// of dead nodes, and whatever a lost wake-up left behind.
	scanInterval = time.Second
	scanPage     = 1000
	// maxKnown bounds the queues that the engine keeps in mind. More are found by
	// later scans.
	maxKnown      = 100_000
	purgeInterval = time.Minute
	// mostAdvance bounds the memory that an attempt has for its answer before it begins, in
	// bytes. Most answers need no more, so that what was sent need not wait for memory.
	mostAdvance = 16 << 10
	// mostPurges bounds the steps between two ticks, should a step always say that there is more.
	mostPurges = 10_000
	// lastWords is how long a batch may take to be released once its node has
	// given up waiting for what is under way.
	lastWords = 5 * time.Second
)

// Storage is what the engine needs from a database. Package storage has the contract.
type Storage interface {
	storage.Queues
	storage.Runs
	storage.Pacing
	Results(ctx context.Context, id storage.BatchID, from, maxBytes int) ([]storage.IndexedResult, error)
	Purge(ctx context.Context, retention time.Duration) (more bool, err error)
	Ping(ctx context.Context) error
}

// Upstream carries out one attempt. It is called from many goroutines.
type Upstream interface {
	Do(ctx context.Context, c *outbound.Call) outbound.Answer
}

// Options configure an Engine. All have to be set but Rate, Observer, Tracer and its attributes.
type Options struct {
	Storage  Storage
	Upstream Upstream
	Unseal   func(c *storage.Claim) (token string, err error) // see ErrNoKey and ErrUnknownSeal
	Policy   Policy
	Rate     governor.Rate // of what is sent with one credential, by all nodes together

	Strangers       bool // nobody judges an owner's token before the upstream does: an owner is its token
	QueuesAtOnce    int
	MaxOutbound     int
	MaxBody         int64       // bytes of a create's body; with Memory 0
	MaxAnswer       int64       // bytes of an answer's body; with Memory 0
	Memory          int64       // bytes that the batches that run may take together, without answers; 0: this and the next limits follow from MaxBody, MaxAnswer and GOMEMLIMIT
	LargestBatch    int64       // bytes that one batch may take of these
	CPU             *cpu.Shares // the processors, which stores share; nil: nothing limits them
	Answers         int64       // bytes that answers may take together, from the first byte that is read until they are recorded
	LargestAnswer   int64       // bytes that one answer may take of these
	Retention       time.Duration
	ShutdownTimeout time.Duration
	Logger          *slog.Logger

	Observer        Observer             // nil: nobody is told
	Tracer          trace.Tracer         // nil: nothing is traced; a caller's trace is passed on all the same
	TraceAttributes []attribute.KeyValue // of each attempt: where the upstream is
}

// Engine runs batches. Make it with New.
type Engine struct {
	Options
	outbound *semaphore.Weighted // places for attempts under way
	extras   *extras             // of these, places for a batch's second and further ones
	batches  *budget.Budget      // the memory of the batches that run, a share each
	answers  *budget.Budget      // the memory of answers, a share each
	advance  int64               // bytes that an attempt has for its answer before it begins
	governor *governor.Governor
	inFlight atomic.Int64 // attempts under way
	silence  outage.Log   // attempts that got no answer
	keyless  outage.Log   // batches whose key is missing
	probation

	mu        sync.Mutex
	strangers strangers
	crowds    crowds
	open      bool                       // between the start of Run and shut
	queues    map[storage.QueueID]*queue // ready, running or waiting on this node
	hungry    int                        // queues that hold a place and wait for memory
	fresh     []storage.QueueID          // woken by a create and not yet run, in the order in which they get a place
	ready     []storage.QueueID          // the others that get one, likewise
	ahead     int                        // how many of fresh went ahead of ready's first
	offers    []storage.QueueID          // to be told to other nodes once mu is unlocked
	running   int                        // queues that hold a place
	idle      chan struct{}              // closed when running falls to 0 after open was unset
	scanned   chan struct{}              // closed after the first full scan
	work      context.Context            // what attempts run under: outlives Run's context
	abort     context.CancelFunc         // ends work
	drain     context.Context            // Run's context: when it ends nothing more is started
}

// queue is what the engine knows of one queue. Guarded by Engine.mu.
type queue struct {
	state    queueState
	store    string        // ready, running: it counts among the store's; empty: among none's
	fresh    bool          // ready: it had nothing to run before
	found    bool          // ready: by a scan, and not known before
	again    bool          // woken while it was running
	stranger bool          // running: it counts as a stranger's
	lost     bool          // its last claim was lost before anything was done under it
	news     chan struct{} // running: its creator may have stopped or deleted the batch
	timer    *time.Timer   // waiting
	until    time.Time     // waiting: for this moment
}

type queueState uint8

const (
	ready queueState = iota
	running
	waiting
)

// New returns an engine that is not running yet. Wake and Notify may be called
// before Run.
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
		governor:  governor.New(o.Storage, o.Rate, o.MaxOutbound, o.Logger),
		queues:    map[storage.QueueID]*queue{},
		strangers: newStrangers(),
		crowds:    newCrowds(),
		idle:      make(chan struct{}),
		scanned:   make(chan struct{}),
	}
}

// Ready returns nil when the batches that an earlier process left behind have been
// found and are being run.
func (e *Engine) Ready() error {
	select {
	case <-e.scanned:
		return nil
	default:
		return errors.New("recovery is under way")
	}
}

// Run runs batches until ctx ends. Then it starts nothing more, waits for what is
// under way, at most the shutdown timeout, records it and returns. What is still
// under way then is left to the next process as after a crash.
// Run may be called once.
func (e *Engine) Run(ctx context.Context) error {
	work, abort := context.WithCancel(context.WithoutCancel(ctx))
	defer abort()
	e.governor.Poll(ctx)
	e.mu.Lock()
	e.open, e.work, e.drain, e.abort = true, work, ctx, abort
	e.fill()
	e.mu.Unlock()

	var helpers sync.WaitGroup
	// Storage tells of stops by Notify, also where this engine does not know the queue:
	// what the node owns, and nobody runs, has to be claimed again to be run.
	helpers.Go(func() { e.Storage.Watch(ctx, e.hint, e.Notify) })
	helpers.Go(func() { e.scanLoop(ctx) })
	helpers.Go(func() { e.governor.Run(ctx) })
	helpers.Go(func() { e.purgeLoop(ctx) })
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
	e.Logger.Warn("shutdown limit reached; what is still under way is left as after a crash", "limit", e.ShutdownTimeout.String())
	abort()
	<-e.idle
	return nil
}

// shut keeps queues from getting a place from now on, and offers those that wait for
// one to other nodes.
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

// unlock unlocks e.mu and tells other nodes what was offered under it.
func (e *Engine) unlock() {
	offers := e.offers
	e.offers = nil
	e.mu.Unlock()
	for _, id := range offers {
		e.Storage.Offer(id)
	}
}

// Wake tells that a batch was created in the queue.
func (e *Engine) Wake(id storage.QueueID) {
	e.mu.Lock()
	defer e.unlock()
	switch q := e.queues[id]; {
	case q == nil:
		e.enqueue(id, &queue{fresh: true})
	case q.state == running:
		q.again = true
	case q.state == ready:
		if q.found { // the scan has seen the batch before its creator could tell
			q.found, q.fresh = false, true
			if i := slices.Index(e.ready, id); i >= 0 {
				e.ready = slices.Delete(e.ready, i, i+1)
				e.line(id, q)
			}
		}
		e.offers = append(e.offers, id)
	}
}

// Notify tells that a batch of the queue that may be under way, or wait for its
// next attempt, was stopped or deleted.
func (e *Engine) Notify(id storage.QueueID) {
	e.mu.Lock()
	defer e.unlock()
	q := e.queues[id]
	if q == nil {
		e.enqueue(id, &queue{})
		return
	}
	switch q.state {
	case running:
		q.again = true
		select {
		case q.news <- struct{}{}:
		default:
		}
	case waiting:
		q.timer.Stop()
		e.enqueue(id, q)
	case ready:
	}
}

// hint tells that another node has work in the queue that it does not run now. Without
// a free place here it is forgotten: the other node's turn may come first, and whoever
// scans finds it.
func (e *Engine) hint(id storage.QueueID) {
	e.mu.Lock()
	defer e.unlock()
	q := e.queues[id]
	switch {
	case q != nil && q.state == running:
		q.again = true
	case q != nil && q.state == ready, e.stopping(), e.running >= e.QueuesAtOnce:
	case q != nil: // its moment was another one
		q.timer.Stop()
		e.enqueue(id, q)
	default:
		e.enqueue(id, &queue{})
	}
}

// enqueue puts a queue at the end of the line for a place. Where it does not get one at
// once, another node may have one. e.mu is held; unlock tells the offer.
func (e *Engine) enqueue(id storage.QueueID, q *queue) {
	e.line(id, q)
	if q.state == ready {
		e.offers = append(e.offers, id)
	}
}

// line is enqueue without an offer. e.mu is held.
func (e *Engine) line(id storage.QueueID, q *queue) {
	q.state, q.timer = ready, nil
	e.queues[id] = q
	if !e.admit(id, q) {
		return
	}
	if store, is := e.stranger(id); is {
		e.strangers.line.push(store, id)
	} else if q.fresh {
		e.fresh = append(e.fresh, id)
	} else {
		e.ready = append(e.ready, id)
	}
	e.fill()
}

// stopping reports whether no queue gets a place: before Run has begun, and from the
// moment on at which its context ended. e.mu is held.
func (e *Engine) stopping() bool { return !e.open || e.drain.Err() != nil }

// fill gives free places to the queues at the heads of the lines. A queue that was idle does
// not wait behind all that are busy (like the new flows of FQ-CoDel, RFC 8290), and many
// that were idle don't keep those from going on. e.mu is held.
func (e *Engine) fill() {
	for !e.stopping() && e.running < e.QueuesAtOnce {
		id, stranger, found := e.pop()
		if !found {
			return
		}
		q := e.queues[id]
		t := &term{queue: id, began: time.Now(), first: q.fresh}
		*q = queue{state: running, store: q.store, stranger: stranger, lost: q.lost, news: make(chan struct{}, 1)}
		e.running++
		go func() { e.leave(id, e.runQueue(id, q.news, t)) }()
	}
}

// pop takes the queue that gets the next place out of its line. e.mu is held.
func (e *Engine) pop() (id storage.QueueID, stranger, found bool) {
	others := len(e.ready)+len(e.fresh) > 0
	if e.strangerWaits() && (!others || e.strangers.behind) {
		e.strangers.behind = false
		e.strangers.running++
		return e.strangers.line.pop(), true, true
	}
	if !others {
		return 0, false, false
	}
	e.strangers.behind = true
	line := &e.fresh
	if len(e.fresh) == 0 || len(e.ready) > 0 && e.ahead >= mostAhead {
		line, e.ahead = &e.ready, 0
	} else {
		e.ahead++
	}
	id = (*line)[0]
	*line = (*line)[1:]
	return id, false, true
}

// term is the time for which a queue holds its place.
type term struct {
	queue storage.QueueID
	began time.Time
	first bool // the queue was idle before
}

// over reports whether the queue has to hand its place over.
func (e *Engine) over(t *term) bool {
	since := time.Since(t.began)
	if since <= firstTurn {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	fresh := len(e.fresh) > 0 || e.strangerWaits()
	switch {
	case fresh && t.first:
		return true
	case fresh:
		return since > shortTurn
	}
	return since > turn && (len(e.ready) > 0 || e.hungry > 0 || e.crowded(t.queue))
}

// contested reports whether queues wait for a place, or for memory.
func (e *Engine) contested() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.ready)+len(e.fresh) > 0 || e.strangerWaits() || e.hungry > 0
}

// count changes a counter of the engine.
func (e *Engine) count(counter *int, by int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	*counter += by
}

// followUp is what a queue is to do after it gave its place back.
type followUp struct {
	again     bool      // it has, or may have, more to run
	notBefore time.Time // with again: not before this moment; zero: in its next turn
	lost      bool      // its claim was lost before anything was done under it
}

// leave gives a queue's place back. When the node shuts down, the queue is left to
// others.
func (e *Engine) leave(id storage.QueueID, n followUp) {
	e.mu.Lock()
	defer e.unlock()
	q := e.queues[id]
	e.running--
	if q.stranger {
		q.stranger = false
		e.strangers.running--
	}
	e.dismiss(q)
	if n.lost && q.lost { // the next claim may be lost as soon as these two
		n.notBefore = time.Now().Add(scanInterval)
	}
	q.lost = n.lost
	wait, again := min(time.Until(n.notBefore), e.Policy.longest()), n.again || q.again
	switch {
	case again && e.stopping():
		delete(e.queues, id)
		e.offers = append(e.offers, id)
	case again && wait > 0 && !q.again:
		e.wait(id, q, wait)
	case again:
		e.enqueue(id, q)
	default:
		delete(e.queues, id)
	}
	e.fill()
	if !e.open && e.running == 0 {
		close(e.idle)
	}
}

// wait puts a queue back into the line after a pause. e.mu is held.
func (e *Engine) wait(id storage.QueueID, q *queue, pause time.Duration) {
	q.state, q.until = waiting, time.Now().Add(pause)
	e.queues[id] = q
	q.timer = time.AfterFunc(pause, func() {
		e.mu.Lock()
		defer e.unlock()
		if q.state == waiting && e.queues[id] == q {
			e.enqueue(id, q)
		}
	})
}

// scanLoop looks for queues that nobody runs.
func (e *Engine) scanLoop(ctx context.Context) {
	var cursor storage.QueueID
	var failures outage.Log
	tick := time.NewTicker(scanInterval)
	defer tick.Stop()
	for {
		var err error
		if cursor, err = e.scan(ctx, cursor); err == nil && e.Ready() != nil {
			close(e.scanned)
		}
		if err != nil && ctx.Err() == nil {
			if n, due := failures.Failed(time.Now()); due {
				e.Logger.Error("can't read from storage which queues have work; retrying every second", "error", err, "since_last_log", n)
			}
		} else if err == nil && failures.Recovered() > 0 {
			e.Logger.Info("storage answers again")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// scan takes in the runnable queues after the cursor, and returns the cursor of the
// next scan: where it stopped because it knows enough, or the beginning.
func (e *Engine) scan(ctx context.Context, cursor storage.QueueID) (storage.QueueID, error) {
	for {
		page, err := e.Storage.Runnable(ctx, cursor, scanPage)
		if err != nil {
			return cursor, err
		}
		if !e.take(page) {
			return cursor, nil
		}
		if len(page) < scanPage {
			return 0, nil
		}
		cursor = page[len(page)-1].Queue
	}
}

// take puts queues that it does not know into the line, and those that it believed to have to
// wait longer than they have: another node has let them go on, and is gone since. It reports
// false when it knows so many that the rest has to wait.
func (e *Engine) take(page []storage.Runnable) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range page {
		if q := e.queues[r.Queue]; q != nil {
			if q.state == waiting && q.until.Sub(r.NotBefore) > scanInterval && time.Until(q.until) > scanInterval {
				q.timer.Stop()
				if pause := time.Until(r.NotBefore); pause > 0 {
					e.wait(r.Queue, q, pause)
				} else {
					e.line(r.Queue, q)
				}
			}
			continue
		}
		if len(e.queues) >= maxKnown {
			return false
		}
		if pause := min(time.Until(r.NotBefore), e.Policy.longest()); pause > 0 {
			e.wait(r.Queue, &queue{}, pause)
		} else {
			e.line(r.Queue, &queue{found: true}) // other nodes scan too: no offer
		}
	}
	return true
}

// purgeLoop removes expired batches, a small step at a time.
func (e *Engine) purgeLoop(ctx context.Context) {
	tick := time.NewTicker(purgeInterval)
	defer tick.Stop()
	for {
		more, err := true, error(nil)
		for n := 0; n < mostPurges && more && err == nil && ctx.Err() == nil; n++ {
			more, err = e.Storage.Purge(ctx, e.Retention)
		}
		if err != nil && ctx.Err() == nil {
			e.Logger.Error("expired batches can't be removed; trying again in a minute", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
