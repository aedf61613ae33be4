package submit

import (
	"sync"
	"time"

	"github.com/sheafapi/sheaf/client"
)

// Progress is the progress of a submission. It is safe for concurrent use.
type Progress struct {
	mu       sync.Mutex
	requests int
	batches  int
	before   int // requests whose results were written when the run began
	counts   Counts
	current  int // completed requests of the batch that the run waits for
	sent     int // batches that this run has created
	problem  string
	until    time.Time
	wait     Wait
}

// Snapshot is the progress at one moment.
type Snapshot struct {
	Requests int // requests of the whole file
	Done     int // requests that have ended
	Before   int // the part of Done that ended before this run
	Failed   int // the part of Done that failed, was not executed or is unknown; counted once the results are written
	InDoubt  int // the part of Failed that is in doubt
	Sent     int // batches that this run has created
	Batches  int

	Problem string    // why there is no progress; "": there is progress
	Until   time.Time // when the failed call is retried
	Wait    Wait
}

// Wait says why the service sends nothing. The zero value means that it doesn't wait.
type Wait struct {
	Until time.Time         // when it continues, because the upstream asked for a pause or a retry is due
	For   client.WaitReason // what it waits for without a set time
	Since time.Time         // when it began to wait for that
}

// Snapshot returns the current progress.
func (p *Progress) Snapshot() Snapshot {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Snapshot{
		Requests: p.requests, Done: min(p.counts.Total()+p.current, p.requests), Before: p.before,
		Failed: p.counts.Total() - p.counts.Completed, InDoubt: p.counts.InDoubt, Sent: p.sent, Batches: p.batches,
		Problem: p.problem, Until: p.until, Wait: p.wait,
	}
}

// counted sets the counts after a batch's results have been written.
func (p *Progress) counted(c *Counts) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.counts, p.current, p.problem, p.wait = *c, 0, "", Wait{}
}

// running sets the number of completed requests of the current batch.
func (p *Progress) running(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current, p.problem, p.wait = n, "", Wait{}
}

// waiting records why the service sends nothing.
func (p *Progress) waiting(w Wait) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wait = w
}

// created counts a batch that was created.
func (p *Progress) created() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent++
	p.problem = ""
}

// retries records the failure of a call that will be retried.
func (p *Progress) retries(err error, pause time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.problem, p.until = err.Error(), time.Now().Add(pause)
}
