// Package webhook notifies receivers when batches end. It follows the Standard Webhooks specification
// (standardwebhooks.com, version 1).
//
// The transaction that ends a batch also stores its delivery. Any node may take a due delivery under a
// lease. If the node dies or the receiver never completes its answer, the lease expires and another
// attempt follows. So each delivery arrives at least once. Its ID is derived from the batch's ticket,
// so receivers can recognize repetitions.
package webhook

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/outage"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/ratelimit"
	"github.com/sheafapi/sheaf/internal/storage"
	webhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const (
	// Timeout is how long a receiver may take to answer completely.
	Timeout = 15 * time.Second
	// lease is how long a node may take for an attempt and for storing its outcome.
	lease = 4 * Timeout
	// interval is how often a node looks for due deliveries.
	interval = time.Second
	// storeTimeout is how long storing an attempt's outcome may take.
	storeTimeout = 5 * time.Second
)

// pauses are the times between attempts, a little more than a day in total.
var pauses = []time.Duration{
	5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute, 30 * time.Minute,
	time.Hour, 2 * time.Hour, 4 * time.Hour, 8 * time.Hour, 9 * time.Hour,
}

// Storage is what deliveries need from a database: a part of storage.Callbacks.
type Storage interface {
	DueDeliveries(ctx context.Context, q storage.DueQuery) (due []storage.Delivery, next storage.Lane, err error)
	PutDelivery(ctx context.Context, d *storage.Delivery) error
}

// Operator stands for the operator's URL in storage, so that callers never see that URL.
const (
	Operator     = "operator://" + operatorHost
	operatorHost = "webhook-url"
)

// Deliverer sends due deliveries while Run runs. All fields except Observe and OperatorURL are
// required.
type Deliverer struct {
	Storage   Storage
	Client    *http.Client // see outbound.Receiver
	Signer    *Signer
	UserAgent string
	Logger    *slog.Logger
	Observe   func(*storage.Delivery) // called after each attempt; may be nil

	OperatorURL string // the URL that Operator stands for; "": none

	hosts []string // see Options
	allow []netip.Prefix
}

// Run sends due deliveries until ctx is done. It then cancels the attempts in flight, so shutting down
// doesn't wait for receivers. This node or another one makes those attempts again later.
func (d *Deliverer) Run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	t := newTraffic()
	attemptEnded := make(chan struct{}, 1)
	var after storage.Lane
	var failures outage.Log
	for ctx.Err() == nil {
		var due []storage.Delivery
		var err error
		if free, busy := t.busy(time.Now()); free > 0 {
			due, after, err = d.Storage.DueDeliveries(ctx, storage.DueQuery{Limit: free, Lease: lease, After: after, Busy: busy})
		}
		if err == nil {
			failures.Recovered()
		} else if n, due := failures.Failed(time.Now()); due && ctx.Err() == nil {
			d.Logger.Error("could not read from storage which callbacks are due; retrying every second", "error", err, "since_last_log", n)
		}
		for i := range due {
			del := &due[i]
			lane := storage.Lane{Store: del.Store, Host: del.Host}
			t.begin(lane)
			all.Go(func() {
				o := d.attempt(ctx, del)
				t.end(lane, o, time.Now())
				select {
				case attemptEnded <- struct{}{}:
				default:
				}
			})
		}
		if err == nil && (len(due) > 0 || after != (storage.Lane{})) {
			continue // there may be more
		}
		select {
		case <-ctx.Done():
		case <-attemptEnded:
		case <-time.After(interval):
		}
	}
}

// attempt calls a receiver once, and stores the outcome.
func (d *Deliverer) attempt(ctx context.Context, del *storage.Delivery) outcome {
	if del.Attempts > len(pauses)+1 { // the outcome of the last attempt could not be stored
		d.store(ctx, del, outcome{problem: "the outcome of the attempts could not be stored"})
		return outcome{uncounted: true}
	}
	calling, cancel := context.WithTimeout(ctx, Timeout)
	defer cancel()
	o := d.send(calling, del)
	if ctx.Err() != nil && o.code == 0 {
		o = outcome{uncounted: true}
	}
	d.store(ctx, del, o)
	if d.Observe != nil && !o.uncounted {
		d.Observe(del)
	}
	return o
}

