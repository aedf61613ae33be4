package reply

import (
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Status reads a status, and what else the view shows: the first page of results and, with details,
// the requests.
func (a *Answer) Status(key storage.Key, v *View) (*storage.Status, error) {
	ctx := a.c.R.Context()
	if !v.Responses {
		return a.s.Storage.Status(ctx, key, 0)
	}
	if v.Details {
		st, err := a.s.Storage.Status(ctx, key, 0)
		if err == nil {
			v.requests, _, err = a.Requests(st.ID, 0, -1)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := a.Reserve(); err != nil {
		return nil, err
	}
	return a.s.Storage.Status(ctx, key, PageBytes)
}

// SendStatus sends a status that Status returned.
func (a *Answer) SendStatus(st *storage.Status, v *View) error {
	a.Open()
	v.all = st.Status == batch.Completed
	if v.lines() {
		a.c.W.Header()["Content-Type"] = []string{linesType}
		if v.Responses {
			if err := a.Responses(st, v, ""); err != nil {
				return err
			}
		}
		a.End()
		return nil
	}
	a.Buf = batch.AppendHead(a.Buf, st.Status, st.Total, st.Completed)
	if v.Details {
		a.Buf = AppendDetails(a.Buf, st, time.Now())
	}
	if v.Responses {
		a.Buf = append(a.Buf, `,"responses":[`...)
		if err := a.Responses(st, v, ","); err != nil {
			return err
		}
		a.Buf = append(a.Buf, ']')
	}
	a.Buf = append(a.Buf, '}')
	a.End()
	return nil
}

// Responses appends the responses of a view: those of requests that have ended and, once the batch
// has ended, those of requests that were not executed. The separator is written between two
// responses. A view of lines has none; each of its responses ends with a line feed.
func (a *Answer) Responses(st *storage.Status, v *View, separator string) error {
	all := a.results(st, v.After+1, v.all, nil)
	for n := 0; v.Limit == 0 || n < v.Limit; {
		r := all.next(a)
		if r == nil {
			break
		}
		if !v.has(r) {
			continue
		}
		if n++; n > 1 {
			a.Buf = append(a.Buf, separator...)
		}
		if a.Buf = v.append(a.Buf, st.IDs, r, a.Piece); v.lines() {
			a.Buf = append(a.Buf, '\n')
		}
		a.Flush()
	}
	return all.err
}

// Await returns when the batch is COMPLETED, when its status or its number of completed requests
// changes, or when the time is up. With details, it also returns when the reason to wait changes. It returns at once if the client has an older status
// (If-None-Match).
func (s *Source) Await(c *Call, key storage.Key, wait time.Duration, v *View) error {
	ctx := c.R.Context()
	first, err := s.Storage.Status(ctx, key, 0)
	if err != nil || first.Status == batch.Completed {
		return err
	}
	if c.R.Header["If-None-Match"] != nil && !Unchanged(c.R.Header, v.Tag(first, c.R.URL.RawQuery)) {
		return nil // the client has an older status
	}
	news, stop := s.Hub.Watch(first.ID)
	defer stop()
	over := time.NewTimer(wait)
	defer over.Stop()
	for {
		// Read the status the first time too, because it may have changed before the watch began.
		st, err := s.Storage.Status(ctx, key, 0)
		if err != nil || st.Status != first.Status || st.Completed != first.Completed || v.Details && st.Wait.For != first.Wait.For {
			return err
		}
		select {
		case _, open := <-news:
			if !open {
				return nil
			}
		case <-over.C:
			return nil
		case <-ctx.Done():
			Abort()
		}
	}
}
