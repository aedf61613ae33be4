package webhook

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/sqlite"
	"github.com/sheafapi/sheaf/internal/storage/storagetest"
	webhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}

// secretFile creates a file of secrets and returns its name and a signer.
func secretFile(t *testing.T) (string, *Signer) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	if err := CreateSecret(file); err != nil {
		t.Fatal(err)
	}
	s, err := ReadSecrets(file)
	if err != nil {
		t.Fatal(err)
	}
	return file, s
}

func lines(t *testing.T, file string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(text))
}

// openDatabase opens a new SQLite database whose calls can be made to fail.
func openDatabase(t *testing.T) *storagetest.Faulty {
	t.Helper()
	db, err := sqlite.Open(context.Background(), filepath.Join(t.TempDir(), "sheaf.db"), sqlite.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return storagetest.NewFaulty(db)
}

// deliverer returns a deliverer that may call receivers on this machine.
func deliverer(s Storage, signer *Signer, client *http.Client) *Deliverer {
	return &Deliverer{Storage: s, Client: client, Signer: signer, UserAgent: "sheaf/test", Logger: slog.New(slog.DiscardHandler)}
}

// ended stores a batch that has ended, with a callback to the URL.
func ended(t *testing.T, node *storagetest.Faulty, address string) storage.Key {
	t.Helper()
	key := storage.Key{Store: "12345", Ticket: uuid.New(), Owner: batch.OwnerOf("t")}
	ctx := context.Background()
	created, err := node.Create(ctx, &storage.NewBatch{
		Ticket: key.Ticket, Store: key.Store, Owner: key.Owner, Queue: "q" + key.Ticket.String(), GroupID: "g", Callback: address,
		Requests: []batch.Request{{Method: "GET", Path: "a"}, {Method: "GET", Path: "b"}, {Method: "GET", Path: "c"}}, Credential: []byte("x"),
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := node.Claim(ctx, created.Queue)
	if err != nil {
		t.Fatal(err)
	}
	marks := []storage.Mark{
		{Index: 0, State: storage.Done, Result: batch.Result{Status: batch.Succeeded, Code: 200}},
		{Index: 1, State: storage.Done, Tries: storage.Tries{InDoubt: true}, Result: batch.Result{Status: batch.Failed, Code: 504}},
	}
	if _, err := node.Finish(ctx, c, marks, "", true); err != nil {
		t.Fatal(err)
	}
	return key
}

func delivery(t *testing.T, node *storagetest.Faulty, key storage.Key) storage.Delivery {
	t.Helper()
	d, err := node.Deliveries(context.Background(), storage.DeliverySearch{Store: key.Store, Owner: key.Owner, Ticket: key.Ticket, Limit: 1})
	if err != nil || len(d) != 1 {
		t.Fatalf("deliveries: %v, %v", d, err)
	}
	return d[0]
}

// TestDelivery checks the body of a callback, and that it verifies with either secret.
func TestDelivery(t *testing.T) {
	file, _ := secretFile(t)
	if err := RotateSecret(file, false); err != nil {
		t.Fatal(err)
	}
	signer, err := ReadSecrets(file)
	if err != nil {
		t.Fatal(err)
	}
	type got struct {
		body   string
		header http.Header
	}
	calls := make(chan got, 10)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		calls <- got{string(body), r.Header}
	}))
	defer receiver.Close()
	node := openDatabase(t)
	key := ended(t, node, receiver.URL+"/hooks?x=1")
	d := deliverer(node, signer, outbound.Receiver(&outbound.Guard{Allow: loopback}, time.Second))
	answered := make(chan struct{}, 10)
	d.Observe = func(*storage.Delivery) { answered <- struct{}{} }
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { d.Run(ctx) })
	call := <-calls
	for _, secret := range signer.StoreSecrets(key.Store) {
		w, err := webhooks.NewWebhook(secret)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Verify([]byte(call.body), call.header); err != nil {
			t.Errorf("with a secret: %v", err)
		}
		if err := w.Verify([]byte(call.body+" "), call.header); err == nil {
			t.Error("a changed body verifies")
		}
	}
	want := `"data":{"ticket":"` + key.Ticket.String() + `","storeId":"12345","status":"COMPLETED","groupId":"g","totalRequests":3,"completedRequests":2,"failedRequests":1,"inDoubtRequests":1,"notExecutedRequests":1}}`
	if !strings.HasPrefix(call.body, `{"type":"batch.completed","timestamp":"20`) || !strings.HasSuffix(call.body, want) {
		t.Errorf("body %s, want … %s", call.body, want)
	}
	if id := call.header.Get("webhook-id"); id != ID(key.Ticket) || call.header.Get("Authorization") != "" || call.header.Get("Content-Type") != "application/json" {
		t.Errorf("headers %v", call.header)
	}
	if err := node.Redeliver(ctx, key); err != nil {
		t.Fatal(err)
	}
	if again := <-calls; again.body != call.body || again.header.Get("webhook-id") != call.header.Get("webhook-id") {
		t.Errorf("sent again: %+v, before %+v", again, call)
	}
	<-answered
	<-answered
	stop()
	all.Wait()
	if got := delivery(t, node, key); got.State != storage.Delivered || got.Code != 200 || got.Problem != "" {
		t.Errorf("%+v", got)
	}
}

