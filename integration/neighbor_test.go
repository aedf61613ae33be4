package integration

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	victimStore   = "victim"
	attackerStore = "attacker"
	// attackerAddress is where the attacker connects from. The victim uses 127.0.0.1.
	attackerAddress = "127.0.0.2"

	victimRequests = 10                    // in each of the victim's batches, one after the other
	victimLatency  = 20 * time.Millisecond // of the API, for each of them
	largeAnswer    = 5 << 20               // bytes; the default limit of an answer
)

// slowdown limits the ratio of the victim's p99 under attack to its p99 alone.
const slowdown = 3

// TestNeighbor lets one tenant attack each resource that all tenants share, and measures how
// long another tenant's batches take, from the create to the last answer. Every batch of the
// victim must complete, and no node may lose its lease. With -faults, as in make chaos, the
// victim's p99 must also stay within three times its value alone. Without -faults, that isn't
// checked, because a few batches on a busy machine prove nothing.
func TestNeighbor(t *testing.T) {
	for _, a := range attacks {
		t.Run(a.resource, func(t *testing.T) {
			onEach(t, func(t *testing.T, database string) { measureAttack(t, a, database) })
		})
	}
}

// attack is what a tenant does to use up one resource.
type attack struct {
	resource string
	args     []string                               // of the service
	prepare  func(t *testing.T, a *attacker)        // before the attack; nil: nothing
	run      func(ctx context.Context, a *attacker) // until ctx ends
	callback bool                                   // the victim waits for its callback too
}

// attacker is the tenant that attacks.
type attacker struct {
	base   string // of the service
	client *http.Client
	dead   string // an address that accepts connections and never answers
	large  string // the ticket of a finished batch with large answers, see prepareLarge
}

// neighborhood is a service with a victim and an attacker.
type neighborhood struct {
	t        *testing.T
	service  *service
	victim   client
	callback *callbackSink // nil: the victim doesn't wait for callbacks
}

// measureAttack measures the victim alone and under an attack.
func measureAttack(t *testing.T, a attack, database string) {
	n, enemy := newNeighborhood(t, a, database)
	batches := 2
	if *faults > 0 {
		batches = max(10, *faults)
	}
	if a.prepare != nil {
		a.prepare(t, enemy)
	}
	alone := n.measure(batches)

	end := enemy.attack(t, a)
	attacked := n.measure(batches)
	end()

	if log := n.service.logText(); strings.Contains(log, "considered dead") {
		t.Error("the node lost its lease")
	}
	base, worst := p99(alone), p99(attacked)
	ratio := float64(worst) / float64(base)
	t.Logf("%s: the victim's p99 is %v alone and %v under attack: %.1f times", a.resource, base.Round(time.Millisecond), worst.Round(time.Millisecond), ratio)
	if *faults > 0 {
		neighborRows = append(neighborRows, neighborRow{t.Name(), base, worst})
		if ratio > slowdown {
			t.Errorf("the victim's p99 is %.1f times its value alone; the promise is %d", ratio, slowdown)
		}
	}
}

func newNeighborhood(t *testing.T, a attack, database string) (*neighborhood, *attacker) {
	t.Helper()
	api := newNeighborAPI(t)
	args := slices.Clone(a.args)
	n := &neighborhood{t: t}
	if a.callback {
		secret := filepath.Join(t.TempDir(), "webhook-secret")
		if out, err := exec.Command(binary, "webhooks", "new-secret", secret).CombinedOutput(); err != nil {
			t.Fatalf("sheaf webhooks new-secret: %v\n%s", err, out)
		}
		args = append(args, "--webhook-secret-file", secret, "--webhook-allow", "127.0.0.0/8")
		n.callback = newCallbackSink(t)
	}
	n.service = start(t, api+"/{storeId}", database, args...)
	n.victim = caller(n.service.base)
	enemy := newAttacker(n.service.base, deadReceiver(t))
	t.Cleanup(enemy.client.CloseIdleConnections)
	return n, enemy
}

// measure runs the victim's batches, one after the other, and returns how long each took.
func (n *neighborhood) measure(batches int) []time.Duration {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), time.Duration(batches)*patience)
	defer cancel()
	var took []time.Duration
	for range batches {
		began := time.Now()
		query := url.Values{}
		if n.callback != nil {
			query.Set("callbackUrl", n.callback.url)
		}
		ticket, err := n.victim.create(ctx, victimStore, query, posts(victimRequests))
		if err != nil {
			n.t.Fatalf("the victim's batch is refused: %v", err)
		}
		s, err := n.victim.awaitEnd(ctx, victimStore, ticket)
		if err != nil {
			n.t.Fatal(err)
		}
		for i, r := range s.Responses {
			if r.Code != http.StatusOK {
				n.t.Fatalf("request %d of the victim's batch: %d %s", i, r.Code, r.Line)
			}
		}
		if n.callback != nil {
			if err := n.callback.wait(ctx, ticket); err != nil {
				n.t.Fatal(err)
			}
		}
		took = append(took, time.Since(began))
	}
	return took
}

