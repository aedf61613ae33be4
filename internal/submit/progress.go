package submit

import (
	"sync"
	"time"
)

// Progress is how far a submission is. It may be read from any goroutine.
type Progress struct {
	mu       sync.Mutex
	requests int
	batches  int
	before   int // requests whose results were written when the run began
	counts   Counts
	current  int // of the batch that is waited for
	sent     int // batches that this run has handed over
	problem  string
	until    time.Time
	waits    time.Time // the service does not send anything before
}

// Snapshot is the progress at one moment.
type Snapshot struct {
	Requests int // of the whole file
	Done     int // that have ended
	Before   int // of Done: before this run
	Failed   int // of Done: failed, not executed or unknown, as far as results are there
	InDoubt  int // of Failed
	Sent     int // batches that this run has handed over
	Batches  int

	Problem string    // why nothing moves; empty: it does
	Until   time.Time // when that is tried again
	Waits   time.Time // until when the service waits itself, for the API behind it, as far as it tells; zero: it does not
}

// Snapshot returns the progress.
func (p *Progress) Snapshot() Snapshot {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Snapshot{
		Requests: p.requests, Done: min(p.counts.Total()+p.current, p.requests), Before: p.before,
		Failed: p.counts.Total() - p.counts.Completed, InDoubt: p.counts.InDoubt, Sent: p.sent, Batches: p.batches,
		Problem: p.problem, Until: p.until, Waits: p.waits,
	}
}

func (p *Progress) counted(c *Counts) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts, p.current, p.problem, p.waits = *c, 0, "", time.Time{}
}

func (p *Progress) running(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current, p.problem, p.waits = n, "", time.Time{}
}

// held tells until when the service waits itself; zero: it does not.
func (p *Progress) held(until time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waits = until
}

func (p *Progress) handed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent++
	p.problem = ""
}

// retries tells of a failure after which a call is made again.
func (p *Progress) retries(err error, pause time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.problem, p.until = err.Error(), time.Now().Add(pause)
}
