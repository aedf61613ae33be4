package api

import (
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"golang.org/x/sync/errgroup"
)

const (
	// maxMatching is the maximum number of batches that one call changes.
	maxMatching = 100_000
	// stopAtOnce is how many batches are stopped at the same time. Storage combines such calls in
	// one commit.
	stopAtOnce = 16
	// matchingTime limits how long the search for matching batches may take.
	matchingTime = time.Minute
	// matchingPage is the number of batches that the search reads at once.
	matchingPage = 500
)

// selection holds the batches that a filter has selected.
type selection struct {
	tickets  []batch.Ticket
	requests int // upper limit on the requests in these batches that a retry would repeat
	inDoubt  int // requests in doubt in the matching batches that have not been retried, selected or not
}

// matching finds all batches that currently match a filter. It calls take for each one; take
// decides whether to add it to the selection.
func (s *API) matching(c *call, f storage.Filter, take func(*selection, *storage.Summary)) (found selection, err error) {
	f.Limit = matchingPage
	for began := time.Now(); ; {
		page, err := s.findPage(c, f)
		if err != nil {
			return selection{}, err
		}
		for i := range page.Batches {
			take(&found, &page.Batches[i])
		}
		f.After = page.Next
		switch {
		case len(found.tickets) > maxMatching:
			return selection{}, fail(conflict, "More than %d batches match. Narrow the filter, for example by time.", maxMatching)
		case f.After == 0:
			return found, nil
		case time.Since(began) > matchingTime:
			return selection{}, fail(conflict, "The search takes too long. Narrow the filter, for example by time.")
		}
	}
}

// cancelMatching stops all unfinished batches that a filter selects.
func (s *API) cancelMatching(c *call) error {
	f := c.filter()
	f.Open = true
	dry := c.query.boolean("dryRun", false)
	if c.query.err != nil {
		return c.query.err
	}
	found, err := s.matching(c, f, func(m *selection, b *storage.Summary) { m.tickets = append(m.tickets, b.Ticket) })
	if err != nil {
		return err
	}
	if dry {
		return c.JSON(struct {
			Matched int `json:"matched"`
		}{len(found.tickets)})
	}
	stopped, err := s.stopAll(c, found.tickets)
	if err := midway(stopped, err); err != nil {
		return err
	}
	return c.JSON(struct {
		Matched int `json:"matched"`
		Updated int `json:"updateCount"`
	}{len(found.tickets), stopped})
}

// stopAll stops batches and returns how many it has stopped.
func (s *API) stopAll(c *call, tickets []batch.Ticket) (int, error) {
	var stopped atomic.Int64
	var some errgroup.Group
	some.SetLimit(stopAtOnce)
	for _, ticket := range tickets {
		// storageFailed panics if the client is gone, which this goroutine must not do. So stopAll
		// calls it after Wait.
		some.Go(func() error {
			hit, err := s.Storage.Stop(c.R.Context(), storage.Selection{Store: c.Store, Owner: c.Owner, Ticket: ticket})
			stopped.Add(int64(hit.Count))
			for _, queue := range hit.Queues {
				s.Notify(queue)
			}
			return err
		})
	}
	err := some.Wait()
	s.Hub.ChangedAny()
	if err != nil {
		err = s.storageFailed(c, "stop", batch.Ticket{}, err)
	}
	return int(stopped.Load()), err
}

// retryMatching retries the batches that match a filter, have ended with failures, and have not
// been retried yet. It begins with the oldest.
func (s *API) retryMatching(c *call) error {
	f := c.filter()
	which := batch.RepeatCertain
	if c.query.boolean("repeatInDoubt", false) {
		which = batch.RepeatAll
	}
	dry := c.query.boolean("dryRun", false)
	if c.query.err != nil {
		return c.query.err
	}
	f.Failed = true
	if _, err := s.callback(c); err != nil {
		return err
	}
	found, err := s.matching(c, f, func(m *selection, b *storage.Summary) {
		if b.Retried {
			return
		}
		m.inDoubt += b.InDoubt
		n := b.Total - (b.Completed - b.Failed)
		if which == batch.RepeatCertain {
			n -= b.InDoubt
		}
		if n > 0 {
			m.tickets, m.requests = append(m.tickets, b.Ticket), m.requests+n
		}
	})
	if err != nil {
		return err
	}
	if dry {
		return c.JSON(struct {
			Matched  int `json:"matched"`
			Requests int `json:"totalRequests"`
			InDoubt  int `json:"inDoubtRequests"`
		}{len(found.tickets), found.requests, found.inDoubt})
	}
	made, err := s.retryAll(c, found.tickets, which)
	if err := midway(made, err); err != nil {
		return err
	}
	return c.JSON(struct {
		Matched int `json:"matched"`
		Created int `json:"createdCount"`
		InDoubt int `json:"inDoubtRequests"`
	}{len(found.tickets), made, found.inDoubt})
}

// retryAll retries the tickets of a search, which are newest first, from the back, so that the
// oldest batch is retried first. It returns how many batches it created.
func (s *API) retryAll(c *call, tickets []batch.Ticket, which batch.Repeat) (made int, err error) {
	h := c.Hold(s.memory.decodes)
	defer h.Free()
	for _, ticket := range slices.Backward(tickets) {
		b, _, err := s.repetition(c, &h, ticket, which)
		var answer *apiError
		if errors.As(err, &answer) && (answer.code == conflict || answer.code == batchNotFound) {
			continue // it can't be retried, or no longer exists
		}
		if err != nil {
			return made, err
		}
		if len(b.Requests) == 0 {
			continue
		}
		b.Once = true // so that two concurrent calls create only one batch
		_, isNew, err := s.keep(c, b)
		if err != nil {
			return made, err
		}
		if isNew {
			made++
		}
		h.Free() // so that other calls get their turn
	}
	return made, nil
}

// midway returns an error that also says how many batches were changed before err occurred.
// Repeating the call changes the rest.
func midway(acted int, err error) error {
	var answer *apiError
	if errors.As(err, &answer) && acted > 0 {
		return fail(answer.code, "%d batches were changed before this error: %s Repeat the call to change the rest.", acted, answer.message)
	}
	return err
}
