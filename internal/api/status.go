package api

import (
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/sheafapi/sheaf/internal/api/reply"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// statusOrSearch answers with the status of a batch or, without a ticket, with a search.
func (s *API) statusOrSearch(c *call) error {
	ticket, given := c.query.ticket()
	if c.query.err != nil {
		return c.query.err
	}
	if given {
		if slices.Equal(c.query.values["offset"], []string{"0"}) { // some clients send it with every call
			delete(c.query.values, "offset")
		}
		if err := c.query.refuse(searchParams, statusParams, "the status of a batch (a call with ticket)"); err != nil {
			return err
		}
		return s.status(c, ticket)
	}
	if err := c.query.refuse(statusParams, searchParams, "a search (a call without ticket)"); err != nil {
		return err
	}
	return s.search(c)
}

// status answers with the status of a batch (docs/contract.md#read-a-status).
func (s *API) status(c *call, ticket batch.Ticket) error {
	v, wait := c.view(), c.waits()
	if c.query.err != nil {
		return c.query.err
	}
	if ticket == (batch.Ticket{}) {
		return noBatch()
	}
	c.W.Header()["Vary"] = byTypeAndCoding
	if v.IsStream() && c.R.Method == http.MethodGet {
		leave, err := s.stay(c)
		if err != nil {
			return err
		}
		defer leave()
		if err := s.source.Events(&c.Call, c.Key(ticket), &v); err != nil {
			return s.storageFailed(c, "status", ticket, err)
		}
		return nil
	}
	if wait > 0 {
		leave, err := s.stay(c)
		if err != nil {
			return err
		}
		err = s.source.Await(&c.Call, c.Key(ticket), wait, &v)
		leave()
		if err != nil {
			return s.storageFailed(c, "status", ticket, err)
		}
	}
	a := s.source.Answer(&c.Call)
	defer a.Free()
	st, err := a.Status(c.Key(ticket), &v)
	if err != nil {
		return s.storageFailed(c, "status", ticket, err)
	}
	tag := v.Tag(st, c.R.URL.RawQuery)
	c.W.Header()["Etag"] = []string{tag}
	if st.Status != batch.Completed {
		c.W.Header()["Retry-After"] = pause(st, time.Now())
	}
	if reply.Unchanged(c.R.Header, tag) {
		c.NotModified()
		return nil
	}
	if err := a.SendStatus(st, &v); err != nil {
		return s.storageFailed(c, "results", ticket, err)
	}
	return nil
}

// onlyInDoubt is the value of the parameter only for requests that are FAILED and in doubt.
const onlyInDoubt = "IN_DOUBT"

// view reads which responses the caller wants, and in which form.
func (c *call) view() (v reply.View) {
	v.Form.Escaped = c.query.boolean("escapedJson", false)
	v.Responses = c.query.boolean("responses", true) && c.R.Method != http.MethodHead
	v.Details = c.query.boolean("details", false)
	v.After = c.query.integer("after", -1, -1, batch.MaxRequests-1)
	v.Limit = c.query.integer("limit", 0, 1, batch.MaxRequests)
	v.Form.Most = c.query.bodyBytes()
	only, given := c.query.get("only")
	for _, s := range []batch.ResultStatus{batch.Succeeded, batch.Failed, batch.NotExecuted} {
		if given && only == s.String() {
			v.Only = s
		}
	}
	v.InDoubt = only == onlyInDoubt
	if given && v.Only == 0 && !v.InDoubt {
		c.query.wrong("Parameter only must be one of COMPLETED, FAILED, IN_DOUBT, NOT_EXECUTED.")
	}
	v.Indexed = v.Details || v.After >= 0 || v.Limit > 0 || given
	v.Accept(&c.Call)
	return v
}

// maxWait is the maximum time that a status waits for a change, in seconds.
const maxWait = 60

// waits returns how long a status should wait for a change: the parameter wait, or the client's
// preference.
func (c *call) waits() time.Duration {
	if n := c.query.integer("wait", -1, 0, maxWait); n >= 0 {
		return time.Duration(n) * time.Second
	}
	preferred, given := reply.PreferredWait(c.R.Header)
	if !given {
		return 0
	}
	preferred = min(preferred, maxWait)
	c.W.Header().Set("Preference-Applied", "wait="+strconv.FormatUint(preferred, 10))
	return time.Duration(preferred) * time.Second
}

// pauses are values of Retry-After, indexed by seconds.
var pauses = func() (out [11][]string) {
	for i := range out {
		out[i] = []string{strconv.Itoa(i)}
	}
	return out
}()

// pause returns the Retry-After of an unfinished batch: about a tenth of the time that the
// remaining requests will take, from one second to ten.
func pause(st *storage.Status, now time.Time) []string {
	if st.Completed == 0 || st.StartedAt.IsZero() {
		return pauses[2]
	}
	each := now.Sub(st.StartedAt) / time.Duration(st.Completed)
	return pauses[min(max(each*time.Duration(st.Total-st.Completed)/10, time.Second), 10*time.Second)/time.Second]
}
