package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/sheafapi/sheaf/client"
)

// conclude shows a batch's progress until it has ended, and returns its last status.
func conclude(ctx context.Context, s *screen, c *client.Client, ticket string) (*client.Batch, error) {
	_, err := c.Wait(ctx, ticket, s.progress())
	s.endProgress()
	if err != nil {
		return nil, err
	}
	return c.Get(ctx, ticket, client.GetOptions{})
}

// catalog plays the first act: a batch that continues after failures.
func catalog(ctx context.Context, s *screen, c *client.Client) error {
	batch := catalogBatch()
	s.heading(fmt.Sprintf("1. A batch of %d requests, some of which fail on purpose", len(batch)))
	began := time.Now()
	ticket, err := c.Create(ctx, wire(batch), client.CreateOptions{ContinueOnFailure: true})
	if err != nil {
		return err
	}
	s.say("  Sent in one call. The ticket arrived after %v: %s\n", time.Since(began).Round(time.Millisecond), ticket)

	done, err := conclude(ctx, s, c, ticket)
	if err != nil {
		return err
	}
	s.summary(done, "product-01", "variation-1S", "order-1", "read-mug", "read-paid", "remove-tray")
	if err := asPlanned(batch, done); err != nil {
		return err
	}
	s.say("\n  %s", s.paint(green, "All answers are exactly the store's, in order."))
	return nil
}

// asPlanned compares the answers of a batch with the expected ones.
func asPlanned(batch []request, done *client.Batch) error {
	if done.Status != client.Completed || done.CompletedRequests != len(batch) || len(done.Responses) != len(batch) {
		return fmt.Errorf("the batch of %d requests is %s: %d of them completed, with %d answers", len(batch), done.Status, done.CompletedRequests, len(done.Responses))
	}
	for i, want := range batch {
		got := done.Responses[i]
		if got.ID != want.ID || got.StatusCode != want.want || (got.Status == client.Succeeded) != (want.want < 300) {
			return fmt.Errorf("the answer of request %s should be %d; answer %d belongs to %s: %s, %d %s", want.ID, want.want, i, got.ID, got.Status, got.StatusCode, got.StatusLine)
		}
	}
	return nil
}

// linked plays the second act: requests that need the answer of another request.
func linked(ctx context.Context, s *screen, c *client.Client, secret string) error {
	hook, err := listen(ctx, secret)
	if err != nil {
		return err
	}
	batch := linkedBatch()
	s.heading(fmt.Sprintf("2. A product and its variations in one batch of %d, before the product's ID is known", len(batch)))
	ticket, err := c.Create(ctx, wire(batch), client.CreateOptions{ContinueOnFailure: true, CallbackURL: hook.url})
	if err != nil {
		return err
	}
	s.say("  Each variation says where its product's ID comes from: \"path:id\": \"apron#/id\"")
	done, err := conclude(ctx, s, c, ticket)
	if err != nil {
		return err
	}
	s.summary(done, "apron", "apron-S", "apron-XL", "read-apron")
	if err := asPlanned(batch, done); err != nil {
		return err
	}
	s.say("\n  %s", s.paint(green, "Every variation found its product."))
	body, err := hook.wait(ctx)
	if err != nil {
		return err
	}
	if !strings.Contains(body, ticket) {
		return fmt.Errorf("the callback is about another batch: %s", body)
	}
	s.say("  The callback arrived too, with a valid signature: %s", body)
	return nil
}

// crash plays the third act: the service dies in the middle of a batch of POSTs.
func crash(ctx context.Context, s *screen, c *client.Client, sheaf *service, store string) error {
	batch := crashBatch(40)
	s.heading(fmt.Sprintf("3. A batch of %d POSTs, and kill -9 in the middle of it", len(batch)))
	ticket, err := c.Create(ctx, wire(batch), client.CreateOptions{ContinueOnFailure: true})
	if err != nil {
		return err
	}
	var seen *client.Batch
	show := s.progress()
	halfway, stop := context.WithCancel(ctx)
	defer stop()
	_, err = c.Wait(halfway, ticket, func(now *client.Batch) {
		show(now)
		if seen = now; now.CompletedRequests >= len(batch)*2/5 {
			stop()
		}
	})
	sheaf.kill()
	s.endProgress()
	switch {
	case err == nil || seen != nil && seen.Status == client.Completed:
		return errors.New("the third batch ended before the service could be killed")
	case !errors.Is(err, context.Canceled) || ctx.Err() != nil:
		return err
	}
	s.say("  %s at %d of %d. Restarting the service with the same database file …", s.paint(red, "kill -9"), seen.CompletedRequests, seen.TotalRequests)
	if err := sheaf.start(ctx); err != nil {
		return err
	}
	done, err := conclude(ctx, s, c, ticket)
	if err != nil {
		return err
	}
	s.summary(done)
	return reconcile(ctx, s, batch, done, store)
}

// reconcile compares the service's results for a batch of POSTs with what arrived at the store.
func reconcile(ctx context.Context, s *screen, batch []request, done *client.Batch, store string) error {
	arrived, err := ledger(ctx, store)
	if err != nil {
		return err
	}
	if done.CompletedRequests != len(batch) || len(done.Responses) != len(batch) {
		return fmt.Errorf("the batch of %d requests ended: %d of them completed, with %d answers", len(batch), done.CompletedRequests, len(done.Responses))
	}
	posts := 0
	var inDoubt []client.Response
	for _, r := range done.Responses {
		posts += arrived[r.ID]
		switch {
		case arrived[r.ID] > 1:
			return fmt.Errorf("%s arrived at the store %d times", r.ID, arrived[r.ID])
		case r.Status == client.Failed && r.StatusCode == http.StatusBadGateway:
			inDoubt = append(inDoubt, r)
		case r.Status != client.Succeeded || r.StatusCode != http.StatusCreated || arrived[r.ID] == 0:
			return fmt.Errorf("%s is %s (%d %s) and arrived at the store %d times", r.ID, r.Status, r.StatusCode, r.StatusLine, arrived[r.ID])
		}
	}
	if len(inDoubt) > 1 {
		return fmt.Errorf("%d requests are in doubt, although only one can have been in flight", len(inDoubt))
	}
	s.say("\n  %s", s.paint(green, fmt.Sprintf("The store's ledger: %d POSTs arrived, none of them twice.", posts)))
	for _, r := range inDoubt {
		s.say("  %s was in flight when the service died. The service couldn't know whether it had\n"+
			"  taken effect, so it did not send it again, and its status says so. (The ledger shows\n"+
			"  that it %s.)", r.ID, [...]string{"did not arrive", "arrived once"}[arrived[r.ID]])
	}
	return nil
}
