package sheaf_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sheafapi/sheaf"
	"github.com/sheafapi/sheaf/internal/auth"
	"github.com/sheafapi/sheaf/internal/secret"
	"github.com/sheafapi/sheaf/internal/strictupstream"
)

// checkingService is a service that checks tokens with an API. The API admits a token to the store
// that the token names.
type checkingService struct {
	t       *testing.T
	address string
	asked   atomic.Int64
	broken  atomic.Bool
}

func newCheckingService(t *testing.T, change ...func(*sheaf.Options)) *checkingService {
	c := &checkingService{t: t}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{store}/me", func(w http.ResponseWriter, r *http.Request) {
		c.asked.Add(1)
		store, _, _ := strings.Cut(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), ".")
		switch {
		case c.broken.Load():
			w.WriteHeader(http.StatusBadGateway)
		case r.Header["Idempotency-Key"] != nil:
			t.Error("a check carries an Idempotency-Key")
		case store == "nobody":
			w.WriteHeader(http.StatusUnauthorized)
		case store != r.PathValue("store"):
			w.WriteHeader(http.StatusForbidden)
		}
	})
	up, _ := strictupstream.Start(t, mux)
	t.Cleanup(up.Close)
	c.address = forwarding(t, echo, append(change, func(o *sheaf.Options) { o.Auth.CheckURL = up.URL + "/{storeId}/me" })...)
	return c
}

