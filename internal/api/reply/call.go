// Package reply sends answers: short ones whole, and batches of any size in pieces.
//
// A status describes one moment, however long it takes to send. If the rest of an answer can't be
// read, the connection is broken, so that a client never mistakes a part for the whole. Memory is
// reserved before anything is read. A client that holds memory must read at a minimum rate.
//
// Errors of storage are returned as they are. The caller answers with an error, or breaks the
// connection if a part of the answer has been sent.
package reply

import (
	"context"
	"net/http"
	"net/netip"
	"strconv"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Name identifies an owner or a network. Each of them gets shares of memory and of concurrent calls.
type Name struct {
	Owner   batch.Owner
	Network netip.Prefix
}

// Call is an HTTP request and the answer to it. One goroutine at a time may use it.
type Call struct {
	W http.ResponseWriter
	R *http.Request

	Store string      // empty: the call isn't about a store's batches
	Owner batch.Owner // of the batches
	Names []Name      // the names that the caller's shares are counted under

	Coding  Coding // of a successful answer that is worth compressing
	Started bool   // the answer's head may have been sent
	Status  int    // of the answer; 0: none, or the connection was broken

	pace pace // of an answer that holds memory
}

// Key identifies one of the caller's batches.
func (c *Call) Key(ticket batch.Ticket) storage.Key {
	return storage.Key{Store: c.Store, Owner: c.Owner, Ticket: ticket}
}

// Ctx returns the call's context with its caller, for operations of storage that don't take the
// caller as a parameter.
func (c *Call) Ctx() context.Context {
	return storage.WithCaller(c.R.Context(), storage.Caller{Store: c.Store, Owner: c.Owner})
}

var isJSON = []string{jsonType} // shared; must not be changed

// JSON sends a value as a successful answer. Its error means that v can't be encoded.
func (c *Call) JSON(v any) error {
	body, err := marshal(v)
	if err == nil {
		c.Send(http.StatusOK, body)
	}
	return err
}

// marshal encodes a value. It replaces bytes that aren't UTF-8.
func marshal(v any) ([]byte, error) { return json.Marshal(v, jsontext.AllowInvalidUTF8(true)) }

// Send sends a whole answer. The type is JSON unless another one is set.
func (c *Call) Send(status int, body []byte) {
	if c.Coding != Identity && status == http.StatusOK && len(body) >= worthCompressing {
		c.W.Header().Set("Content-Encoding", string(c.Coding))
		newCompressor(c.Coding).piece(body, true, func(body []byte) { c.sendAs(status, body) })
		return
	}
	c.sendAs(status, body)
}

// sendAs sends a whole answer as it is, compressed or not.
func (c *Call) sendAs(status int, body []byte) {
	c.W.Header()["Content-Length"] = []string{strconv.Itoa(len(body))}
	c.begin(status)
	c.write(body)
}

// Fail sends an error as the whole answer.
func (c *Call) Fail(status int, body []byte) {
	c.W.Header()["Content-Type"] = isJSON
	c.sendAs(status, body)
}

// NotModified answers that the client already has the current status.
func (c *Call) NotModified() { c.begin(http.StatusNotModified) }

// begin sends the head of an answer.
func (c *Call) begin(status int) {
	if h := c.W.Header(); h["Content-Type"] == nil && status >= http.StatusOK && status != http.StatusNoContent && status != http.StatusNotModified {
		h["Content-Type"] = isJSON
	}
	c.Started, c.Status = true, status
	c.W.WriteHeader(status)
}

// write sends a part of the answer's body. It ignores errors: if the client is gone, the call has
// already taken effect.
func (c *Call) write(body []byte) {
	c.Started = true
	if c.R.Method != http.MethodHead {
		_, _ = c.W.Write(body)
	}
}

// paced sends bytes by a deadline: see pace.
func (c *Call) paced(bytes int, send func()) { c.pace.write(c.W, bytes, send) }

// End limits the time for the last bytes, which the server sends when the handler has returned.
func (c *Call) End() { c.pace.end(c.W) }

// gone reports whether the client is gone or the service is shutting down.
func (c *Call) gone() bool { return c.R.Context().Err() != nil }

// Abort breaks the connection, so that the client can't mistake what it got for the whole answer.
func Abort() { panic(http.ErrAbortHandler) } //nolint:forbidigo // the only way to break a connection
