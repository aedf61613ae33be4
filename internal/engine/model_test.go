package engine

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/storagetest"
	"pgregory.net/rapid"
)

// plan is everything that happens in one run of the model. It contains only data, so that rapid can shrink
// a failing plan.
type plan struct {
	events []event
	seed   uint64 // selects storage's faults
	places int    // each node's places for queues; 0: enough
	memory int64  // each node's memory for batches; 0: enough
}

type event struct {
	after   time.Duration
	what    string // one of whats
	node    int    // the host of the event: 0 or 1
	store   string // create
	options batch.Options
	methods []string
	scripts [][]step
	dials   []time.Duration
	target  int // stop, delete, pause, resume: number of the batch; its store's queue may be paused instead
}

// whats are the kinds of events. An uncertain node doesn't know whether it owns its queues. An expired
// node is considered dead. A deaf node loses messages from other nodes.
var whats = []string{
	"create", "create", "create", "create", "create", "create", "stop", "delete", "crash", "restart", "faults", "calm",
	"expire", "expire", "uncertain", "certain", "deaf", "hear", "pause", "pause", "resume", "pause queue", "resume queue",
}

// TestModel runs random plans. It checks the engine's guarantees against the upstream's ledger and a model
// of each batch's result.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := plans.Draw(rt, "plan")
		var problems []string
		synctest.Test(t, func(t *testing.T) { problems = carryOut(t, p) })
		if len(problems) > 0 {
			rt.Fatalf("%s\nplan: %+v", strings.Join(problems, "\n"), p)
		}
	})
}

var plans = rapid.Custom(func(t *rapid.T) plan {
	return plan{
		events: rapid.SliceOfN(events, 1, 12).Draw(t, "events"), seed: rapid.Uint64().Draw(t, "seed"),
		places: rapid.SampledFrom([]int{0, 0, 1}).Draw(t, "places"), memory: rapid.SampledFrom([]int64{0, 0, 2000}).Draw(t, "memory"),
	}
})

var events = rapid.Custom(func(t *rapid.T) event {
	e := event{
		after: time.Duration(rapid.IntRange(0, 8000).Draw(t, "after")) * time.Millisecond,
		what:  rapid.SampledFrom(whats).Draw(t, "what"),
		node:  rapid.IntRange(0, 1).Draw(t, "node"),
	}
	if e.what != "create" {
		e.target = rapid.IntRange(0, 4).Draw(t, "target")
		return e
	}
	e.store = rapid.SampledFrom([]string{"a", "b"}).Draw(t, "store")
	e.options = batch.Options{Parallel: rapid.Bool().Draw(t, "parallel"), StopOnFailure: rapid.Bool().Draw(t, "stop on failure")}
	e.options.Concurrency = rapid.SampledFrom([]int{0, 0, 1, 2}).Draw(t, "concurrency")
	e.options.Retries = rapid.SampledFrom([]*int{nil, nil, new(0), new(1), new(7)}).Draw(t, "retries")
	e.options.Backoff = rapid.SampledFrom([]batch.Backoff{{}, {First: time.Second, Most: 3 * time.Second}}).Draw(t, "pauses")
	e.methods = rapid.SliceOfN(rapid.SampledFrom([]string{"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD"}), 1, 5).Draw(t, "methods")
	for range e.methods {
		e.scripts = append(e.scripts, rapid.SliceOfN(steps, 1, 3).Draw(t, "script"))
		e.dials = append(e.dials, pauses.Draw(t, "dials"))
	}
	return e
})

var steps = rapid.Custom(func(t *rapid.T) step {
	answers := []outbound.Answer{
		answered(200), answered(201), answered(404), answered(410), answered(500), answered(503),
		answered(429, "Retry-After", "5"), answered(429),
		noAnswer(outbound.Doubt, 504), noAnswer(outbound.NotSent, 502), noAnswer(outbound.TooLarge, 502),
	}
	return step{answer: rapid.SampledFrom(answers).Draw(t, "answer"), takes: pauses.Draw(t, "takes")}
})

var pauses = rapid.Map(rapid.SampledFrom([]int{0, 0, 1, 1500, 4000}), func(ms int) time.Duration { return time.Duration(ms) * time.Millisecond })

// span is a period during which something was paused. to is zero until it ends.
type span struct{ from, to time.Time }

