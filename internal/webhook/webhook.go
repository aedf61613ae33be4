// Package webhook tells receivers of the ends of batches, by the specification Standard
// Webhooks (standardwebhooks.com, version 1).
//
// What has to be told is in storage, made in the transaction that ended the batch. Any node
// takes what is due, under a lease: one that dies, or whose receiver never ends its answer,
// leaves it to be tried again. So everything is delivered at least once, and the id, which
// is the batch's, tells a receiver what it has already.
package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sheafapi/sheaf/batch"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/storage"
	webhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const (
	// Timeout is how long a receiver has for its whole answer.
	Timeout = 15 * time.Second
	// lease is how long a node may take for one attempt, and for saying what became of it.
	lease = 4 * Timeout
	// interval is how often storage is asked for what is due.
	interval = time.Second
	// atOnce is how many receivers are called at the same time by one node.
	atOnce = 16
	// answerBytes is how much of an answer is read, so that the connection can be used again.
	answerBytes = 16 << 10
)

// pauses lie between the attempts: a little more than a day together.
var pauses = []time.Duration{
	5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 4 * time.Hour, 8 * time.Hour, 9 * time.Hour,
}

// Storage is what deliveries need of storage.Storage.
type Storage interface {
	DueDeliveries(ctx context.Context, limit int, lease time.Duration) ([]storage.Delivery, error)
	PutDelivery(ctx context.Context, d *storage.Delivery) error
}

// Deliverer delivers what is due while Run runs. All fields have to be set.
type Deliverer struct {
	Storage   Storage
	Client    *http.Client // see outbound.Receiver
	Signer    *Signer
	UserAgent string
	Logger    *slog.Logger
	Observe   func(*storage.Delivery) // is told of each attempt; nil: nobody is
}

// Run delivers what is due until ctx ends. Then it lets end what is under way.
func (d *Deliverer) Run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	places := make(chan struct{}, atOnce)
	failing := false
	for {
		free := atOnce - len(places)
		var due []storage.Delivery
		var err error
		if free > 0 {
			due, err = d.Storage.DueDeliveries(ctx, free, lease)
		}
		if (err != nil) != failing && ctx.Err() == nil {
			if failing = err != nil; failing {
				d.Logger.Error("storage can't be asked for deliveries that are due; asking on", "error", err)
			}
		}
		for i := range due {
			places <- struct{}{}
			all.Go(func() {
				defer func() { <-places }()
				d.attempt(ctx, &due[i])
			})
		}
		wait := interval
		if len(due) == free && free > 0 {
			wait = interval / 10 // there may be more
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// attempt tells a receiver once, and stores what became of it.
func (d *Deliverer) attempt(ctx context.Context, del *storage.Delivery) {
	// What is under way when the node shuts down is let end: it is short.
	calling, cancel := context.WithTimeout(context.WithoutCancel(ctx), Timeout)
	defer cancel()
	del.Code, del.Problem = d.send(calling, del)
	conclude(del, time.Now())
	if d.Observe != nil {
		d.Observe(del)
	}
	if del.State == storage.GivenUp {
		d.Logger.Warn("a callback is given up", "ticket", del.Ticket, "store", del.Store, "attempts", del.Attempts, "code", del.Code, "problem", del.Problem)
	}
	storing, cancelStoring := context.WithTimeout(context.WithoutCancel(ctx), Timeout)
	defer cancelStoring()
	if err := d.Storage.PutDelivery(storing, del); err != nil {
		d.Logger.Error("what became of a callback can't be stored; it will be sent again", "ticket", del.Ticket, "error", err)
	}
}

// conclude decides what follows an attempt.
func conclude(del *storage.Delivery, now time.Time) {
	switch {
	case del.Problem == "":
		del.State = storage.Delivered
	case del.Code == http.StatusGone || del.Attempts > len(pauses):
		del.State = storage.GivenUp
	default:
		pause := pauses[del.Attempts-1]
		del.State, del.NextAt = storage.Pending, now.Add(pause+time.Duration(rand.Int64N(int64(pause/5)+1))) //nolint:gosec // no secret
	}
}

// ID is a delivery's webhook-id: the same over all attempts.
func ID(ticket batch.Ticket) string { return "evt_" + strings.ReplaceAll(ticket.String(), "-", "") }

// event is what a receiver gets. It is thin: who wants the answers asks for them.
type event struct {
	Type      string    `json:"type"`
	Timestamp time.Time `json:"timestamp"`
	Data      data      `json:"data"`
}

type data struct {
	Ticket      string `json:"ticket"`
	StoreID     string `json:"storeId"`
	Status      string `json:"status"`
	GroupID     string `json:"groupId,omitempty"`
	Total       int    `json:"totalRequests"`
	Completed   int    `json:"completedRequests"`
	Failed      int    `json:"failedRequests"`
	NotExecuted int    `json:"notExecutedRequests"`
}

// payload returns the body of a delivery: the same over all attempts.
func payload(del *storage.Delivery) ([]byte, error) {
	return json.Marshal(event{
		Type: "batch.completed", Timestamp: del.CreatedAt.UTC(),
		Data: data{
			Ticket: del.Ticket.String(), StoreID: del.Store, Status: batch.Completed.String(), GroupID: del.GroupID,
			Total: del.Total, Completed: del.Completed, Failed: max(del.Failed, 0), NotExecuted: del.Total - del.Completed,
		},
	})
}

// send makes one attempt. The problem is empty if the receiver has taken it.
func (d *Deliverer) send(ctx context.Context, del *storage.Delivery) (code int, problem string) {
	body, err := payload(del)
	if err != nil {
		return 0, "the payload can't be made"
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, del.URL, bytes.NewReader(body))
	if err != nil {
		return 0, "its address is none"
	}
	now, id := time.Now(), ID(del.Ticket)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", d.UserAgent)
	r.Header.Set(webhooks.HeaderWebhookID, id)
	r.Header.Set(webhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	signatures, err := d.Signer.sign(id, now, body)
	if err != nil {
		return 0, "the payload can't be signed"
	}
	r.Header.Set(webhooks.HeaderWebhookSignature, signatures)
	resp, err := d.Client.Do(r)
	if err != nil {
		return 0, outbound.ReceiverFailure(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, answerBytes)) // the code is all that counts
	if resp.StatusCode/100 != 2 {
		return resp.StatusCode, fmt.Sprintf("it answered %d", resp.StatusCode)
	}
	return resp.StatusCode, ""
}

// sign returns the signatures of all secrets, with spaces between.
func (s *Signer) sign(id string, at time.Time, body []byte) (string, error) {
	var out []string
	for _, w := range *s.secrets.Load() {
		signature, err := w.Sign(id, at, body)
		if err != nil {
			return "", err
		}
		out = append(out, signature)
	}
	return strings.Join(out, " "), nil
}
