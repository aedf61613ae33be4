package engine

import (
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// overdue is how late an attempt may be before its delay no longer counts toward ThrottleLimit.
const overdue = time.Minute

// restore applies what earlier runs of the batch have recorded.
func (r *run) restore() {
	for _, m := range r.c.Marks {
		if m.State == storage.Done {
			r.apply(m)
		}
	}
	now := time.Now()
	for _, m := range r.c.Marks {
		switch m.State {
		case storage.Begun:
			m = r.e.Policy.recovered(&r.c.Requests[m.Index], m, r.phase == halted, now)
			if m.State == storage.Done {
				r.e.Observer.Ended(r.c.Store, m.Result.Status, m.InDoubt())
			}
			r.note(m, nil)
			r.apply(m)
		case storage.Waiting:
			if r.correct(&m, now) {
				r.note(asStored(m), nil)
			}
			r.apply(m)
		case storage.Done:
		}
	}
}

// correct adjusts the times of a mark if a clock was wrong or the service was down. It reports
// whether it changed any.
func (r *run) correct(m *storage.Mark, now time.Time) (changed bool) {
	t := &m.Tries
	if ahead := t.EndedAt.Sub(now); ahead > 0 { // the clock was ahead when the mark was made
		t.EndedAt, m.NotBefore, changed = now, m.NotBefore.Add(-ahead), true
		if !t.ThrottledSince.IsZero() {
			t.ThrottledSince = t.ThrottledSince.Add(-ahead)
		}
	}
	if latest := now.Add(r.e.Policy.longest()); m.NotBefore.After(latest) {
		m.NotBefore, changed = latest, true
	}
	// The attempt may be late because the service was down or its clock was set forward. That delay
	// doesn't count toward ThrottleLimit.
	if late := now.Sub(m.NotBefore); late > overdue && !t.ThrottledSince.IsZero() && !m.NotBefore.IsZero() {
		t.ThrottledSince, m.NotBefore, changed = t.ThrottledSince.Add(late), now, true
	}
	if t.ThrottledSince.After(now) {
		t.ThrottledSince, changed = now, true
	}
	return changed
}

// apply updates the run for a mark that has been recorded or is about to be.
func (r *run) apply(m storage.Mark) {
	q := &r.requests[m.Index]
	q.state, q.tries, q.notBefore, q.last = m.State, m.Tries, time.Time{}, batch.Result{}
	switch m.State {
	case storage.Waiting:
		// Use the monotonic clock, so that a change of the wall clock doesn't change the wait.
		if now := time.Now(); m.NotBefore.After(now) {
			q.notBefore = now.Add(m.NotBefore.Sub(now))
		}
		q.last = m.Unread().Result
		r.waits = append(r.waits, m.Index)
	case storage.Done:
		q.end, q.outgoing = m.Result.Status, nil
		r.graph.end(m.Index, m.Result.Status)
		r.tally.ended++
		if m.Result.Status == batch.Failed {
			r.tally.failed++
			if m.InDoubt() {
				r.tally.inDoubt++
			}
			if r.c.Options.StopOnFailure {
				r.enter(halted)
			}
		}
	case storage.Begun:
	}
}
