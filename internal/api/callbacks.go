package api

import (
	"fmt"
	"math"
	"net/http"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/webhook"
)

// callback returns where the end of a new batch is told.
func (s *API) callback(c *call) (string, error) {
	url, given, err := c.query.get("callbackUrl")
	switch {
	case err != nil:
		return "", err
	case !given || url == "":
		return s.Callback, nil
	case s.CheckCallback == nil:
		return "", fail(wrongParameter, "Parameter callbackUrl can't be used here: the operator has not turned callbacks on.")
	}
	if err := batch.CheckName(url); err != nil {
		return "", fail(wrongParameter, "Parameter callbackUrl %v.", err)
	}
	if err := s.CheckCallback(url); err != nil {
		return "", fail(wrongParameter, "Parameter callbackUrl %v.", err)
	}
	return url, nil
}

// states are the words for what became of a delivery.
var states = map[storage.DeliveryState]string{storage.Pending: "PENDING", storage.Delivered: "DELIVERED", storage.GivenUp: "GIVEN_UP"}

// deliveries lists what the caller's receivers were told, or will be, newest first.
func (s *API) deliveries(c *call) error {
	ticket, given, err := c.query.ticket()
	if err != nil {
		return err
	}
	limit, err := c.query.integer("limit", maxFound, 1, maxFound)
	if err != nil {
		return err
	}
	offset, err := c.query.offset("send the number next of each answer as the parameter after of the next call")
	if err != nil {
		return err
	}
	after, err := c.query.integer("after", 0, 1, math.MaxInt64)
	if err != nil {
		return err
	}
	var found []storage.Delivery
	if !given || ticket != (batch.Ticket{}) {
		found, err = s.Storage.Deliveries(c.r.Context(), storage.DeliverySearch{Store: c.store, Owner: c.owner, Ticket: ticket, After: int64(after), Limit: limit, Offset: offset})
		if err != nil {
			return s.storageFailed(c, "deliveries", ticket, err)
		}
	}
	body := append([]byte(nil), `{"items":[`...)
	for i := range found {
		if i > 0 {
			body = append(body, ',')
		}
		body = s.appendDelivery(body, &found[i])
	}
	body = append(body, ']')
	if len(found) == limit {
		body = fmt.Appendf(body, `,"next":%d`, found[limit-1].ID)
	}
	c.send(http.StatusOK, append(body, '}'))
	return nil
}

func (s *API) appendDelivery(dst []byte, d *storage.Delivery) []byte {
	dst = fmt.Appendf(dst, `{"id":"%s","ticket":"%s"`, webhook.ID(d.Ticket), d.Ticket)
	if d.URL != webhook.Operator && d.URL != s.Callback { // the operator's address is not the caller's to see
		dst = batch.AppendString(append(dst, `,"url":`...), d.URL)
	}
	dst = fmt.Appendf(dst, `,"status":"%s","attempts":%d,"createdAt":"%s"`, states[d.State], d.Attempts, d.CreatedAt.UTC().Format(batch.Moment))
	if d.State == storage.Pending {
		dst = fmt.Appendf(dst, `,"nextAttemptAt":"%s"`, d.NextAt.UTC().Format(batch.Moment))
	}
	if d.Code != 0 {
		dst = fmt.Appendf(dst, `,"lastStatusCode":%d`, d.Code)
	}
	if d.Problem != "" {
		dst = batch.AppendString(append(dst, `,"lastProblem":`...), d.Problem)
	}
	return append(dst, '}')
}

// resend has a receiver told again.
func (s *API) resend(c *call) error {
	ticket, err := c.query.theTicket("name the batch whose end is to be told again.")
	if err != nil {
		return err
	}
	if err := s.Storage.Redeliver(c.r.Context(), c.key(ticket)); err != nil {
		return s.storageFailed(c, "resend", ticket, err)
	}
	c.send(http.StatusOK, []byte(`{"updateCount":1}`))
	return nil
}