func (c *checkingService) ask(method, store, token, query, body string, header ...string) (int, http.Header, string) {
	c.t.Helper()
	r, err := http.NewRequest(method, "http://"+c.address+"/api/v3/"+store+"/batch"+query, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

func (c *checkingService) create(store, token, query string) string {
	c.t.Helper()
	code, _, text := c.ask("POST", store, token, query, `[{"method":"GET","path":"a"}]`)
	var created struct{ Ticket string }
	if err := json.Unmarshal([]byte(text), &created); err != nil || code != http.StatusOK {
		c.t.Fatalf("create: %d %s", code, text)
	}
	return created.Ticket
}

// Callers that the API admits to a store share the store's batches, and nobody else sees them.
func TestAuthCheck(t *testing.T) {
	c := newCheckingService(t)
	const key = "?deduplicationKey=123e4567-e89b-42d3-a456-426614174000"
	ticket := c.create("a", "a.one", key)
	if again := c.create("a", "a.two", key); again != ticket {
		t.Error("two callers of one store have different owners")
	}
	if other := c.create("b", "b.one", key); other == ticket {
		t.Error("two stores share a batch")
	}
	for _, v := range []struct {
		store, token string
		code         int
		says         string
	}{
		{"a", "a.one", 200, "totalRequests"},
		{"a", "a.two", 200, "totalRequests"},
		{"b", "b.one", 404, "BATCH_NOT_FOUND"},
		{"a", "b.one", 403, "INVALID_API_TOKEN"},
		{"a", "nobody", 401, "REFUSED_API_TOKEN"},
	} {
		code, header, text := c.ask("GET", v.store, v.token, "?ticket="+ticket, "")
		if code != v.code || !strings.Contains(text, v.says) {
			t.Errorf("%s at %s: %d %s", v.token, v.store, code, text)
		}
		if code == 401 && !strings.Contains(header.Get("WWW-Authenticate"), "Bearer") {
			t.Errorf("401 without WWW-Authenticate: %v", header)
		}
	}
	if n := c.asked.Load(); n != 5 {
		t.Errorf("the API was asked %d times about 5 pairs of token and store", n)
	}
}

// Nothing is stored for callers that are not admitted, or while the API can't be reached.
func TestAuthCheckStoresNothing(t *testing.T) {
	c := newCheckingService(t)
	for _, broken := range []bool{false, true} {
		c.broken.Store(broken)
		want := map[bool]int{false: 403, true: 503}[broken]
		code, header, text := c.ask("POST", "a", map[bool]string{false: "b.x", true: "a.new"}[broken], "", `[{"method":"GET","path":"a"}]`)
		if code != want || broken && header.Get("Retry-After") == "" {
			t.Errorf("broken %v: %d %s", broken, code, text)
		}
	}
	c.broken.Store(false)
	for _, status := range []string{"QUEUED", "IN_PROGRESS", "COMPLETED"} {
		if code, _, text := c.ask("GET", "a", "a.one", "?status="+status, ""); code != 200 || strings.Contains(text, "ticket") {
			t.Errorf("%s: %d %s", status, code, text)
		}
	}
}

// When tokens are guessed through a trusted proxy, only the address that the proxy reports is
// slowed down.
func TestAuthGuessing(t *testing.T) {
	c := newCheckingService(t, func(o *sheaf.Options) { o.Auth.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")} })
	guess := func(from, token string) (int, string) {
		code, header, _ := c.ask("GET", "a", token, "?status=QUEUED", "", "X-Forwarded-For", from)
		return code, header.Get("Retry-After")
	}
	for i := range 20 {
		if code, _ := guess("198.51.100.7", "b.x"); code != 403 {
			t.Fatalf("guess %d: %d", i, code)
		}
	}
	for _, token := range []string{"b.x", "a.one"} {
		if code, after := guess("198.51.100.7", token); code != 429 || after == "" || after == "0" {
			t.Errorf("%s: %d, Retry-After %q", token, code, after)
		}
	}
	if code, _ := guess("198.51.100.8", "a.one"); code != 200 {
		t.Errorf("another address: %d", code)
	}
}

func TestAuthCheckRefused(t *testing.T) {
	_, err := sheaf.New(sheaf.Options{
		Upstream: sheaf.Upstream{URL: "http://127.0.0.1:9/{storeId}"},
		Auth:     sheaf.Auth{CheckURL: "ftp://host"},
		Logger:   slog.New(slog.DiscardHandler),
		Database: sheaf.Database{URL: "sqlite:" + filepath.Join(t.TempDir(), "sheaf.db")},
	})
	if err == nil || !strings.Contains(err.Error(), "auth check:") {
		t.Errorf("got %v", err)
	}
}

// TestAuthCheckAnyStore: a check without a store must be allowed explicitly.
func TestAuthCheckAnyStore(t *testing.T) {
	for name, v := range map[string]struct {
		upstream, check string
		anyStore        bool
		says            string // the error of New; empty: none
	}{
		"with a store":                   {"http://a/{storeId}", "http://a/{storeId}/me", false, ""},
		"without one":                    {"http://a/{storeId}", "http://a/me", false, "every valid token would own the batches of every store"},
		"neither has one":                {"http://a", "http://a/me", false, "Auth.CheckAnyStore"},
		"only the check has one":         {"http://a", "http://a/{storeId}/me", false, ""},
		"percent-encoded":                {"http://a/{storeId}", "http://a/%7BstoreId%7D/me", false, "Auth.CheckAnyStore"},
		"in the query":                   {"http://a/{storeId}", "http://a/me?s={storeId}", false, "query or a fragment"},
		"in the fragment":                {"http://a/{storeId}", "http://a/me#{storeId}", false, "query or a fragment"},
		"in the host":                    {"http://a/{storeId}", "http://{storeId}.example/me", false, "auth check:"},
		"in another case":                {"http://a/{storeId}", "http://a/{storeid}/me", false, "auth check:"},
		"without one, and asked for":     {"http://a/{storeId}", "http://a/me", true, ""},
		"asked for, with nothing to ask": {"http://a/{storeId}", "", true, "Auth.CheckAnyStore has no effect"},
	} {
		s, err := sheaf.New(sheaf.Options{
			Upstream: sheaf.Upstream{URL: v.upstream},
			Auth:     sheaf.Auth{CheckURL: v.check, CheckAnyStore: v.anyStore},
			Logger:   slog.New(slog.DiscardHandler),
			Database: sheaf.Database{URL: "sqlite:" + filepath.Join(t.TempDir(), "sheaf.db")},
		})
		if err == nil {
			_ = s.Close()
		}
		if (err == nil) != (v.says == "") || err != nil && !strings.Contains(err.Error(), v.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestRequestHeaders: a header that the operator allows reaches the upstream, and New refuses headers
// that can't be allowed.
func TestRequestHeaders(t *testing.T) {
	options := sheaf.Options{
		Upstream: sheaf.Upstream{URL: "http://in-process/{storeId}", RequestHeaders: []string{"X-Tenant", "x-real-ip"}},
		Logger:   slog.New(slog.DiscardHandler),
		Database: sheaf.Database{URL: "sqlite:" + filepath.Join(t.TempDir(), "sheaf.db")},
	}
	if s, err := sheaf.New(options); err == nil || !strings.Contains(err.Error(), `request headers: "x-real-ip" can't be set`) {
		t.Errorf("%v, %v", s, err)
	}
	arrived := make(chan string, 1)
	options.Upstream.RequestHeaders = []string{"X-Tenant"}
	options.Upstream.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { arrived <- r.Header.Get("X-Tenant") })
	service, err := sheaf.New(options)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- service.Run(ctx) }()
	server := httptest.NewServer(service)
	defer func() {
		server.Close()
		stop()
		if err := errors.Join(<-ended, service.Close()); err != nil {
			t.Error(err)
		}
	}()
	c := &checkingService{t: t, address: strings.TrimPrefix(server.URL, "http://")}
	if code, _, text := c.ask("POST", "a", "t", "", `[{"method":"GET","path":"a","headers":{"x-tenant":"7"}}]`); code != 200 {
		t.Fatalf("%d %s", code, text)
	}
	if got := <-arrived; got != "7" {
		t.Errorf("the upstream got %q", got)
	}
}

// The upstream gets the credential of a key instead of the key. Two keys of a store see the same
// batches.
func TestAuthKeys(t *testing.T) {
	dir := t.TempDir()
	file, keyFile := filepath.Join(dir, "keys.json"), filepath.Join(dir, "sheaf.key")
	seal, err := secret.Create(keyFile)
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, name := range []string{"one", "two"} {
		key, issued := auth.Issue(seal, auth.Grant{Name: name, Stores: []string{"a"}, Rights: auth.Rights, Credential: "upstream-" + name})
		if err := auth.ChangeIssued(file, func(all []auth.Issued) ([]auth.Issued, error) { return append(all, issued), nil }); err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	arrived := make(chan string, 10)
	options := sheaf.Options{
		Upstream: sheaf.Upstream{URL: "http://in-process/{storeId}", Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { arrived <- r.Header.Get("Authorization") })},
		Auth:     sheaf.Auth{KeysFile: file},
		Database: sheaf.Database{SecretKeyFile: keyFile, URL: "sqlite:" + filepath.Join(dir, "sheaf.db")},
		Logger:   slog.New(slog.DiscardHandler),
	}
	service, err := sheaf.New(options)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- service.Run(ctx) }()
	server := httptest.NewServer(service)
	defer func() {
		server.Close()
		stop()
		if err := errors.Join(<-ended, service.Close()); err != nil {
			t.Error(err)
		}
	}()
	c := &checkingService{t: t, address: strings.TrimPrefix(server.URL, "http://")}
	ticket := c.create("a", keys[1], "")
	if got := <-arrived; got != "Bearer upstream-two" {
		t.Errorf("the upstream got %q", got)
	}
	if code, _, text := c.ask("GET", "a", keys[0], "?ticket="+ticket, ""); code != 200 {
		t.Errorf("the other key: %d %s", code, text)
	}

	options.Upstream.Passthrough, options.Database.URL = true, "sqlite:"+filepath.Join(dir, "other.db")
	if s, err := sheaf.New(options); err == nil {
		s.Close()
		t.Error("keys and passthrough were accepted together")
	}
	options.Upstream.Passthrough, options.Auth.CheckURL = false, "http://a/{storeId}"
	if s, err := sheaf.New(options); err == nil {
		s.Close()
		t.Error("keys and a check were accepted together")
	}
}
