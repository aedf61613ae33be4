package api

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// create stores a batch (docs/contract.md#create-a-batch) or, with dryRun, only checks it. It
// checks everything else before it reads the body.
func (s *API) create(c *call) error {
	b, err := s.newBatch(c)
	if err != nil {
		return err
	}
	dry := c.query.boolean("dryRun", false)
	if c.query.err != nil {
		return c.query.err
	}
	if err := checkMediaType(c.R.Header); err != nil {
		return err
	}
	body, release, err := s.readBody(c, s.MaxBody)
	defer release()
	if err != nil {
		return err
	}
	body = bytes.TrimPrefix(body, byteOrderMark)
	h := c.Hold(s.memory.decodes)
	defer h.Free()
	size := int64(len(body))
	if size > freeBody {
		if err := h.Need(decodedTimes * size); err != nil {
			return busy(err)
		}
	}
	err = s.compute(c, size, func() (err error) {
		if b.Requests, err = batch.Decode(body, b.Options, s.Headers); err != nil {
			return fail(wrongParameter, "%v", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	h.Cut(storedTimes * size)
	if dry {
		return c.JSON(struct {
			Valid    bool `json:"valid"`
			Requests int  `json:"totalRequests"`
		}{true, len(b.Requests)})
	}
	return s.store(c, b)
}

// noSpace returns the answer for a full quota in bytes. It asks for a longer wait, because batches that
// have ended count until they are deleted or expire.
func (s *API) noSpace(limit int64) error {
	return &apiError{code: rateLimited, wait: time.Minute, message: fmt.Sprintf(
		"Your batches in this store may take %d bytes, requests and answers together, and this one doesn't fit into the remaining space. "+
			"Delete batches whose answers you have read (DELETE with their ticket), or wait until some expire.", limit)}
}

// newBatch returns a batch without requests, with the options from the query.
func (s *API) newBatch(c *call) (b *storage.NewBatch, err error) {
	b = &storage.NewBatch{Ticket: uuid.New(), Store: c.Store, Owner: c.Owner, Queue: c.queue()}
	b.Options = c.options()
	b.DedupKey = c.query.dedupKey()
	b.GroupID = c.query.group()
	if c.query.err != nil {
		return nil, c.query.err
	}
	// Other calls don't check the name, so that groups that an older version accepted can still be
	// found and stopped.
	if err := batch.CheckName(b.GroupID); err != nil {
		return nil, fail(wrongParameter, "Parameter groupId %v.", err)
	}
	if b.Callback, err = s.callback(c); err != nil {
		return nil, err
	}
	return b, nil
}

// store stores a batch and answers with the ticket that keep returns.
func (s *API) store(c *call, b *storage.NewBatch) error {
	ticket, _, err := s.keep(c, b)
	if err != nil {
		return err
	}
	c.created = ticket
	c.Send(http.StatusOK, []byte(`{"ticket":"`+ticket.String()+`"}`))
	return nil
}

// keep stores a batch. When it returns without an error, the batch is on disk and will run,
// whatever happens next. If the batch repeats an earlier create or retry, keep stores nothing and
// returns the ticket of the earlier batch.
func (s *API) keep(c *call, b *storage.NewBatch) (ticket batch.Ticket, isNew bool, err error) {
	if b.Credential, err = s.Seal(b.Ticket, c.Store, c.token); err != nil {
		s.Logger.Error("could not encrypt a token", "store", c.Store, "error", err)
		return ticket, false, fail(internalError, "The service failed to encrypt the token. See its log.")
	}
	b.Quota, b.QuotaBytes, b.Trace = s.MaxQueued, s.MaxStored, c.trace
	room := s.HasRoom == nil || s.HasRoom(c.Owner, bytesOf(b))
	crowded := s.Crowded != nil && s.Crowded(c.Store, c.Owner)
	if !room || crowded {
		b.QuotaBytes = noRoom // a repeat of an earlier create still gets its ticket
	}
	created, err := s.Storage.Create(c.R.Context(), b)
	var full *storage.QuotaError
	switch {
	case errors.As(err, &full) && !room:
		return ticket, false, fail(databaseFull, "The database is full, so this batch was not stored. The operator must free space. Retry later.")
	case errors.As(err, &full) && crowded:
		return ticket, false, fail(rateLimited, "This store has %d unfinished batches, which is the limit for tokens that the API has not accepted yet. Retry when some have ended.", s.MaxQueued)
	case errors.As(err, &full) && full.Bytes > 0:
		return ticket, false, s.noSpace(full.Bytes)
	case errors.As(err, &full):
		return ticket, false, fail(rateLimited, "You already have %d unfinished batches in this store, which is the limit. Retry when some have ended.", full.Limit)
	case busy(err) != nil:
		return ticket, false, busy(err)
	case err != nil:
		s.report(c, "create", b.Ticket, err)
		return ticket, false, fail(unavailable, "The database failed, and the batch may or may not be stored. Create it again in a second. With a deduplicationKey it can't run twice.")
	}
	if s.Introduce != nil {
		s.Introduce(created.Queue, b.Store, b.Owner)
	}
	if !created.Duplicate {
		s.Wake(created.Queue)
		if s.Created != nil {
			s.Created(c.Store)
		}
	}
	s.Logger.Debug("batch created", "store", c.Store, "ticket", created.Ticket, "requests", len(b.Requests), "duplicate", created.Duplicate, "request_id", c.id)
	return created.Ticket, !created.Duplicate, nil
}

// noRoom is a quota in bytes that is too small for any batch.
const noRoom = 1

// bytesOf estimates how many bytes a batch takes in the database.
func bytesOf(b *storage.NewBatch) int64 {
	const row = 1 << 10 // estimated bytes per batch, not counting its requests
	n := int64(row)
	for i := range b.Requests {
		n += int64(len(b.Requests[i].Path) + len(b.Requests[i].Body))
	}
	return n
}