func newAttacker(base, dead string) *attacker {
	return &attacker{base: base, dead: dead, client: &http.Client{Transport: &http.Transport{
		DialContext: (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(attackerAddress)}}).DialContext, MaxIdleConnsPerHost: 1024,
	}}}
}

// The environment variables of an attacking process: the resource, and the fields of attacker.
const (
	attackEnv       = "SHEAF_TEST_ATTACK"
	attackBaseEnv   = "SHEAF_TEST_ATTACK_BASE"
	attackDeadEnv   = "SHEAF_TEST_ATTACK_DEAD"
	attackTicketEnv = "SHEAF_TEST_ATTACK_TICKET"
)

// attack attacks in a separate process until end is called. In this process, its goroutines would
// also delay the victim's client and the API, which in production run on other machines.
func (a *attacker) attack(t *testing.T, with attack) (end func()) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self)
	c.Env = append(os.Environ(), attackEnv+"="+with.resource, attackBaseEnv+"="+a.base, attackDeadEnv+"="+a.dead, attackTicketEnv+"="+a.large)
	c.Stderr = os.Stderr
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	end = sync.OnceFunc(func() {
		stdin.Close()
		if err := c.Wait(); err != nil {
			t.Errorf("the attacking process: %v", err)
		}
	})
	t.Cleanup(end)
	return end
}

// attackUntilEOF is the main function of an attacking process. It returns the exit code.
func attackUntilEOF() int {
	i := slices.IndexFunc(attacks, func(a attack) bool { return a.resource == os.Getenv(attackEnv) })
	if i < 0 {
		fmt.Fprintf(os.Stderr, "unknown attack %q\n", os.Getenv(attackEnv))
		return 2
	}
	ctx, end := context.WithCancel(context.Background())
	go func() {
		defer end()
		_, _ = io.Copy(io.Discard, os.Stdin)
	}()
	a := newAttacker(os.Getenv(attackBaseEnv), os.Getenv(attackDeadEnv))
	a.large = os.Getenv(attackTicketEnv)
	attacks[i].run(ctx, a)
	return 0
}

// p99 returns the 99th percentile.
func p99(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[(len(sorted)*99+99)/100-1]
}

// neighborRow is a line of the table that make chaos prints.
type neighborRow struct {
	test            string
	alone, attacked time.Duration
}

var neighborRows []neighborRow

// printNeighbors prints the table of docs/reliability.md#noisy-neighbors.
func printNeighbors(w io.Writer) {
	fmt.Fprint(w, "\n| resource | database | victim's p99 alone | under attack | ratio |\n|", strings.Repeat("---|", 5), "\n")
	for _, r := range neighborRows {
		parts := strings.Split(r.test, "/")
		fmt.Fprintf(w, "| %s | %s | %s | %s | %.1f |\n", parts[1], parts[2], seconds(r.alone), seconds(r.attacked), float64(r.attacked)/float64(r.alone))
	}
}

// newNeighborAPI starts the API behind the service and returns its address. A path that ends
// in /large is answered with the largest body that the service accepts.
func newNeighborAPI(t *testing.T) string {
	t.Helper()
	listener, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	large := append(append([]byte{'"'}, bytes.Repeat([]byte("x"), largeAnswer-2)...), '"')
	server := &httptest.Server{Listener: listener, Config: &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		select {
		case <-time.After(victimLatency):
		case <-r.Context().Done():
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if strings.HasSuffix(r.URL.Path, "/large") {
			_, _ = w.Write(large)
			return
		}
		_, _ = io.WriteString(w, `{"id":1}`)
	})}}
	server.Start()
	t.Cleanup(server.Close)
	return server.URL
}

// deadReceiver returns an address that accepts connections and never answers.
func deadReceiver(t *testing.T) string {
	t.Helper()
	listener, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
		}
	}()
	return listener.Addr().String()
}

// callbackSink receives the victim's callbacks.
type callbackSink struct {
	url string

	mu       sync.Mutex
	bodies   []string
	received chan struct{} // closed and replaced at each callback
}

func newCallbackSink(t *testing.T) *callbackSink {
	t.Helper()
	s := &callbackSink{received: make(chan struct{})}
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.bodies = append(s.bodies, string(body))
		close(s.received)
		s.received = make(chan struct{})
	}))
	t.Cleanup(server.Close)
	s.url = server.URL + "/hook"
	return s
}

// wait waits until the callback of a batch has arrived.
func (s *callbackSink) wait(ctx context.Context, ticket string) error {
	for {
		s.mu.Lock()
		came, next := slices.ContainsFunc(s.bodies, func(b string) bool { return strings.Contains(b, ticket) }), s.received
		s.mu.Unlock()
		if came {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return fmt.Errorf("the callback of %s did not arrive: %w", ticket, cmp.Or(context.Cause(ctx), ctx.Err()))
		}
	}
}
