package integration

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestClockIsSet changes the clock of a running service by an hour, and starts the service again
// with a clock that is an hour off. The waits before the next call to the upstream or to a receiver
// keep their length, and a deduplication key still finds its batch.
func TestClockIsSet(t *testing.T) {
	clockBinary := newClockBinary(t)
	for _, step := range []time.Duration{time.Hour, -time.Hour} {
		t.Run(fmt.Sprint("by ", step), func(t *testing.T) {
			onEach(t, func(t *testing.T, database string) { clockIsSet(t, clockBinary, database, step) })
		})
	}
}

func clockIsSet(t *testing.T, clockBinary, database string, step time.Duration) {
	t.Parallel()
	ctx := t.Context()
	ledger := newLedger(t, func(a Arrival) Reply {
		if a.Nth == 1 && strings.Contains(a.Path, "throttled") {
			return Reply{Status: http.StatusTooManyRequests, RetryAfter: "3"}
		}
		return Reply{}
	})
	answered := make(chan int, 100)
	calls := 0
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if calls++; calls == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		answered <- calls
	}))
	t.Cleanup(receiver.Close)
	secret := filepath.Join(t.TempDir(), "hooks.secret")
	command(t, "webhooks", "new-secret", secret)

	clock := newClockFile(t, 0)
	address := freeAddress(t)
	args := append(serveArgs(address, ledger.URL, database), "--secret-key-file", newKeyFile(t),
		"--rate", "600/m", "--webhook-secret-file", secret, "--webhook-allow", "127.0.0.0/8")
	launch := func() *service {
		s := launchBinary(t, clockBinary, clock.environ(), args...)
		s.base = "http://" + address
		s.waitReady(t)
		return s
	}
	s := launch()
	c := caller(s.base)
	c.token = "shared"
	create := func(store, key, path string, more url.Values) (ticket string) {
		t.Helper()
		query := url.Values{"deduplicationKey": {key}}
		for name, values := range more {
			query[name] = values
		}
		ticket, err := c.create(ctx, store, query, []request{{Method: "GET", Path: path}})
		if err != nil {
			t.Fatal(err)
		}
		return ticket
	}
	ends := func(store, ticket string) {
		t.Helper()
		if _, err := c.awaitEnd(ctx, store, ticket); err != nil {
			t.Fatal(err)
		}
	}

	// The clock changes while the service runs and a request waits after a 429.
	arrives := ledger.After(1)
	key := newKey()
	ticket := create("1", key, "throttled/1", url.Values{"callbackUrl": {receiver.URL}})
	<-arrives
	clock.set(t, step)
	if again := create("1", key, "throttled/1", nil); again != ticket {
		t.Errorf("after the clock change, the key led to %s, want %s", again, ticket)
	}
	ends("1", ticket)
	ends("2", create("2", newKey(), "free", nil))
	for got := 0; got < 2; {
		select {
		case got = <-answered:
		case <-time.After(patience):
			t.Fatal("the receiver was not called again after it answered 503")
		}
		clock.set(t, 0)
	}

	// The service restarts with the right clock after it ran with a wrong one.
	clock.set(t, step)
	arrives = ledger.After(1)
	key = newKey()
	ticket = create("3", key, "throttled/2", nil)
	<-arrives
	s.kill9(t)
	clock.set(t, 0)
	launch()
	if step > 0 || isPostgres(database) { // a SQLite file doesn't show that the clock was behind
		if again := create("3", key, "throttled/2", nil); again != ticket {
			t.Errorf("after the restart, the key led to %s, want %s", again, ticket)
		}
	}
	ends("4", create("4", newKey(), "free", nil))
}
