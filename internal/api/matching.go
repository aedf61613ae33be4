package api

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/sheafapi/sheaf/batch"
	"github.com/sheafapi/sheaf/storage"
	"golang.org/x/sync/errgroup"
)

const (
	// maxMatching is how many batches one call acts on, at most.
	maxMatching = 100_000
	// stopAtOnce is how many are stopped at the same time: storage puts what comes together into
	// one commit.
	stopAtOnce = 16
	// matchingTime is how long they are looked for.
	matchingTime = time.Minute
	// matchingPage is how many are found at once.
	matchingPage = 500
)

// matching finds the batches that a call means, all that there are now. Those that are to be
// repeated and were already are left out.
func (s *API) matching(c *call, f storage.Filter) (found []batch.Ticket, err error) {
	f.Limit = matchingPage
	for began := time.Now(); ; {
		page, err := s.findPage(c, f)
		if err != nil {
			return nil, err
		}
		for i := range page.Batches {
			if b := &page.Batches[i]; !f.Failed || !b.Retried {
				found = append(found, b.Ticket)
			}
		}
		f.After = page.Next
		switch {
		case len(found) > maxMatching:
			return nil, fail(conflict, "More than %d batches match. Narrow the filter, by time for one.", maxMatching)
		case f.After == 0:
			return found, nil
		case time.Since(began) > matchingTime:
			return nil, fail(conflict, "There are too many batches to look through for this. Narrow the filter, by time for one.")
		}
	}
}

// cancelMatching stops all unfinished batches that a filter selects.
func (s *API) cancelMatching(c *call) error {
	f, err := c.filter()
	if err != nil {
		return err
	}
	f.Open = true
	return s.actMatching(c, f, "updateCount", s.stopAll)
}

// stopAll stops batches, and returns how many it has stopped.
func (s *API) stopAll(c *call, tickets []batch.Ticket) (int, error) {
	var stopped atomic.Int64
	var some errgroup.Group
	some.SetLimit(stopAtOnce)
	for _, ticket := range tickets {
		// Nothing in here may panic, as reporting an error does for a client that is gone.
		some.Go(func() error {
			hit, err := s.Storage.Stop(c.r.Context(), storage.Selection{Store: c.store, Owner: c.owner, Ticket: ticket})
			stopped.Add(int64(hit.Count))
			for _, queue := range hit.Queues {
				s.Notify(queue)
			}
			return err
		})
	}
	err := some.Wait()
	s.hub.stirred()
	if err != nil {
		err = s.storageFailed(c, "stop", batch.Ticket{}, err)
	}
	return int(stopped.Load()), err
}

// retryMatching makes a batch of what has failed for each one that a filter selects, has
// ended with failures, and was not repeated yet: in the order in which these were created.
func (s *API) retryMatching(c *call) error {
	f, err := c.filter()
	if err != nil {
		return err
	}
	f.Failed = true
	if _, err := s.callback(c); err != nil {
		return err
	}
	return s.actMatching(c, f, "createdCount", s.retryAll)
}

// retryAll repeats batches, the last one first, and returns how many were created.
func (s *API) retryAll(c *call, tickets []batch.Ticket) (made int, err error) {
	h := c.hold(s.memory.decodes)
	defer h.free()
	for _, ticket := range slices.Backward(tickets) {
		b, err := s.repetition(c, &h, ticket)
		var answer *apiError
		if errors.As(err, &answer) && (answer.code == conflict || answer.code == batchNotFound) {
			continue // it can't be repeated, or is gone
		}
		if err != nil {
			return made, err
		}
		b.Once = true // two such calls at once make one
		_, isNew, err := s.keep(c, b)
		if err != nil {
			return made, err
		}
		if isNew {
			made++
		}
		h.free() // others may be next
	}
	return made, nil
}

// actMatching acts on all that a filter selects, or with dryRun counts them, and answers.
// Of a call that failed midway the same call again does the rest.
func (s *API) actMatching(c *call, f storage.Filter, count string, act func(*call, []batch.Ticket) (int, error)) error {
	dry, err := c.query.boolean("dryRun", false)
	if err != nil {
		return err
	}
	found, err := s.matching(c, f)
	if err != nil {
		return err
	}
	if dry {
		c.send(http.StatusOK, fmt.Appendf(nil, `{"matched":%d}`, len(found)))
		return nil
	}
	acted, err := act(c, found)
	var answer *apiError
	if errors.As(err, &answer) && acted > 0 {
		return fail(answer.code, "%d batches were dealt with before this: %s The same call again does the rest.", acted, answer.message)
	}
	if err != nil {
		return err
	}
	c.send(http.StatusOK, fmt.Appendf(nil, `{"matched":%d,"%s":%d}`, len(found), count, acted))
	return nil
}