// trial is one run of a plan.
type trial struct {
	*world
	hosts   [2]*host
	events  []event // the events that created the batches, by number
	stopped map[int]time.Time
	deleted map[int]time.Time
	paused  map[string][]span // by batch (such as "0") or store (such as "a")
	crashes []time.Time       // the times at which a node crashed or was considered dead
	mu      sync.Mutex
	faulty  bool // storage sometimes fails
	random  *rand.Rand
}

func carryOut(t *testing.T, p plan) []string {
	tr := &trial{world: newWorld(t), stopped: map[int]time.Time{}, deleted: map[int]time.Time{}, paused: map[string][]span{}, random: rand.New(rand.NewPCG(p.seed, 0))}
	tr.options = Options{QueuesAtOnce: p.places, Memory: p.memory}
	tr.hosts = [2]*host{tr.host, {}}
	for _, h := range tr.hosts {
		tr.at(h)
		tr.begin()
	}
	for _, e := range p.events {
		tr.pass(e.after)
		tr.at(tr.hosts[e.node])
		tr.happen(e)
	}
	tr.setFaulty(false)
	tr.db.DropHints(false)
	for _, h := range tr.hosts {
		h.node.SetCertain(true)
	}
	for i := range tr.batches {
		tr.steer(fmt.Sprint(i), false)
	}
	tr.steer("a", false)
	tr.steer("b", false)
	problems := tr.untilEnd()
	for _, h := range tr.hosts {
		tr.at(h)
		tr.shutdown()
	}
	return append(problems, tr.check()...)
}

// begin starts an engine on a node with storage that may fail.
func (tr *trial) begin() {
	tr.start()
	tr.node.SetFault(func(string) storagetest.Fault {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		if !tr.faulty || tr.random.IntN(3) > 0 {
			return storagetest.None
		}
		return []storagetest.Fault{storagetest.FailedNotStored, storagetest.FailedButStored}[tr.random.IntN(2)]
	})
}

func (tr *trial) setFaulty(on bool) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	tr.faulty = on
}

func (tr *trial) happen(e event) {
	switch e.what {
	case "create":
		for i, s := range e.scripts {
			tr.up.script(len(tr.batches), i, s...)
			tr.up.dial(len(tr.batches), i, e.dials[i])
		}
		tr.events = append(tr.events, e)
		tr.create(e.store, e.options, e.methods...)
	case "stop", "delete":
		if e.target < len(tr.batches) {
			tr.end(e.what, e.target)
		}
	case "pause", "resume":
		if e.target < len(tr.batches) {
			tr.steer(fmt.Sprint(e.target), e.what == "pause")
		}
	case "pause queue", "resume queue":
		tr.steer([]string{"a", "b"}[e.target%2], e.what == "pause queue")
	case "crash":
		tr.crash()
		tr.crashes = append(tr.crashes, time.Now())
		tr.pass(e.after)
		tr.begin()
	case "restart":
		tr.shutdown()
		tr.begin()
	case "faults":
		tr.setFaulty(true)
	case "calm":
		tr.setFaulty(false)
	case "expire":
		tr.expire()
		tr.crashes = append(tr.crashes, time.Now())
	case "uncertain", "certain":
		tr.node.SetCertain(e.what == "certain")
	case "deaf", "hear":
		tr.db.DropHints(e.what == "deaf")
	}
}

// steer pauses or resumes a batch, by its number, or a store's queue.
func (tr *trial) steer(what string, paused bool) {
	p := storage.PauseRequest{Queue: what, Paused: paused}
	if i, err := strconv.Atoi(what); err == nil {
		p = storage.PauseRequest{Key: tr.batches[i].key, Paused: paused}
	}
	spans := tr.paused[what]
	if n := len(spans); !paused && n > 0 && spans[n-1].to.IsZero() {
		spans[n-1].to = time.Now()
	}
	s := insist(tr.world, func() (storage.StopResult, error) {
		s, err := tr.node.Pause(context.Background(), p)
		if errors.Is(err, storage.ErrNotFound) {
			err = nil // the batch was deleted
		}
		return s, err
	})
	for _, q := range s.Queues {
		tr.engine.Notify(q)
	}
	if n := len(spans); paused && (n == 0 || !spans[n-1].to.IsZero()) {
		tr.paused[what] = append(spans, span{from: time.Now()})
	}
}

// wasPaused reports whether a batch or its store was paused at the given time.
func (tr *trial) wasPaused(i int, store string, at time.Time) bool {
	in := func(s span) bool { return at.After(s.from) && (s.to.IsZero() || at.Before(s.to)) }
	return slices.ContainsFunc(tr.paused[fmt.Sprint(i)], in) || slices.ContainsFunc(tr.paused[store], in)
}