// TestBadReceivers checks that an attempt ends soon, takes little memory, doesn't call another host, and
// reports what was wrong, whatever the receiver does.
func TestBadReceivers(t *testing.T) {
	_, signer := secretFile(t)
	hanging := make(chan struct{})
	var elsewhere atomic.Int64
	private := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer private.Close()
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead.Close()
	for name, tt := range map[string]struct {
		handler http.HandlerFunc
		address string // called instead of the handler
		allow   []netip.Prefix
		code    int
		problem string
		state   storage.DeliveryState
	}{
		"slow":   {handler: func(http.ResponseWriter, *http.Request) { <-hanging }, allow: loopback, problem: "no answer in time", state: storage.Pending},
		"dead":   {address: "http://" + dead.Addr().String(), allow: loopback, problem: "connection refused", state: storage.Pending},
		"broken": {handler: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, allow: loopback, problem: "connection closed", state: storage.Pending},
		"busy":   {handler: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, allow: loopback, code: 503, problem: "the receiver answered 503", state: storage.Pending},
		"gone":   {handler: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(410) }, allow: loopback, code: 410, problem: "the receiver answered 410", state: storage.GivenUp},
		"endless": {handler: func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}, allow: loopback, code: 200, state: storage.Delivered},
		"endless header": {handler: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X", strings.Repeat("x", 1<<20))
		}, allow: loopback, problem: "the connection broke", state: storage.Pending},
		"redirects to a private address": {handler: func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, private.URL, http.StatusTemporaryRedirect)
		}, allow: loopback, code: 307, problem: "the receiver answered 307", state: storage.Pending},
		"private":                     {address: private.URL, problem: "its address is not public, and not allowed", state: storage.Pending},
		"a name of a private address": {address: strings.Replace(private.URL, "127.0.0.1", "localhost", 1), problem: "its address is not public, and not allowed", state: storage.Pending},
	} {
		t.Run(name, func(t *testing.T) {
			address := tt.address
			if tt.handler != nil {
				s := httptest.NewUnstartedServer(tt.handler)
				s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
				s.Start()
				defer s.Close()
				defer s.CloseClientConnections()
				address = s.URL
			}
			node := openDatabase(t)
			key := ended(t, node, address)
			d := deliverer(node, signer, outbound.Receiver(&outbound.Guard{Allow: tt.allow}, 300*time.Millisecond))
			defer d.Client.CloseIdleConnections()
			due, _, err := node.DueDeliveries(t.Context(), storage.DueQuery{Limit: 1, Lease: time.Hour})
			if err != nil || len(due) != 1 {
				t.Fatal(due, err)
			}
			d.attempt(t.Context(), &due[0])
			if got := delivery(t, node, key); got.State != tt.state || got.Code != tt.code || got.Problem != tt.problem {
				t.Errorf("got %d, %d, %q; want %d, %d, %q", got.State, got.Code, got.Problem, tt.state, tt.code, tt.problem)
			}
			if name == "slow" {
				close(hanging)
			}
		})
	}
	if n := elsewhere.Load(); n != 0 {
		t.Errorf("%d calls went to a host that must not be called", n)
	}
}

// caller is the transport of an http.Client. Its receiver is a function.
type caller func() int

func (c caller) RoundTrip(r *http.Request) (*http.Response, error) {
	code := c()
	if code == 0 {
		return nil, errors.New("down")
	}
	return &http.Response{StatusCode: code, Body: http.NoBody, Request: r}, nil
}

