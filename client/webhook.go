package client

import (
	"context"
	"iter"
	"net/url"
	"time"
)

// DeliveryStatus is the state of a delivery.
type DeliveryStatus string

// The states of a delivery.
const (
	Pending   DeliveryStatus = "PENDING"
	Delivered DeliveryStatus = "DELIVERED"
	GivenUp   DeliveryStatus = "GIVEN_UP"
)

// Delivery is the callback of a batch.
type Delivery struct {
	ID             string         `json:"id"` // the value of the webhook-id header
	Ticket         string         `json:"ticket"`
	URL            string         `json:"url"`
	Status         DeliveryStatus `json:"status"`
	Attempts       int            `json:"attempts"`
	CreatedAt      time.Time      `json:"createdAt"`                // when the batch ended
	NextAttemptAt  time.Time      `json:"nextAttemptAt,omitzero"`   // set while Pending
	LastStatusCode int            `json:"lastStatusCode,omitempty"` // the receiver's last answer; 0: none
	LastProblem    string         `json:"lastProblem,omitempty"`
}

// Deliveries iterates over the callbacks of the caller's batches, newest first. If ticket is not
// empty, it returns only the callback of that batch. Only Sheaf supports this call. The iteration ends
// after the first error.
func (c *Client) Deliveries(ctx context.Context, ticket string) iter.Seq2[Delivery, error] {
	return pages[Delivery](ctx, c, "/webhooks", ofBatch(ticket))
}

// Redeliver makes the service send the callback of a batch again. Only Sheaf supports this call.
func (c *Client) Redeliver(ctx context.Context, ticket string) error {
	_, err := c.update(ctx, "/webhooks/resend", url.Values{"ticket": {ticket}})
	return err
}
