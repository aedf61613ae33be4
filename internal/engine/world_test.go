package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/governor"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/storagetest"
	"golang.org/x/sync/semaphore"
)

// step is how the scripted upstream handles one attempt.
type step struct {
	answer outbound.Answer
	takes  time.Duration
}

// attempt is one attempt that the upstream has received. It is also in the ledger if its outcome was
// NotSent.
type attempt struct {
	node   *storagetest.Node
	store  string
	batch  int // the batch's number in its test
	index  int
	method string
	key    string
	began  time.Time // when its connection was requested
	at     time.Time
	end    time.Time // zero: the sender died before the answer came
	answer outbound.Answer
}

// upstream answers by script and keeps a ledger. The path of a request is "BATCH/INDEX". At its end, a script
// repeats its last step.
type upstream struct {
	db       *storagetest.Memory
	mu       sync.Mutex
	scripts  map[string][]step
	dials    map[string]time.Duration // how long until a connection is ready
	calls    map[string]int
	ledger   []*attempt
	down     *outbound.Answer // what all attempts get during an outage; nil: there is none
	withheld int              // attempts that weren't permitted
	foreign  []string         // requests sent by a node that didn't own the queue
}

func newUpstream(db *storagetest.Memory) *upstream {
	return &upstream{db: db, scripts: map[string][]step{}, dials: map[string]time.Duration{}, calls: map[string]int{}}
}

// from is the upstream for one node.
type from struct {
	*upstream
	node *storagetest.Node
}

func (u *upstream) script(batch, index int, steps ...step) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.scripts[fmt.Sprintf("%d/%d", batch, index)] = steps
}

// fail makes all attempts get an answer that says "unavailable"; nil ends the outage.
func (u *upstream) fail(a *outbound.Answer) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.down = a
}

// Reach fails while the upstream refuses connections.
func (u *upstream) Reach(context.Context) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.down != nil && u.down.Outcome == outbound.NotSent {
		return errors.New("refused")
	}
	return nil
}

// reachable is an upstream that accepts connections.
type reachable struct{}

func (reachable) Reach(context.Context) error { return nil }

// dial sets how long attempts at a request wait for a connection.
func (u *upstream) dial(batch, index int, takes time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.dials[fmt.Sprintf("%d/%d", batch, index)] = takes
}

