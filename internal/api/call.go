package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// call is one HTTP request and the answer to it.
type call struct {
	w       http.ResponseWriter
	r       *http.Request
	started bool // the answer's head may have been sent

	// Set for resources that belong to a store.
	token  string
	owner  batch.Owner
	shared bool // every caller admitted to the store has this owner
	store  string
	query  params

	names    []name  // of the caller, whose shares are taken
	nameRoom [2]name // where names are

	coding coding // of an answer that is worth it
	pace   pace   // of an answer that holds memory

	id    string // what the call is named in the log and in its answer
	route string // the template of its path; empty: none
	trace string // what a batch's trace goes on from; empty: nothing

	traced func() // ends the call's span, once its answer is sent; nil: there is none

	// For an audit:
	action  string // empty: there is nothing to tell
	who     string // the caller's name; empty: it has none
	created batch.Ticket
	status  int // of the answer
}

// actionRead is the name in the audit log of calls that read. Without a ticket it becomes search.
const actionRead = "status"

// Values of headers that many answers have. They are shared, and never changed.
var (
	noStore  = []string{"no-store"}
	noSniff  = []string{"nosniff"}
	isJSON   = []string{"application/json"}
	byCoding = []string{"Accept-Encoding"}

	byTypeAndCoding = []string{"Accept, Accept-Encoding"}
)

// key names a batch of the caller.
func (c *call) key(ticket batch.Ticket) storage.Key {
	return storage.Key{Store: c.store, Owner: c.owner, Ticket: ticket}
}

// ctx is the call's context for what storage reads without being given the caller.
func (c *call) ctx() context.Context {
	return storage.WithCaller(c.r.Context(), storage.Caller{Store: c.store, Owner: c.owner})
}

// send sends a whole answer.
func (c *call) send(status int, body []byte) {
	if c.coding != identity && status == http.StatusOK && len(body) >= worthCompressing {
		c.w.Header().Set("Content-Encoding", string(c.coding))
		newCompressor(c.coding).piece(body, true, func(body []byte) { c.sendAs(status, body) })
		return
	}
	c.sendAs(status, body)
}

// typed sets the type of what is sent, unless it is another one than JSON.
func (c *call) typed() {
	if h := c.w.Header(); h["Content-Type"] == nil {
		h["Content-Type"] = isJSON
	}
}

// sendAs sends a whole answer as it is.
func (c *call) sendAs(status int, body []byte) {
	h := c.w.Header()
	c.typed()
	h["Content-Length"] = []string{strconv.Itoa(len(body))}
	c.started, c.status = true, status
	c.w.WriteHeader(status)
	c.write(body)
}

// write sends a part of the answer's body. A client that is gone is no error: what
// was asked for has been done.
func (c *call) write(body []byte) {
	c.started = true
	if c.r.Method != http.MethodHead {
		_, _ = c.w.Write(body)
	}
}

// fail answers with an error.
func (c *call) fail(err error) {
	e := &apiError{code: internalError, message: "The service failed to answer this request. Its log says more."}
	errors.As(err, &e)
	status, header, value := e.code.http()
	if header != "" {
		c.w.Header().Set(header, value)
	}
	if e.wait > 0 {
		c.w.Header().Set("Retry-After", strconv.Itoa(int((e.wait+time.Second-1)/time.Second)))
	}
	body := append([]byte(nil), `{"errorMessage":`...)
	body = batch.AppendString(body, e.message)
	body = append(body, `,"errorCode":`...)
	body = batch.AppendString(body, string(e.code))
	c.send(status, append(body, '}'))
}

// abort breaks the connection, so that the client can't take what it has got for an
// answer.
func abort() { panic(http.ErrAbortHandler) } //nolint:forbidigo // the one way to break a connection
