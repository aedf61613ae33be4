package submit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/sheafapi/sheaf/client"
)

// sender hands batches over, one after the other.
type sender struct {
	*Run
	once    *client.Client // repeats nothing
	patient *client.Client
}

// certain is how long after the first attempt a batch may be handed over again: servers
// know its deduplication key for an hour.
const certain = 50 * time.Minute

// clockError is how far a clock may be corrected without meaning anything.
const clockError = time.Minute

// send hands over what was not, in order, and tells of each batch that was. It waits for a
// free place before each.
func (s *sender) send(ctx context.Context, free <-chan struct{}, handed chan<- int) error {
	in, err := s.input.reader(s.journal.Chunks)
	if err != nil {
		return err
	}
	defer in.Close()
	for range s.journal.done {
		if _, err := in.next(); err != nil {
			return err
		}
	}
	for {
		p, err := in.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case <-free:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := s.handOver(ctx, p); err != nil {
			return err
		}
		handed <- p.index
	}
}

// handOver hands one batch over, if it was not.
func (s *sender) handOver(ctx context.Context, p *part) error {
	known := s.journal.state(p.index)
	switch {
	case known.ticket != "", known.unsent, known.givenUp:
		return nil
	case !known.sending.IsZero() && !recent(known.sending):
		return s.settle(ctx, p, known.sending)
	case s.stopped.Load() && known.sending.IsZero():
		return s.journal.write(step{Chunk: p.index, Unsent: true})
	}
	began := known.sending // of the first attempt whose outcome is unknown
	uncertain := !began.IsZero()
	for n := 0; ; n++ {
		if began.IsZero() {
			began = time.Now()
			if err := s.journal.write(step{Chunk: p.index, Sending: true}); err != nil {
				return err
			}
		}
		ticket, err := s.once.CreateJSON(ctx, p.body(), client.CreateOptions{
			Parallel: s.journal.Parallel, ContinueOnFailure: !s.journal.StopOnFailure,
			GroupID: s.journal.GroupID, DeduplicationKey: s.journal.key(p.index),
		})
		if err == nil {
			s.Progress.handed()
			return s.journal.write(step{Chunk: p.index, Ticket: ticket})
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		pause, again, refused := judge(err, n)
		uncertain = uncertain || !refused
		if !uncertain { // it was not taken, for certain
			if err := s.journal.write(step{Chunk: p.index, Refused: true}); err != nil {
				return err
			}
			began = time.Time{}
		}
		if !again || uncertain && !recent(began.Add(-pause)) {
			return fmt.Errorf("hand over batch %d of %d (lines %d to %d): %w", p.index+1, s.batches, p.lines[0], p.lines[len(p.lines)-1], err)
		}
		s.Progress.retries(err, pause)
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// recent reports whether the service certainly still knows the key of a batch that was sent
// then. A moment in the future is of a clock that was ahead, so it says nothing.
func recent(sent time.Time) bool {
	age := time.Since(sent)
	return age >= -clockError && age <= certain
}

// judge says how long to wait after the n-th failure, whether to try again, and whether it
// means that the batch was not taken.
func judge(err error, n int) (pause time.Duration, again, refused bool) {
	pause = min(250*time.Millisecond<<min(n, 10), 15*time.Second)
	e, answered := errors.AsType[*client.Error](err)
	if !answered {
		return pause, true, false
	}
	pause = max(pause, e.RetryAfter)
	switch {
	case e.StatusCode == http.StatusTooManyRequests:
		return pause, true, true
	case e.StatusCode == http.StatusRequestTimeout:
		return pause, true, false
	case e.StatusCode/100 == 4:
		return 0, false, true
	}
	return pause, e.StatusCode != http.StatusNotImplemented, false
}

// settle finds out whether a batch was taken whose key the service has forgotten since:
// among the caller's batches, where the service lists them newest first and tells their
// groups (Sheaf does).
func (s *sender) settle(ctx context.Context, p *part, since time.Time) error {
	known := map[string]bool{}
	for i := range s.journal.Chunks {
		known[s.journal.state(i).ticket] = true
	}
	for item, err := range s.patient.List(ctx, "") {
		if err != nil {
			if _, answered := errors.AsType[*client.Error](err); answered {
				break // it does not list them all
			}
			return err
		}
		if known[item.Ticket] {
			continue
		}
		b, err := s.patient.Get(ctx, item.Ticket, client.GetOptions{Details: true, NoResponses: true})
		if e, ok := errors.AsType[*client.Error](err); ok && e.StatusCode == http.StatusNotFound {
			continue // deleted meanwhile
		}
		if err != nil {
			return err
		}
		if b.GroupID == s.journal.GroupID && b.TotalRequests == len(p.lines) {
			return s.journal.write(step{Chunk: p.index, Ticket: item.Ticket})
		}
		if b.CreatedAt.Before(since.Add(-time.Minute)) {
			break
		}
	}
	if s.giveUp {
		return s.journal.write(step{Chunk: p.index, Given: true})
	}
	return fmt.Errorf("whether batch %d of %d (lines %d to %d) was taken on %s is unknown: no answer came, and the service has forgotten its key since and does not tell; with --resume --give-up its requests are reported as UNKNOWN and the rest goes on",
		p.index+1, s.batches, p.lines[0], p.lines[len(p.lines)-1], since.Local().Format("2006-01-02 15:04"))
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
