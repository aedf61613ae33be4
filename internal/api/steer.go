package api

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// pause keeps a batch, or without a ticket the caller's whole queue, from starting anything
// more; resume lets it go on.
func (s *API) pause(c *call) error  { return s.steer(c, true) }
func (s *API) resume(c *call) error { return s.steer(c, false) }

func (s *API) steer(c *call, paused bool) error {
	ticket, given, err := c.query.ticket()
	switch {
	case err != nil:
		return err
	case given && ticket == batch.Ticket{}:
		return noBatch()
	}
	p := storage.Pausing{Key: c.key(ticket), Queue: s.queue(c), Paused: paused}
	hit, err := s.Storage.Pause(c.r.Context(), p)
	if err != nil {
		return s.storageFailed(c, "pause", ticket, err)
	}
	for _, q := range hit.Queues {
		s.Notify(q)
	}
	c.send(http.StatusOK, []byte(`{"updateCount":`+strconv.Itoa(hit.Count)+`}`))
	return nil
}

// group counts over the caller's batches of a group.
func (s *API) group(c *call) error {
	group, err := c.query.group()
	switch {
	case err != nil:
		return err
	case group == "":
		return fail(wrongParameter, "Parameter groupId is missing: name the group to count over.")
	}
	n, err := s.Storage.Group(c.r.Context(), c.store, c.owner, group)
	if err != nil {
		return s.storageFailed(c, "group", batch.Ticket{}, err)
	}
	body := batch.AppendString([]byte(`{"groupId":`), group)
	body = fmt.Appendf(body, `,"batches":{"QUEUED":%d,"IN_PROGRESS":%d,"COMPLETED":%d},"totalRequests":%d,"completedRequests":%d,"responses":{"COMPLETED":%d,"FAILED":%d,"NOT_EXECUTED":%d},"inDoubtRequests":%d}`,
		n.Queued, n.InProgress, n.Completed, n.Requests, n.Succeeded+n.Failed, n.Succeeded, n.Failed, n.NotExecuted, n.InDoubt)
	c.send(http.StatusOK, body)
	return nil
}

// store stores a batch and answers with its ticket, or another one's that it leads to.
func (s *API) store(c *call, b *storage.NewBatch) error {
	ticket, _, err := s.keep(c, b)
	if err != nil {
		return err
	}
	c.created = ticket
	c.send(http.StatusOK, []byte(`{"ticket":"`+ticket.String()+`"}`))
	return nil
}

// noRoom is a quota in bytes that no batch fits into.
const noRoom = 1

// bytesOf returns about how many bytes a batch takes.
func bytesOf(b *storage.NewBatch) int64 {
	const row = 1 << 10 // what is kept of any batch
	n := int64(row)
	for i := range b.Requests {
		n += int64(len(b.Requests[i].Path) + len(b.Requests[i].Body))
	}
	return n
}

// keep stores a batch, and returns its ticket, or another one's that it leads to.
func (s *API) keep(c *call, b *storage.NewBatch) (ticket batch.Ticket, isNew bool, err error) {
	if b.Credential, err = s.Seal(b.Ticket, c.store, c.token); err != nil {
		s.Logger.Error("a token can't be encrypted", "store", c.store, "error", err)
		return ticket, false, fail(internalError, "The service failed to store the token. Its log says more.")
	}
	b.Quota, b.QuotaBytes, b.Trace = s.MaxQueued, s.MaxStored, c.trace
	room := s.HasRoom == nil || s.HasRoom(c.owner, bytesOf(b))
	crowded := s.Crowded != nil && s.Crowded(c.store, c.owner)
	if !room || crowded {
		b.QuotaBytes = noRoom // a repetition still gets its ticket
	}
	created, err := s.Storage.Create(c.r.Context(), b)
	var full *storage.QuotaError
	switch {
	case errors.As(err, &full) && !room:
		return ticket, false, fail(databaseFull, "The service's database is full, so this batch was not stored. Create it again later; the operator has to make room.")
	case errors.As(err, &full) && crowded:
		return ticket, false, fail(rateLimited, "This store has %d unfinished batches, which is the limit for tokens that the API has not accepted yet. Retry when some have ended.", s.MaxQueued)
	case errors.As(err, &full) && full.Bytes > 0:
		return ticket, false, s.noSpace(full.Bytes)
	case errors.As(err, &full):
		return ticket, false, fail(rateLimited, "You already have %d unfinished batches in this store, which is the limit. Create more when some have ended.", full.Limit)
	case busy(err) != nil:
		return ticket, false, busy(err)
	case err != nil:
		s.report(c, "create", b.Ticket, err)
		return ticket, false, fail(unavailable, "The database failed; the batch may or may not be stored. Create it again in a second: with a deduplicationKey it can't run twice.")
	}
	if !created.Duplicate {
		s.Wake(created.Queue)
		if s.Created != nil {
			s.Created(c.store)
		}
	}
	s.Logger.Debug("batch created", "store", c.store, "ticket", created.Ticket, "requests", len(b.Requests), "duplicate", created.Duplicate, "request_id", c.id)
	return created.Ticket, !created.Duplicate, nil
}