// end stops or deletes a batch. If storage stores the change but then fails, no node is notified. The run
// still sees the change with its next record.
func (tr *trial) end(what string, i int) {
	m := tr.batches[i]
	moments := tr.stopped
	if what == "stop" {
		tr.stopBatch(m)
	} else {
		moments = tr.deleted
		insist(tr.world, func() (any, error) {
			q, err := tr.node.Delete(context.Background(), m.key)
			tr.engine.Notify(q)
			if errors.Is(err, storage.ErrNotFound) {
				err = nil
			}
			return nil, err
		})
	}
	if moments[i].IsZero() {
		moments[i] = time.Now()
	}
}

// untilEnd waits for the end of every batch. A request that is always throttled takes 20 minutes.
func (tr *trial) untilEnd() []string {
	deadline := time.Now().Add(24 * time.Hour)
	for i := range tr.batches {
		for tr.deleted[i].IsZero() && tr.status(tr.batches[i]).Status != batch.Completed {
			if time.Now().After(deadline) {
				return []string{fmt.Sprintf("batch %d has not ended after a day: %s", i, tr.outcome(tr.batches[i]))}
			}
			tr.pass(10 * time.Second)
		}
	}
	tr.pass(10 * time.Second) // until the requests in flight of deleted batches have ended
	return nil
}

// check checks all guarantees.
func (tr *trial) check() (problems []string) {
	say := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	tr.checkOrder(say)
	for i, m := range tr.batches {
		sent := make([][]*attempt, len(m.reqs))
		for _, e := range tr.up.ledger {
			if e.batch == i {
				sent[e.index] = append(sent[e.index], e)
			}
		}
		for j := range m.reqs {
			tr.checkAttempts(say, i, j, sent[j])
		}
		if !tr.deleted[i].IsZero() {
			continue
		}
		results := make([]*batch.Result, len(m.reqs))
		for _, r := range tr.status(m).Results {
			results[r.Index] = &r.Result
		}
		for j, r := range results {
			if len(tr.crashes) > 0 && m.reqs[j].Safe() && (r == nil || slices.ContainsFunc(sent[j], func(e *attempt) bool { return e.answer.Code == r.Code })) {
				continue // a read records no intent, so after a crash the recorded attempts may be too few
			}
			checkResult(say, fmt.Sprintf("request %d/%d", i, j), r, sent[j])
		}
		if len(tr.crashes) == 0 && tr.stopped[i].IsZero() && m.options.Width() == 1 {
			if got, want := tr.outcome(m), model(tr.events[i], tr.policy); got != want {
				say("batch %d came to %q, the model says %q", i, got, want)
			}
		}
	}
	return problems
}

type sayer func(format string, args ...any)

// checkOrder checks the order in which the upstream received the attempts of a store.
func (tr *trial) checkOrder(say sayer) {
	last := map[string]*attempt{}
	unsafe := map[[2]int]int{} // by batch: the last request that changes something
	for _, e := range tr.up.ledger {
		m := tr.batches[e.batch]
		if l := last[e.store]; l != nil && l.batch > e.batch {
			say("store %s: batch %d sent after batch %d", e.store, e.batch, l.batch)
		}
		last[e.store] = e
		if m.options.Width() > 1 {
			continue
		}
		k := [2]int{e.batch}
		if e.index < unsafe[k] {
			say("request %d/%d sent after the later request %d, which changes something", e.batch, e.index, unsafe[k])
		}
		if !m.reqs[e.index].Safe() {
			unsafe[k] = max(unsafe[k], e.index)
		}
		for _, other := range tr.up.ledger {
			if other.batch == e.batch && other.index > e.index && !m.reqs[e.index].Safe() && other.at.Before(e.at) {
				say("request %d/%d, which changes something, sent after request %d", e.batch, e.index, other.index)
			}
		}
	}
}

