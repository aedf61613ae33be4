package api

import (
	"math"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/webhook"
)

// callback returns the URL to call when a new batch has ended; empty: none.
func (s *API) callback(c *call) (string, error) {
	url, given := c.query.get("callbackUrl")
	switch {
	case c.query.err != nil:
		return "", c.query.err
	case !given || url == "":
		return s.Callback, nil
	case s.CheckCallback == nil:
		return "", fail(wrongParameter, "Parameter callbackUrl can't be used, because the operator has not enabled callbacks.")
	}
	if err := batch.CheckName(url); err != nil {
		return "", fail(wrongParameter, "Parameter callbackUrl %v.", err)
	}
	if err := s.CheckCallback(url); err != nil {
		return "", fail(wrongParameter, "Parameter callbackUrl %v.", err)
	}
	return url, nil
}

// states are the API's names for the states of a delivery.
var states = map[storage.DeliveryState]string{storage.Pending: "PENDING", storage.Delivered: "DELIVERED", storage.GivenUp: "GIVEN_UP"}

// deliveries lists the callbacks of the caller's batches, sent and pending, newest first.
func (s *API) deliveries(c *call) error {
	ticket, given := c.query.ticket()
	limit := c.query.integer("limit", maxFound, 1, maxFound)
	offset := c.query.offset("set after in each call to the value of next in the previous answer")
	after := c.query.integer("after", 0, 1, math.MaxInt64)
	if c.query.err != nil {
		return c.query.err
	}
	var found []storage.Delivery
	if !given || ticket != (batch.Ticket{}) {
		var err error
		found, err = s.Callbacks.Deliveries(c.R.Context(), storage.DeliverySearch{Store: c.Store, Owner: c.Owner, Ticket: ticket, After: int64(after), Limit: limit, Offset: offset})
		if err != nil {
			return s.storageFailed(c, "deliveries", ticket, err)
		}
	}
	out := list[deliveryJSON]{Items: make([]deliveryJSON, len(found))}
	for i := range found {
		out.Items[i] = s.delivery(&found[i])
	}
	if len(found) == limit {
		out.Next = found[limit-1].ID
	}
	return c.JSON(out)
}

// deliveryJSON is the JSON form of a delivery.
type deliveryJSON struct {
	ID             string `json:"id"`
	Ticket         string `json:"ticket"`
	URL            string `json:"url,omitzero"`
	Status         string `json:"status"`
	Attempts       int    `json:"attempts"`
	CreatedAt      string `json:"createdAt"`
	NextAttemptAt  string `json:"nextAttemptAt,omitzero"`
	LastStatusCode int    `json:"lastStatusCode,omitzero"`
	LastProblem    string `json:"lastProblem,omitzero"`
}

func (s *API) delivery(d *storage.Delivery) deliveryJSON {
	out := deliveryJSON{
		ID: webhook.ID(d.Ticket), Ticket: d.Ticket.String(), Status: states[d.State], Attempts: d.Attempts,
		CreatedAt: jsonTime(d.CreatedAt), LastStatusCode: d.Code, LastProblem: d.Problem,
	}
	if d.URL != webhook.Operator && d.URL != s.Callback { // callers must not see the operator's address
		out.URL = d.URL
	}
	if d.State == storage.Pending {
		out.NextAttemptAt = jsonTime(d.NextAt)
	}
	return out
}

// resend makes the service send a callback again.
func (s *API) resend(c *call) error {
	ticket := c.query.requiredTicket("set it to the ticket of the batch whose callback to resend.")
	if c.query.err != nil {
		return c.query.err
	}
	if err := s.Callbacks.Redeliver(c.R.Context(), c.Key(ticket)); err != nil {
		return s.storageFailed(c, "resend", ticket, err)
	}
	return c.JSON(updateAnswer{1})
}
