package webhook

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/storagetest"
	webhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// network is the transport of an http.Client. Its receivers are functions, by host.
type network struct {
	hosts map[string]func(ctx context.Context) (code int, header http.Header)

	mu                         sync.Mutex
	calls                      map[string][]time.Time // by host
	inFlight, most             map[string]int         // by host
	storesInFlight, mostStores map[string]int
}

func newNetwork() *network {
	return &network{
		hosts: map[string]func(context.Context) (int, http.Header){}, calls: map[string][]time.Time{},
		inFlight: map[string]int{}, most: map[string]int{}, storesInFlight: map[string]int{}, mostStores: map[string]int{},
	}
}

func (n *network) RoundTrip(r *http.Request) (*http.Response, error) {
	host, store := r.URL.Host, strings.TrimPrefix(r.URL.Path, "/")
	count := func(by int) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.inFlight[host] += by
		n.storesInFlight[store] += by
		n.most[host] = max(n.most[host], n.inFlight[host])
		n.mostStores[store] = max(n.mostStores[store], n.storesInFlight[store])
	}
	count(1)
	defer count(-1)
	n.mu.Lock()
	n.calls[host] = append(n.calls[host], time.Now())
	n.mu.Unlock()
	code, header := n.hosts[host](r.Context())
	if code == 0 {
		return nil, errors.New("no answer")
	}
	return &http.Response{StatusCode: code, Header: header, Body: http.NoBody, Request: r}, nil
}

// dead never answers.
func dead(ctx context.Context) (int, http.Header) {
	<-ctx.Done()
	return 0, nil
}

func answers(code int) func(context.Context) (int, http.Header) {
	return func(context.Context) (int, http.Header) { return code, nil }
}

// count returns how often a host was called since a time.
func (n *network) count(host string, since time.Time) (calls int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, at := range n.calls[host] {
		if !at.Before(since) {
			calls++
		}
	}
	return calls
}

// endedIn stores a batch that has ended, with a callback to a host.
func endedIn(t *testing.T, node *storagetest.Faulty, store, host string) storage.Key {
	t.Helper()
	key := storage.Key{Store: store, Ticket: uuid.New(), Owner: batch.OwnerOf("t")}
	created, err := node.Create(t.Context(), &storage.NewBatch{
		Ticket: key.Ticket, Store: store, Owner: key.Owner, Queue: uuid.NewString(), Callback: "https://" + host + "/" + store,
		Requests: []batch.Request{{Method: "GET", Path: "a"}}, Credential: []byte("x"),
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := node.Claim(t.Context(), created.Queue)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := node.Finish(t.Context(), c, nil, "", true); err != nil {
		t.Fatal(err)
	}
	return key
}

// delivering runs a deliverer over a network in a synctest bubble.
func delivering(t *testing.T, test func(t *testing.T, n *network, node *storagetest.Faulty)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		_, signer := secretFile(t)
		n, node := newNetwork(), openDatabase(t)
		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		d := deliverer(node, signer, &http.Client{Transport: n})
		all.Go(func() { d.Run(ctx) })
		test(t, n, node)
		stop()
		all.Wait()
	})
}

// TestDeadReceivers checks that receivers that never answer don't delay others' callbacks, no matter how many
// there are, and that the number of calls to them is limited.
func TestDeadReceivers(t *testing.T) {
	t.Run("many callbacks to one", func(t *testing.T) {
		delivering(t, func(t *testing.T, n *network, node *storagetest.Faulty) {
			n.hosts["dead"], n.hosts["good"] = dead, answers(204)
			for range 300 {
				endedIn(t, node, "mallory", "dead")
			}
			<-time.After(3 * time.Second)
			began := time.Now()
			endedIn(t, node, "bob", "good")
			endedIn(t, node, "mallory", "good")
			<-time.After(2 * time.Second)
			if n.count("good", began) != 2 {
				t.Errorf("%d of 2 callbacks came within 2 s of the batches' ends", n.count("good", began))
			}
			if n.most["dead"] > perHost {
				t.Errorf("%d concurrent calls to a host, want at most %d", n.most["dead"], perHost)
			}
		})
	})
	t.Run("one store's many", func(t *testing.T) {
		delivering(t, func(t *testing.T, n *network, node *storagetest.Faulty) {
			n.hosts["good"] = answers(204)
			for i := range 300 {
				n.hosts[fmt.Sprintf("dead-%d", i)] = dead
			}
			for i := range 300 {
				endedIn(t, node, "mallory", fmt.Sprintf("dead-%d", i))
			}
			<-time.After(3 * time.Second)
			began := time.Now()
			endedIn(t, node, "bob", "good")
			<-time.After(2 * time.Second)
			if n.count("good", began) != 1 {
				t.Error("another store's callback did not come within 2 s")
			}
			if n.mostStores["mallory"] > perStore {
				t.Errorf("%d concurrent calls for a store, want at most %d", n.mostStores["mallory"], perStore)
			}
		})
	})
}