// store stores the outcome of an attempt and when the next one is due. It also does so after ctx is
// done.
func (d *Deliverer) store(ctx context.Context, del *storage.Delivery, o outcome) {
	conclude(del, o, time.Now())
	if del.State == storage.GivenUp {
		d.Logger.Warn("gave up on a callback", "ticket", del.Ticket, "store", del.Store, "attempts", del.Attempts, "code", del.Code, "problem", del.Problem)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	if err := d.Storage.PutDelivery(ctx, del); err != nil {
		d.Logger.Error("could not store the outcome of a callback; it may be sent again", "ticket", del.Ticket, "attempts", del.Attempts, "error", err)
	}
}

// conclude updates a delivery after an attempt.
func conclude(del *storage.Delivery, o outcome, now time.Time) {
	if o.uncounted {
		del.State, del.Spared, del.NextAt = storage.Pending, true, now.Add(jitter(interval))
		return
	}
	switch del.Code, del.Problem = o.code, o.problem; {
	case o.problem == "":
		del.State = storage.Delivered
	case o.code == http.StatusGone || del.Attempts > len(pauses):
		del.State = storage.GivenUp
	default:
		pause := pauses[del.Attempts-1]
		del.State, del.NextAt = storage.Pending, now.Add(max(pause, o.pause)+jitter(pause/5))
	}
}

// jitter returns a random time of at most d.
func jitter(d time.Duration) time.Duration {
	return time.Duration(rand.Int64N(int64(d) + 1)) //nolint:gosec // not a secret
}

// ID returns the webhook-id of a batch's delivery. All attempts have the same.
func ID(ticket batch.Ticket) string { return "evt_" + strings.ReplaceAll(ticket.String(), "-", "") }

// event is the payload of a delivery. It doesn't contain the answers; receivers read them through the API.
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
	InDoubt     int    `json:"inDoubtRequests"` // included in Failed
	NotExecuted int    `json:"notExecutedRequests"`
}

// payload returns the body of a delivery. All attempts have the same.
func payload(del *storage.Delivery) ([]byte, error) {
	return json.Marshal(event{
		Type: "batch.completed", Timestamp: del.CreatedAt.UTC(),
		Data: data{
			Ticket: del.Ticket.String(), StoreID: del.Store, Status: batch.Completed.String(), GroupID: del.GroupID,
			Total: del.Total, Completed: del.Completed, Failed: max(del.Failed, 0), InDoubt: del.InDoubt, NotExecuted: del.Total - del.Completed,
		},
	})
}

// send makes one attempt.
func (d *Deliverer) send(ctx context.Context, del *storage.Delivery) outcome {
	address, store := del.URL, del.Store
	if address == Operator {
		address, store = d.OperatorURL, ""
	}
	body, err := payload(del)
	if err != nil {
		return outcome{problem: "the payload could not be created"}
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil || address == "" {
		return outcome{problem: "the URL is missing or invalid"}
	}
	now, id := time.Now(), ID(del.Ticket)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", d.UserAgent)
	r.Header.Set(webhooks.HeaderWebhookID, id)
	r.Header.Set(webhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	signatures, err := d.Signer.sign(store, id, now, body)
	if err != nil {
		return outcome{problem: "the payload could not be signed"}
	}
	r.Header.Set(webhooks.HeaderWebhookSignature, signatures)
	resp, err := d.Client.Do(r)
	switch {
	case outbound.IsCrowded(err):
		return outcome{uncounted: true}
	case err != nil:
		return outcome{problem: outbound.ReceiverFailure(err)}
	}
	resp.Body.Close() // only the status code matters
	refusal, _ := ratelimit.Refused(resp.StatusCode, resp.Header, time.Now())
	o := outcome{code: resp.StatusCode, pause: min(refusal.Wait, longestPause)}
	if o.code/100 != 2 {
		o.problem = fmt.Sprintf("the receiver answered %d", o.code)
	}
	return o
}

// sign returns the signatures with all secrets of a store, separated by spaces. The empty store stands
// for the operator.
func (s *Signer) sign(store, id string, at time.Time, body []byte) (string, error) {
	var out []string
	for _, secret := range *s.secrets.Load() {
		w, err := webhooks.NewWebhook(storeSecret(secret, store))
		if err != nil {
			return "", err
		}
		signature, err := w.Sign(id, at, body)
		if err != nil {
			return "", err
		}
		out = append(out, signature)
	}
	return strings.Join(out, " "), nil
}
