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

// sender creates batches, one after another.
type sender struct {
	*Run
	once    *client.Client // doesn't retry
	patient *client.Client // retries for a long time
}

// certain is how long after its first attempt a create can safely be repeated. Servers remember its
// deduplication key for an hour.
const certain = 50 * time.Minute

// clockError is how far in the future a recorded time may lie, because the clock may have been set back
// since.
const clockError = time.Minute

// send creates the remaining batches in order and sends the index of each to created. Before each batch,
// it waits for a value from free.
func (s *sender) send(ctx context.Context, free <-chan struct{}, created chan<- int) error {
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
		if err := s.create(ctx, p); err != nil {
			return err
		}
		created <- p.index
	}
}

// create creates one batch, unless the journal says that it exists or must not be created.
func (s *sender) create(ctx context.Context, p *part) error {
	known := s.journal.state(p.index)
	switch {
	case known.ticket != "", known.unsent, known.givenUp:
		return nil
	case !known.sending.IsZero() && !recent(known.sending):
		return s.find(ctx, p, known.sending)
	case s.stopped.Load() && known.sending.IsZero():
		return s.journal.write(entry{Chunk: p.index, Unsent: true})
	}
	began := known.sending // when the first attempt whose outcome is unknown began
	uncertain := !began.IsZero()
	for n := 0; ; n++ {
		if began.IsZero() {
			began = time.Now()
			if err := s.journal.write(entry{Chunk: p.index, Sending: true}); err != nil {
				return err
			}
		}
		o := s.journal.create()
		o.GroupID, o.DeduplicationKey = s.journal.GroupID, s.journal.key(p.index)
		ticket, err := s.once.CreateJSON(ctx, p.body(), o)
		if err == nil {
			s.Progress.created()
			return s.journal.write(entry{Chunk: p.index, Ticket: ticket})
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		pause, again, refused := judge(err, n)
		uncertain = uncertain || !refused
		if !uncertain { // the batch was certainly not created
			if err := s.journal.write(entry{Chunk: p.index, Refused: true}); err != nil {
				return err
			}
			began = time.Time{}
		}
		if !again || uncertain && !recent(began.Add(-pause)) {
			return fmt.Errorf("create batch %d of %d (lines %d to %d): %w", p.index+1, s.batches, p.lines[0], p.lines[len(p.lines)-1], err)
		}
		s.Progress.retries(err, pause)
		if err := sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// recent reports whether the service must still remember the key of a batch that was first sent at this
// time. A time in the future comes from a wrong clock and proves nothing.
func recent(sent time.Time) bool {
	age := time.Since(sent)
	return age >= -clockError && age <= certain
}

// judge returns how long to wait after the n-th failure, whether to try again, and whether the failure
// proves that the batch was not created.
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

// find looks for a batch whose create got no answer, once the service may have forgotten its key. It
// searches the list of all the caller's batches, newest first, which only Sheaf has.
func (s *sender) find(ctx context.Context, p *part, since time.Time) error {
	known := map[string]bool{}
	for i := range s.journal.Chunks {
		known[s.journal.state(i).ticket] = true
	}
	for item, err := range s.patient.List(ctx, "") {
		if err != nil {
			if _, answered := errors.AsType[*client.Error](err); answered {
				break // the server can't list them
			}
			return err
		}
		if known[item.Ticket] {
			continue
		}
		b, err := s.patient.Get(ctx, item.Ticket, client.GetOptions{Details: true, NoResponses: true})
		if e, ok := errors.AsType[*client.Error](err); ok && e.StatusCode == http.StatusNotFound {
			continue // deleted in the meantime
		}
		if err != nil {
			return err
		}
		if b.GroupID == s.journal.GroupID && b.TotalRequests == len(p.lines) {
			return s.journal.write(entry{Chunk: p.index, Ticket: item.Ticket})
		}
		if b.CreatedAt.Before(since.Add(-time.Minute)) {
			break
		}
	}
	if s.giveUp {
		return s.journal.write(entry{Chunk: p.index, Given: true})
	}
	return fmt.Errorf("it is unknown whether batch %d of %d (lines %d to %d) was created on %s: no answer came, and the service has since forgotten its key; to report its requests as UNKNOWN and continue, use --resume --give-up",
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
