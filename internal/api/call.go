package api

import (
	"errors"
	"net/netip"
	"strconv"
	"time"

	"github.com/sheafapi/sheaf/internal/api/reply"
	"github.com/sheafapi/sheaf/internal/batch"
)

// call is one HTTP request and the answer to it.
type call struct {
	reply.Call

	query    params
	token    string
	shared   bool          // every caller admitted to the store has the same Owner
	nameRoom [2]reply.Name // the array behind Names

	id       string // identifies the call in the log and in its answer
	template string // of its route; empty: no route matches
	trace    string // the trace that a batch continues; empty: none

	traced func() // ends the call's span after its answer; nil: there is no span

	// For the audit log:
	action  string // empty: the call isn't logged
	who     string // the caller's name; empty: it has none
	created batch.Ticket
}

// actionRead is the name of reads in the audit log. A read without a ticket is logged as search.
const actionRead = "status"

// Header values of many answers. They are shared and must not be changed.
var (
	noStore  = []string{"no-store"}
	noSniff  = []string{"nosniff"}
	byCoding = []string{"Accept-Encoding"}

	byTypeAndCoding = []string{"Accept, Accept-Encoding"}
)

// setNames sets the names that the caller's shares of memory and of concurrent calls are counted
// under. The zero Prefix stands for an unknown network.
func (c *call) setNames(owner batch.Owner, network netip.Prefix) {
	c.Names = append(c.nameRoom[:0], reply.Name{Owner: owner})
	if network.IsValid() {
		c.Names = append(c.Names, reply.Name{Network: network})
	}
}

// fail answers with an error, or breaks the connection if a part of another answer has been sent.
func (c *call) fail(err error) {
	if c.Started {
		reply.Abort()
	}
	e := &apiError{code: internalError, message: "The service failed to answer this request. See its log."}
	errors.As(err, &e)
	a := answers[e.code]
	if a.header != "" {
		c.W.Header().Set(a.header, a.value)
	}
	if e.wait > 0 {
		c.W.Header().Set("Retry-After", strconv.Itoa(int((e.wait+time.Second-1)/time.Second)))
	}
	body := batch.AppendString([]byte(`{"errorMessage":`), e.message)
	body = batch.AppendString(append(body, `,"errorCode":`...), string(e.code))
	c.Fail(a.http, append(body, '}'))
}

// jsonTime formats a time for the API. It returns "" for the zero time.
func jsonTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(batch.Moment)
}