// TestDeadReceiverIsSuspended checks that a host that does not answer is rarely called, and that it gets all
// its callbacks when it is back.
func TestDeadReceiverIsSuspended(t *testing.T) {
	delivering(t, func(t *testing.T, n *network, node *storagetest.Faulty) {
		var up bool
		n.hosts["receiver"] = func(ctx context.Context) (int, http.Header) {
			n.mu.Lock()
			defer n.mu.Unlock()
			if up {
				return 204, nil
			}
			return 0, nil
		}
		var keys []storage.Key
		for range 100 {
			keys = append(keys, endedIn(t, node, "s", "receiver"))
		}
		began := time.Now()
		<-time.After(time.Hour)
		if calls := n.count("receiver", began); calls > 30 {
			t.Errorf("a host that does not answer was called %d times in an hour", calls)
		}
		n.mu.Lock()
		up = true
		n.mu.Unlock()
		<-time.After(3 * time.Hour)
		for _, key := range keys {
			if got := delivery(t, node, key); got.State != storage.Delivered {
				t.Fatalf("three hours after the host was back: %+v", got)
			}
		}
	})
}

// TestErrorsDontSuspend checks that a host that answers with errors still gets the callbacks of others.
func TestErrorsDontSuspend(t *testing.T) {
	delivering(t, func(t *testing.T, n *network, node *storagetest.Faulty) {
		n.hosts["shared"] = answers(500)
		for range 20 {
			endedIn(t, node, "mallory", "shared")
		}
		<-time.After(2 * time.Second)
		began := time.Now()
		endedIn(t, node, "bob", "shared")
		<-time.After(2 * time.Second)
		if n.count("shared", began) == 0 {
			t.Error("another store's callback did not come within 2 s")
		}
	})
}

// TestOutcomeCantBeStored checks that the number of calls to a receiver is limited even if storage fails to
// store their outcomes.
func TestOutcomeCantBeStored(t *testing.T) {
	delivering(t, func(t *testing.T, n *network, node *storagetest.Faulty) {
		node.SetGate(func(_ context.Context, op string) error {
			if op == "PutDelivery" {
				return errors.New("refused")
			}
			return nil
		})
		n.hosts["good"] = answers(200)
		key := endedIn(t, node, "s", "good")
		<-time.After(24 * time.Hour)
		if calls := n.count("good", time.Time{}); calls != 1+len(pauses) {
			t.Errorf("the receiver was called %d times in a day, want %d", calls, 1+len(pauses))
		}
		node.SetGate(nil)
		<-time.After(2 * lease)
		if d := delivery(t, node, key); d.State != storage.GivenUp || !strings.Contains(d.Problem, "could not be stored") {
			t.Errorf("the delivery ended as %+v", d)
		}
	})
}