// checkAttempts checks all attempts of one request.
func (tr *trial) checkAttempts(say sayer, i, j int, sent []*attempt) {
	m := tr.batches[i]
	name := fmt.Sprintf("request %d/%d (%s)", i, j, m.reqs[j].Method)
	policy := tr.policy.of(&m.options)
	failures := 0
	for n, e := range sent {
		if e.key != sent[0].key {
			say("%s: the Idempotency-Key changed", name)
		}
		if end := tr.stopped[i]; !end.IsZero() && e.began.After(end) && !m.reqs[j].Safe() {
			say("%s: begun %v after its batch was stopped", name, e.began.Sub(end))
		}
		if end := tr.deleted[i]; !end.IsZero() && e.began.After(end) && !m.reqs[j].Safe() {
			say("%s: begun %v after its batch was deleted", name, e.began.Sub(end))
		}
		if !m.reqs[j].Safe() && tr.wasPaused(i, e.store, e.began) {
			say("%s: begun while it was paused", name)
		}
		if n == 0 {
			continue
		}
		before := sent[n-1]
		if why := final(m, j, before, policy.RetryLimit); why != "" {
			say("%s: sent again after %s", name, why)
		}
		pause := e.at.Sub(before.end)
		switch {
		case before.end.IsZero(): // cut off
		case slices.ContainsFunc(tr.crashes, func(c time.Time) bool { return !c.Before(before.at) && !c.After(e.at) }):
			// The answer may have been lost before it was recorded, or it came too late.
		case before.answer.Code == http.StatusTooManyRequests:
			if least := time.Second; pause < least || before.answer.Header.Get("Retry-After") == "5" && pause < 5*time.Second {
				say("%s: sent again %v after a 429", name, pause)
			}
		default:
			failures++
			if pause < policy.pause(1) {
				say("%s: retried after %v", name, pause)
			}
		}
	}
	if failures > policy.RetryLimit+len(tr.crashes) {
		say("%s: %d retries", name, failures)
	}
}

// final returns why a request must not be sent again after an attempt; "": it may be sent again.
func final(m *testBatch, j int, e *attempt, limit int) string {
	repeatable := m.reqs[j].Repeatable()
	switch {
	case e.answer.Outcome == outbound.NotSent:
		return ""
	case e.end.IsZero() && repeatable:
		return ""
	case e.end.IsZero():
		return "an attempt that was cut off"
	case repeatable:
		return "" // its answer may have been lost in a crash
	case e.answer.Outcome == outbound.Doubt:
		return "an attempt in doubt"
	case e.answer.Outcome == outbound.TooLarge:
		return "an answer that was too large"
	case e.answer.Code == http.StatusTooManyRequests:
		return ""
	case e.answer.Code >= 500 && limit > 0:
		return ""
	}
	return fmt.Sprintf("an answer %d", e.answer.Code)
}

// checkResult compares a request's recorded result with what the upstream received.
func checkResult(say sayer, name string, r *batch.Result, sent []*attempt) {
	switch {
	case r == nil && len(sent) > 0 && sent[len(sent)-1].answer.Outcome != outbound.NotSent:
		say("%s: not executed, but sent %d times", name, len(sent))
	case r == nil:
	case r.Line == batch.OutcomeUnknown.Line:
		// The last attempt was cut off, its answer was lost with its node, or its request had not
		// left yet.
	case len(sent) == 0:
		say("%s: ended with %d, but was never sent", name, r.Code)
	case sent[len(sent)-1].answer.Code != r.Code:
		say("%s: ended with %d, but its last answer was %d", name, r.Code, sent[len(sent)-1].answer.Code)
	}
}

// model returns the result of a batch that runs in order without disturbances.
func model(e event, p Policy) string {
	var words []string
	stopped := false
	for i, method := range e.methods {
		if stopped {
			words = append(words, "-")
			continue
		}
		code, ok := modelRequest(method, e.scripts[i], p.of(&e.options).RetryLimit)
		words = append(words, fmt.Sprint(code))
		if !ok {
			words[i] += "!"
			stopped = e.options.StopOnFailure
		}
	}
	return strings.Join(words, " ")
}

// modelRequest returns the last answer to a request, and whether it is a success. If a script ends with 429,
// the upstream repeats that answer until the throttle limit.
func modelRequest(method string, script []step, limit int) (code int, ok bool) {
	repeatable := method != "POST" && method != "PATCH"
	retries, maybeDone := 0, false
	for n := 0; ; n++ {
		a := script[min(n, len(script)-1)].answer
		again := false
		switch {
		case a.Outcome == outbound.Answered && a.Code == 429:
			if n < len(script)-1 {
				continue
			}
			return 429, false
		case a.Outcome == outbound.Answered && a.Code < 300:
			return a.Code, true
		case a.Outcome == outbound.Answered && a.Code < 500:
			return a.Code, method == "DELETE" && maybeDone
		case a.Outcome == outbound.Answered:
			again, maybeDone = true, true
		case a.Outcome == outbound.NotSent:
			again = true
		case a.Outcome == outbound.Doubt:
			again, maybeDone = repeatable, true
		}
		if !again || retries == limit {
			return a.Code, false
		}
		retries++
	}
}