func (u *from) Do(ctx context.Context, c *outbound.Call) outbound.Answer {
	began := time.Now()
	u.mu.Lock()
	dials := u.dials[c.Path]
	u.mu.Unlock()
	if dials > 0 {
		select {
		case <-time.After(dials):
		case <-ctx.Done():
			return outbound.Answer{Outcome: outbound.NotSent, Code: 502, Line: "interrupted"}
		}
	}
	u.mu.Lock()
	if !c.Permit() {
		defer u.mu.Unlock()
		u.withheld++
		return outbound.Answer{Outcome: outbound.Withheld, Code: 502}
	}
	shared := c.Token == "everybody's"                                             // see sharing
	if !shared && u.db.Owner(strings.TrimPrefix(c.Token, "token of ")) != u.node { // the token contains the name of the queue

		u.foreign = append(u.foreign, c.Path)
	}
	steps := u.scripts[c.Path]
	if steps == nil {
		steps = []step{{answer: answered(200)}}
	}
	s := steps[min(u.calls[c.Path], len(steps)-1)]
	u.calls[c.Path]++
	e := &attempt{node: u.node, store: c.Store, method: c.Method, key: c.Key, began: began, at: time.Now()}
	if _, err := fmt.Sscanf(c.Path, "%d/%d", &e.batch, &e.index); err != nil {
		panic(err)
	}
	if store, _, _ := strings.Cut(c.Token, "/"); !shared && store != "token of "+c.Store {
		panic("wrong credential: " + c.Token)
	}
	u.ledger = append(u.ledger, e)
	if u.down != nil {
		s = step{answer: *u.down}
	}
	u.mu.Unlock()

	a := s.answer
	if s.takes > 0 {
		select {
		case <-time.After(s.takes):
		case <-ctx.Done():
			a = outbound.Answer{Outcome: outbound.Doubt, Code: 502, Line: "interrupted"}
			if s.answer.Outcome == outbound.NotSent {
				a.Outcome = outbound.NotSent
			}
		}
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if ctx.Err() == nil {
		e.end = time.Now()
	}
	e.answer = a
	return a
}

// world is an upstream, a database, and several hosts. Its methods act on the current host.
type world struct {
	t  testing.TB
	up *upstream
	db *storagetest.Memory
	*host
	policy  Policy
	rate    governor.Rate
	limits  []governor.RouteLimit
	options Options               // options that differ from the defaults of start
	wrap    func(Storage) Storage // wraps each node's storage; nil: not wrapped
	batches []*testBatch
}

// host runs one engine at a time, each on a new node.
type host struct {
	node    *storagetest.Node
	left    *storagetest.Node // a node that was shut down; tests still read from it
	engine  *Engine
	stop    context.CancelFunc
	ended   chan struct{}
	zombies []chan struct{} // for each engine that crashed: closed when it has ended
}

// at makes another host the current one, and returns the previous one.
func (w *world) at(h *host) *host {
	before := w.host
	w.host = h
	return before
}

// testBatch is a batch that a test created.
type testBatch struct {
	key     storage.Key
	queue   storage.QueueID
	options batch.Options
	reqs    []batch.Request
	at      time.Time
}

func newWorld(t testing.TB) *world {
	db := storagetest.NewMemory()
	return &world{t: t, up: newUpstream(db), db: db, host: &host{}, policy: Policy{
		RetryLimit: 5, RetryInterval: 3 * time.Second, ThrottleLimit: 20 * time.Minute,
	}}
}

// start starts an engine on a new node.
func (w *world) start() {
	if w.left != nil {
		if err := w.left.Close(); err != nil {
			w.t.Error(err)
		}
	}
	w.node, w.left = w.db.Node(), nil
	o := w.options
	o.Storage, o.Policy = w.node, w.policy
	if o.Upstream == nil {
		o.Upstream = &from{w.up, w.node}
	}
	if w.wrap != nil {
		o.Storage = w.wrap(w.node)
	}
	if o.Unseal == nil {
		o.Unseal = func(c *storage.Claim) (string, error) { return string(c.Credential), nil }
	}
	o.Logger = slog.New(slog.DiscardHandler)
	if o.QueuesAtOnce == 0 {
		o.QueuesAtOnce = 100
	}
	if o.MaxOutbound == 0 {
		o.MaxOutbound = 1000
	}
	o.Governor = governor.New(w.node, w.rate, w.limits, o.MaxOutbound, w.policy.OutageLimit, w.policy.CredentialLimit, o.Logger)
	if o.Memory == 0 {
		o.Memory, o.LargestBatch = 4<<20, 1<<20
	} else if o.LargestBatch == 0 {
		o.LargestBatch = o.Memory
	}
	if o.Answers == 0 {
		o.Answers, o.LargestAnswer = 64<<20, 1<<20
	}
	if o.ShutdownTimeout == 0 {
		o.ShutdownTimeout = 30 * time.Second
	}
	w.engine = New(o)
	var ctx context.Context
	ctx, w.stop = context.WithCancel(context.Background())
	w.ended = make(chan struct{})
	go func(e *Engine, ended chan struct{}) {
		if err := e.Run(ctx); err != nil {
			w.t.Error(err)
		}
		close(ended)
	}(w.engine, w.ended)
	synctest.Wait()
}

// shutdown stops the engine gracefully.
func (w *world) shutdown() {
	w.stop()
	<-w.ended
	for _, z := range w.zombies {
		<-z
	}
	w.zombies, w.left = nil, w.node
	w.engine.checkPlaces(w.t)
	w.up.mu.Lock()
	defer w.up.mu.Unlock()
	for _, path := range w.up.foreign {
		w.t.Errorf("request %s was sent by a node that did not own the queue", path)
	}
}

// checkPlaces fails if an engine that has ended still holds a place or memory.
func (e *Engine) checkPlaces(t testing.TB) {
	for what, of := range map[string]struct {
		places *semaphore.Weighted
		all    int64
	}{
		"outbound": {e.outbound, int64(e.MaxOutbound)},
	} {
		if !of.places.TryAcquire(of.all) {
			t.Errorf("the engine has ended without returning all of %s", what)
			continue
		}
		of.places.Release(of.all)
	}
	if u := e.batches.Usage(); u.Held > 0 || u.Waiting > 0 {
		t.Errorf("the engine has ended with %+v of the batches' memory", u)
	}
	if u := e.answers.Usage(); u.Held > 0 || u.Waiting > 0 {
		t.Errorf("the engine has ended with %+v of the answers' memory", u)
	}
	if x := e.extras; x.free != x.all || x.shares+len(x.stores)+len(x.poor) > 0 {
		t.Errorf("the engine has ended with %d of %d extra places, %d shares of %d stores and %d that wait", x.free, x.all, x.shares, len(x.stores), len(x.poor))
	}
	for _, c := range e.Governor.Leftovers() {
		t.Errorf("the engine has ended, and a credential is left with %s", c)
	}
}

// crash kills the node. Nothing that it does is stored from now on, and its attempts in flight are cut
// off.
func (w *world) crash() {
	w.up.mu.Lock() // so that no attempt has been permitted but not sent
	w.db.Kill(w.node)
	w.up.mu.Unlock()
	w.engine.abortNow()
	w.stop()
	w.zombies = append(w.zombies, w.ended)
}

// expire makes the database consider the node dead, although the node is alive.
func (w *world) expire() {
	w.up.mu.Lock()
	defer w.up.mu.Unlock()
	w.db.Expire(w.node)
}

// pass lets time pass in the bubble.
func (w *world) pass(d time.Duration) { time.Sleep(d) }

// create stores a batch whose requests have the given methods.
func (w *world) create(store string, o batch.Options, methods ...string) *testBatch {
	return w.createAs(store, store, o, methods...)
}

// createAs is create with one of several tokens of a store, which begin with its name and a
// slash. Each has its own queue.
func (w *world) createAs(store, token string, o batch.Options, methods ...string) *testBatch {
	m := &testBatch{options: o, at: time.Now(), key: storage.Key{Store: store, Ticket: uuid.New(), Owner: batch.OwnerOf(token)}}
	for i, method := range methods {
		m.reqs = append(m.reqs, batch.Request{Method: method, Path: fmt.Sprintf("%d/%d", len(w.batches), i)})
	}
	c := insist(w, func() (storage.CreateResult, error) {
		return w.node.Create(context.Background(), &storage.NewBatch{
			Ticket: m.key.Ticket, Store: store, Owner: m.key.Owner, Queue: token, Options: o,
			Requests: m.reqs, Credential: []byte("token of " + token),
		})
	})
	m.queue = c.Queue
	w.batches = append(w.batches, m)
	w.engine.Introduce(c.Queue, store, m.key.Owner)
	w.engine.Wake(c.Queue)
	return m
}

func (w *world) status(m *testBatch) *storage.Status {
	return insist(w, func() (*storage.Status, error) { return w.node.Status(context.Background(), m.key, 1<<30) })
}

// insist repeats a storage call until no fault is injected.
func insist[T any](w *world, call func() (T, error)) T {
	for {
		v, err := call()
		if errors.Is(err, storagetest.ErrInjected) {
			continue
		}
		if err != nil {
			w.t.Error(err)
		}
		return v
	}
}

// outcome returns a batch's results as text. "200 404! -" is a success, a failure and a request that was not
// executed. If the batch has not ended, its state comes first.
func (w *world) outcome(m *testBatch) string {
	s := w.status(m)
	words := make([]string, s.Total)
	for i := range words {
		words[i] = "-"
	}
	for _, r := range s.Results {
		words[r.Index] = fmt.Sprint(r.Code)
		switch r.Status {
		case batch.Failed:
			words[r.Index] += "!"
		case batch.NotExecuted:
			words[r.Index] = "-"
		case batch.Succeeded:
		}
	}
	out := strings.Join(words, " ")
	if s.Status != batch.Completed {
		out = s.Status.String() + " " + out
	}
	return out
}

func (w *world) stopBatch(m *testBatch) int {
	s := insist(w, func() (storage.StopResult, error) {
		return w.node.Stop(context.Background(), storage.Selection{Store: m.key.Store, Owner: m.key.Owner, Ticket: m.key.Ticket})
	})
	for _, q := range s.Queues {
		w.engine.Notify(q)
	}
	return s.Count
}

// sent returns the ledger as text. "0/1 0/2" are attempts at requests 1 and 2 of batch 0.
func (w *world) sent() string {
	w.up.mu.Lock()
	defer w.up.mu.Unlock()
	var out []string
	for _, e := range w.up.ledger {
		out = append(out, fmt.Sprintf("%d/%d", e.batch, e.index))
	}
	return strings.Join(out, " ")
}

// sentOf returns the ledger of one batch as text.
func (w *world) sentOf(batch string) string {
	words := strings.Fields(w.sent())
	return strings.Join(slices.DeleteFunc(words, func(s string) bool { return !strings.HasPrefix(s, batch+"/") }), " ")
}

// abortNow cuts off the attempts in flight, as if the process had died.
func (e *Engine) abortNow() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.abort()
}
