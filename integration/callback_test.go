package integration

import (
	"io"
	"net"
	"net/http"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestCallbackSurvivesKill9: the callback arrives even if the process dies between the end of the
// batch and the receiver's answer.
func TestCallbackSurvivesKill9(t *testing.T) { onEach(t, callbackSurvivesKill9) }

func callbackSurvivesKill9(t *testing.T, database string) {
	t.Parallel()
	ctx := t.Context()
	ledger := newLedger(t, func(Arrival) Reply { return Reply{} })
	secret := filepath.Join(t.TempDir(), "hooks.secret")
	if out, err := exec.Command(binary, "webhooks", "new-secret", secret).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	address := freeAddress(t) // nobody listens there yet
	s := start(t, ledger.URL, database, "--webhook-secret-file", secret, "--webhook-allow", "127.0.0.0/8")
	c := caller(s.base)
	query := url.Values{"callbackUrl": {"http://" + address + "/hooks"}}
	ticket, err := c.create(ctx, "1", query, posts(2))
	if err != nil {
		t.Fatal(err)
	}
	// The first attempt has failed or will fail. In both cases the next process tries again.
	if _, err := c.awaitEnd(ctx, "1", ticket); err != nil {
		t.Fatal(err)
	}
	type list struct {
		Items []struct {
			Status   string
			Attempts int
		}
	}
	deliveries := func() (l list) {
		if err := c.call(ctx, http.MethodGet, "1/batch/webhooks", url.Values{"ticket": {ticket}}, nil, &l); err != nil {
			t.Fatal(err)
		}
		if len(l.Items) != 1 {
			t.Fatalf("deliveries: %+v", l)
		}
		return l
	}
	until := func(what string, ok func(l list) bool) {
		t.Helper()
		for !ok(deliveries()) {
			if !pause(ctx) {
				t.Fatalf("the delivery was never %s", what)
			}
		}
	}
	until("tried", func(l list) bool { return l.Items[0].Attempts > 0 })
	s.kill9(t)

	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	bodies := make(chan string, 10)
	receiver := &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		bodies <- string(body)
	})}
	go func() { _ = receiver.Serve(listener) }()
	defer receiver.Close()
	s.restart(t)
	select {
	case body := <-bodies:
		if !strings.Contains(body, ticket) {
			t.Errorf("the callback doesn't name the ticket: %s", body)
		}
	case <-time.After(2 * time.Minute): // an attempt that died with its process is repeated after a minute
		t.Fatal("the callback did not arrive")
	}
	until("delivered", func(l list) bool { return l.Items[0].Status == "DELIVERED" })
}
