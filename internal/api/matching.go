package api

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/sheafapi/sheaf/batch"
	"github.com/sheafapi/sheaf/storage"
	"golang.org/x/sync/errgroup"
)

const (
	// maxMatching is how many batches one call acts on, at most.
	maxMatching = 100_000
	// actAtOnce is on how many at the same time: storage puts what comes together into one commit.
	actAtOnce = 16
	// matchingPage is how many are found at once.
	matchingPage = 500
)

// matching goes through the batches that a call means, all that there were when it began. It
// calls act for each, several at once; nil: it only counts. One that act does not want, because
// it has changed since, is an error of act's that is no failure of the whole: it is not counted.
func (s *API) matching(c *call, f storage.Filter, act func(*storage.Summary) (bool, error)) (matched, acted int, err error) {
	f.Limit = matchingPage
	for {
		page, err := s.Storage.Find(c.r.Context(), f)
		if err != nil {
			return matched, acted, s.storageFailed(c, "search", batch.Ticket{}, err)
		}
		wanted := make([]bool, len(page.Batches))
		var some errgroup.Group
		some.SetLimit(actAtOnce)
		for i := range page.Batches {
			b := &page.Batches[i]
			if !actionable(&f, b) {
				continue
			}
			if matched++; matched > maxMatching {
				return matched - 1, acted, errors.Join(some.Wait(), fail(conflict, "More than %d batches match. Narrow the filter, by time for one.", maxMatching))
			}
			if act != nil {
				some.Go(func() (err error) {
					wanted[i], err = act(b)
					return err
				})
			}
		}
		err = some.Wait()
		for _, done := range wanted {
			if done {
				acted++
			}
		}
		if f.After = page.Next; err != nil || f.After == 0 {
			return matched, acted, err
		}
	}
}

// actionable reports whether there is anything to be done with a batch: one that is to be
// repeated was not yet.
func actionable(f *storage.Filter, b *storage.Summary) bool { return !f.Failed || !b.Retried }

// cancelMatching stops all unfinished batches that a filter selects.
func (s *API) cancelMatching(c *call) error {
	f, err := c.filter()
	if err != nil {
		return err
	}
	f.Open = true
	return s.actMatching(c, f, "updateCount", func(b *storage.Summary) (bool, error) {
		stopped, err := s.Storage.Stop(c.r.Context(), storage.Selection{Store: c.store, Owner: c.owner, Ticket: b.Ticket})
		if err != nil {
			return false, s.storageFailed(c, "stop", b.Ticket, err)
		}
		for _, queue := range stopped.Queues {
			s.Notify(queue)
		}
		return stopped.Count > 0, nil
	})
}

// retryMatching makes a batch of what has failed for each one that a filter selects, has
// ended with failures, and was not repeated yet.
func (s *API) retryMatching(c *call) error {
	f, err := c.filter()
	if err != nil {
		return err
	}
	f.Failed = true
	return s.actMatching(c, f, "createdCount", func(old *storage.Summary) (bool, error) {
		b, err := s.repetition(c, old.Ticket)
		var answer *apiError
		if errors.As(err, &answer) && (answer.code == conflict || answer.code == batchNotFound) {
			return false, nil // it can't be repeated, or is gone
		}
		if err != nil {
			return false, err
		}
		_, isNew, err := s.keep(c, b)
		return isNew, err
	})
}

// actMatching acts on all that a filter selects, or with dryRun counts them, and answers.
// Of a call that failed midway the same call again does the rest.
func (s *API) actMatching(c *call, f storage.Filter, count string, act func(*storage.Summary) (bool, error)) error {
	dry, err := c.query.boolean("dryRun", false)
	if err != nil {
		return err
	}
	if dry {
		act = nil
	}
	matched, acted, err := s.matching(c, f, act)
	if acted > 0 {
		s.hub.stirred()
	}
	var answer *apiError
	if errors.As(err, &answer) && acted > 0 {
		return fail(answer.code, "%d batches were dealt with before this: %s The same call again does the rest.", acted, answer.message)
	}
	if err != nil {
		return err
	}
	if dry {
		c.send(http.StatusOK, fmt.Appendf(nil, `{"matched":%d}`, matched))
	} else {
		c.send(http.StatusOK, fmt.Appendf(nil, `{"matched":%d,"%s":%d}`, matched, count, acted))
	}
	return nil
}
