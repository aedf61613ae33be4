package client

import (
	"context"
	"iter"
	"net/url"
	"time"
)

// DeliveryStatus is what became of a callback.
type DeliveryStatus string

// The states of a delivery.
const (
	Pending   DeliveryStatus = "PENDING"
	Delivered DeliveryStatus = "DELIVERED"
	GivenUp   DeliveryStatus = "GIVEN_UP"
)

// Delivery is the callback of a batch.
type Delivery struct {
	ID             string         `json:"id"` // the header webhook-id
	Ticket         string         `json:"ticket"`
	URL            string         `json:"url"`
	Status         DeliveryStatus `json:"status"`
	Attempts       int            `json:"attempts"`
	CreatedAt      time.Time      `json:"createdAt"`                // the batch's end
	NextAttemptAt  time.Time      `json:"nextAttemptAt,omitzero"`   // while it is Pending
	LastStatusCode int            `json:"lastStatusCode,omitempty"` // what the receiver answered last; 0: nothing
	LastProblem    string         `json:"lastProblem,omitempty"`
}

// Deliveries goes through the callbacks of the caller's batches, newest first; with a ticket,
// that of one batch. It goes beyond the wire contract. An error ends it.
func (c *Client) Deliveries(ctx context.Context, ticket string) iter.Seq2[Delivery, error] {
	return pages[Delivery](ctx, c, "/webhooks", ofBatch(ticket))
}

// Redeliver has the callback of a batch sent again. It goes beyond the wire contract.
func (c *Client) Redeliver(ctx context.Context, ticket string) error {
	_, err := c.update(ctx, "/webhooks/resend", url.Values{"ticket": {ticket}})
	return err
}