// TestBackAfterAnHour checks that a receiver that was down gets its callback when it is back, that the node
// gives up after a day otherwise, and that another attempt follows if the node dies.
func TestBackAfterAnHour(t *testing.T) {
	run := func(t *testing.T, receiver caller, span time.Duration) storage.Delivery {
		_, signer := secretFile(t)
		node := openDatabase(t)
		key := ended(t, node, "https://example.com")
		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		d := deliverer(node, signer, &http.Client{Transport: receiver})
		all.Go(func() { d.Run(ctx) })
		<-time.After(span)
		stop()
		all.Wait()
		return delivery(t, node, key)
	}
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var at time.Duration
		got := run(t, func() int {
			if at = time.Since(began); at < time.Hour {
				return 0
			}
			return 204
		}, 3*time.Hour)
		if got.State != storage.Delivered || at > 3*time.Hour || got.Attempts > 8 {
			t.Errorf("%+v, after %v", got, at)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		var last time.Time
		began := time.Now()
		got := run(t, func() int { last = time.Now(); return 500 }, 32*time.Hour)
		if got.State != storage.GivenUp || got.Attempts != len(pauses)+1 || last.Sub(began) < 24*time.Hour || last.Sub(began) > 31*time.Hour {
			t.Errorf("%+v, tried for %v", got, last.Sub(began))
		}
	})
	synctest.Test(t, func(t *testing.T) {
		_, signer := secretFile(t)
		node := openDatabase(t)
		key := ended(t, node, "https://example.com")
		if d, _, err := node.DueDeliveries(t.Context(), storage.DueQuery{Limit: 1, Lease: lease}); err != nil || len(d) != 1 {
			t.Fatal(d, err) // the node dies after this
		}
		ctx, stop := context.WithCancel(t.Context())
		var all sync.WaitGroup
		d := deliverer(node, signer, &http.Client{Transport: caller(func() int { return 200 })})
		all.Go(func() { d.Run(ctx) })
		<-time.After(lease + 2*time.Second)
		stop()
		all.Wait()
		if got := delivery(t, node, key); got.State != storage.Delivered || got.Attempts != 2 {
			t.Errorf("%+v", got)
		}
	})
}

func TestCheckURL(t *testing.T) {
	for text, want := range map[string]string{
		"https://example.com/hooks?x=1": "", "https://example.com:8443": "", "http://127.0.0.1:9000/x": "", "https://EXAMPLE.com": "",
		"http://example.com": "https://", "http://10.0.0.1": "https://", "http://localhost": "https://", "ftp://example.com": "https://",
		"example.com": "a URL such as", "https://": "a URL such as", "https:example.com": "a URL such as", "": "a URL such as",
		"https://user:secret@example.com": "user name", "https://example.com/#x": "a URL such as", "https://example.com/\n": "a URL such as",
		"https://example.org": "operator allows", "https://example.com.evil.org": "operator allows",
		"https://example.com/" + strings.Repeat("x", maxURL): "at most",
	} {
		err := CheckURL(text, []string{"example.com", "127.0.0.1"}, loopback)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the error reveals the password", text)
		}
	}
	if CheckURL("http://127.0.0.1", nil, nil) == nil {
		t.Error("http to this machine is accepted although it isn't allowed")
	}
}

func TestSecrets(t *testing.T) {
	file, _ := secretFile(t)
	first := lines(t, file)
	if err := CreateSecret(file); err == nil {
		t.Error("an existing secret was replaced")
	}
	if err := RotateSecret(file, true); err == nil {
		t.Error("the only secret was removed")
	}
	if err := RotateSecret(file, false); err != nil {
		t.Fatal(err)
	}
	both := lines(t, file)
	if len(both) != 2 || both[1] != first[0] || both[0] == first[0] {
		t.Errorf("%d secrets after a rotation", len(both))
	}
	if err := RotateSecret(file, false); err == nil {
		t.Error("a rotation began during another")
	}
	signer, err := ReadSecrets(file)
	if err != nil {
		t.Fatal(err)
	}
	signatures := func() int {
		t.Helper()
		text, err := signer.sign("42", "evt_1", time.Now(), []byte("{}"))
		if err != nil {
			t.Fatal(err)
		}
		return len(strings.Fields(text))
	}
	if n := signatures(); n != 2 {
		t.Errorf("%d signatures with two secrets", n)
	}
	if err := RotateSecret(file, true); err != nil {
		t.Fatal(err)
	}
	if err := signer.Reload(); err != nil || signatures() != 1 {
		t.Errorf("after a reload: %v, %d signatures", err, signatures())
	}
	if now := lines(t, file); len(now) != 1 || now[0] != both[0] {
		t.Errorf("%d secrets at the end", len(now))
	}
	for name, text := range map[string]string{"empty": "", "short": "whsec_AAAA", "no base64": "whsec_!", "no prefix": "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo=", "three": strings.Repeat(NewSecret()+"\n", 3)} {
		bad := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(bad, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadSecrets(bad); err == nil || strings.Contains(err.Error(), "QUJDR") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadSecrets(file); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file that others can read: %v", err)
	}
	if err := signer.Reload(); err == nil || signatures() != 1 {
		t.Errorf("a reload of a file that can't be used: %v, %d signatures", err, signatures())
	}
}
