package sheaf_test

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sheafapi/sheaf"
)

// TestMadeUpTokensShareAQuota: a store's tokens that the API has not accepted yet share one quota.
// They use up neither an accepted token's quota nor another store's.
func TestMadeUpTokensShareAQuota(t *testing.T) {
	held := make(chan struct{})
	upstream := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer accepted" {
			<-held
		}
	})
	service, err := sheaf.New(sheaf.Options{
		Upstream: sheaf.Upstream{URL: "http://in-process/{storeId}", Handler: upstream},
		Limits:   sheaf.Limits{MaxQueued: new(5)},
		Database: sheaf.Database{URL: "sqlite:" + filepath.Join(t.TempDir(), "sheaf.db")},
		Logger:   slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer run(t, service)()
	defer close(held)
	ask := func(method, store, token, query string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "/api/v3/"+store+"/batch?"+query, strings.NewReader(`[{"method":"GET","path":"p"}]`))
		r.Header.Set("Authorization", "Bearer "+token)
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		service.ServeHTTP(w, r)
		return w
	}
	expect := func(what string, a *httptest.ResponseRecorder, status int) {
		t.Helper()
		if a.Code != status {
			t.Errorf("%s: %d %s, want %d", what, a.Code, a.Body, status)
		}
	}
	created := ask("POST", "3", "accepted", "")
	expect("the first batch", created, 200)
	ticket := strings.Split(created.Body.String(), `"`)[3]
	expect("its end", ask("GET", "3", "accepted", "wait=60&ticket="+ticket), 200)
	const again = "deduplicationKey=7b1c9d3e-4f5a-4b6c-8d7e-9f0a1b2c3d4e"
	for i := range 5 {
		query := ""
		if i == 0 {
			query = again
		}
		expect("a token below the limit", ask("POST", "1", fmt.Sprint("made-up", i), query), 200)
	}
	refused := ask("POST", "1", "made-up5", "")
	expect("a token above the limit", refused, 429)
	if !strings.Contains(refused.Body.String(), "5 unfinished batches") || refused.Header().Get("Retry-After") == "" {
		t.Errorf("%v %s", refused.Header(), refused.Body)
	}
	expect("a repetition", ask("POST", "1", "made-up0", again), 200)
	expect("another store", ask("POST", "2", "made-up6", ""), 200)
	expect("the accepted token", ask("POST", "1", "accepted", ""), 200)
}

// run runs a service. stop ends it and closes it.
func run(t *testing.T, service *sheaf.Service) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- service.Run(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := service.Close(); err != nil {
			t.Error(err)
		}
	}
}
