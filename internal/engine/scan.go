package engine

import (
	"context"
	"time"

	"github.com/sheafapi/sheaf/internal/outage"
	"github.com/sheafapi/sheaf/internal/storage"
)

const (
	// scanInterval is the time between two scans for queues that no node runs, for example because
	// their node died or a wake-up was lost.
	scanInterval = time.Second
	scanPage     = 1000
	// behindOthers is how much later than its time this node runs a queue that another node has
	// released until then. So the other node goes first, because it holds the queue's slot for the
	// credential or a route, and there is a scan in between.
	behindOthers = scanInterval + 250*time.Millisecond
)

// scanLoop looks for queues that no node runs.
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
				e.Logger.Error("could not read from storage which queues have work; retrying every second", "error", err, "since_last_log", n)
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

// scan reads the runnable queues after the cursor. It returns the cursor for the next scan. This is 0
// unless the scan stopped early, because it failed or because the engine knows maxKnown queues.
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

// take puts unknown queues into a line. It also shortens the wait of a queue that storage now says may
// run earlier, which happens if another node changed the wait and then died. It extends the wait of a
// queue that another node has run since then. It returns false if the engine knows maxKnown queues.
func (e *Engine) take(page []storage.Runnable) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	behind := time.Duration(0)
	if e.Ready() == nil { // before that, the waits may be those of an earlier process of this node
		behind = behindOthers
	}
	for _, r := range page {
		if q := e.queues[r.Queue]; q != nil {
			sooner := q.until.Sub(r.NotBefore) > scanInterval+behindOthers && time.Until(q.until) > scanInterval
			later := q.found && r.NotBefore.Sub(q.stored) > behindOthers/10
			if q.state == waiting && (sooner || later) {
				if q.found {
					q.stored, r.NotBefore = r.NotBefore, r.NotBefore.Add(behind)
				}
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
		pause := min(time.Until(r.NotBefore), e.Policy.longest())
		switch {
		case r.Waits == storage.ForUpstream && e.park(r.Queue, &queue{}):
		case r.Waits != storage.ForUpstream && pause > 0:
			e.wait(r.Queue, &queue{found: true, stored: r.NotBefore}, pause+behind)
		default:
			e.line(r.Queue, &queue{found: true}) // without an offer, because other nodes scan too
		}
	}
	return true
}