// TestReceiverRetryAfter checks that a receiver's Retry-After applies to all callbacks of the store.
func TestReceiverRetryAfter(t *testing.T) {
	delivering(t, func(t *testing.T, n *network, node *storagetest.Faulty) {
		n.hosts["busy"] = func(context.Context) (int, http.Header) {
			return 429, http.Header{"Retry-After": {"60"}}
		}
		endedIn(t, node, "s", "busy")
		<-time.After(2 * time.Second)
		began := time.Now()
		for range 10 {
			endedIn(t, node, "s", "busy")
		}
		endedIn(t, node, "another", "busy")
		<-time.After(50 * time.Second)
		if calls := n.count("busy", began); calls != 1 {
			t.Errorf("called %d times, want once for the other store", calls)
		}
		<-time.After(20 * time.Second)
		if calls := n.count("busy", began); calls < 2 {
			t.Error("not called after the time in Retry-After")
		}
	})
	delivering(t, func(t *testing.T, n *network, node *storagetest.Faulty) {
		n.hosts["far"] = func(context.Context) (int, http.Header) {
			return 503, http.Header{"Retry-After": {"99999999999999999999"}}
		}
		endedIn(t, node, "s", "far")
		<-time.After(longestPause - time.Minute)
		if calls := n.count("far", time.Time{}); calls != 1 {
			t.Errorf("called %d times within the longest pause, want once", calls)
		}
		<-time.After(2 * time.Minute)
		if calls := n.count("far", time.Time{}); calls != 2 {
			t.Errorf("called %d times after the longest pause, want twice", calls)
		}
	})
}

// TestShutdownWaitsForNoReceiver checks that calls in flight are canceled and made again later.
func TestShutdownWaitsForNoReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, signer := secretFile(t)
		n, node := newNetwork(), openDatabase(t)
		n.hosts["dead"] = dead
		key := endedIn(t, node, "s", "dead")
		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		d := deliverer(node, signer, &http.Client{Transport: n})
		all.Go(func() { d.Run(ctx) })
		synctest.Wait()
		began := time.Now()
		stop()
		all.Wait()
		if took := time.Since(began); took > 0 {
			t.Errorf("the shutdown took %v", took)
		}
		if got := delivery(t, node, key); got.State != storage.Pending || got.Attempts != 0 || time.Until(got.NextAt) > 2*time.Second {
			t.Errorf("the delivery is %+v, want pending soon, without an attempt", got)
		}
	})
}

// TestSecretOfAStore checks that the secret of one store doesn't verify callbacks of another store or of the
// operator.
func TestSecretOfAStore(t *testing.T) {
	file, signer := secretFile(t)
	now, body := time.Now(), []byte("{}")
	verifies := func(secret, store string) bool {
		t.Helper()
		w, err := webhooks.NewWebhook(secret)
		if err != nil {
			t.Fatal(err)
		}
		signatures, err := signer.sign(store, "evt_1", now, body)
		if err != nil {
			t.Fatal(err)
		}
		return w.Verify(body, http.Header{
			"Webhook-Id": {"evt_1"}, "Webhook-Timestamp": {fmt.Sprint(now.Unix())}, "Webhook-Signature": {signatures},
		}) == nil
	}
	if err := RotateSecret(file, false); err != nil {
		t.Fatal(err)
	}
	if err := signer.Reload(); err != nil {
		t.Fatal(err)
	}
	secrets := map[string][]string{"": lines(t, file), "1": signer.StoreSecrets("1"), "2": signer.StoreSecrets("2")}
	for of, both := range secrets {
		if len(both) != 2 {
			t.Fatalf("%d secrets during a rotation", len(both))
		}
		for _, secret := range both {
			for store := range secrets {
				if got := verifies(secret, store); got != (store == of) {
					t.Errorf("a secret of store %q verifies what is sent for store %q: %v", of, store, got)
				}
			}
		}
	}
}

// TestOperator checks that batches without a callback URL use the operator's URL, which is not stored, and
// the operator's secret.
func TestOperator(t *testing.T) {
	file, signer := secretFile(t)
	verified := make(chan error, 1)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err == nil {
			var w *webhooks.Webhook
			if w, err = webhooks.NewWebhook(lines(t, file)[0]); err == nil {
				err = w.Verify(body, r.Header)
			}
		}
		verified <- err
	}))
	defer receiver.Close()
	node := openDatabase(t)
	key := ended(t, node, Operator)
	d := deliverer(node, signer, outbound.Receiver(&outbound.Guard{Allow: loopback}, time.Second))
	d.OperatorURL = receiver.URL
	due, _, err := node.DueDeliveries(t.Context(), storage.DueQuery{Limit: 1, Lease: lease})
	if err != nil || len(due) != 1 {
		t.Fatal(due, err)
	}
	d.attempt(t.Context(), &due[0])
	if err := <-verified; err != nil {
		t.Error(err)
	}
	if got := delivery(t, node, key); got.State != storage.Delivered || got.URL != Operator {
		t.Errorf("%+v", got)
	}
}
