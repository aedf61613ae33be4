package sheaf_test

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sheafapi/sheaf"
)

// TestLimitsOfRoutes: a limit applies to the requests that match it, and to no others. The requests of
// another part of the API end while those of the limited part are held.
func TestLimitsOfRoutes(t *testing.T) {
	var mu sync.Mutex
	now, most := 0, 0
	held, arrived := make(chan struct{}), make(chan struct{}, 20)
	upstream := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, "/1/orders/") {
			return
		}
		mu.Lock()
		now++
		most = max(most, now)
		mu.Unlock()
		arrived <- struct{}{}
		<-held
		mu.Lock()
		now--
		mu.Unlock()
	})
	service, err := sheaf.New(sheaf.Options{
		Upstream: sheaf.Upstream{
			URL: "http://in-process/{storeId}", Handler: upstream,
			Limits: []sheaf.RouteLimit{{Match: "GET /orders/*", Concurrency: 2, Per: sheaf.PerAll}},
		},
		Database: sheaf.Database{URL: "sqlite:" + filepath.Join(t.TempDir(), "sheaf.db")},
		Logger:   slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer run(t, service)()
	call := func(method, query, body string) string {
		r := httptest.NewRequest(method, "/api/v3/1/batch?"+query, strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer token")
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		service.ServeHTTP(w, r)
		return w.Body.String()
	}
	limited, free := strings.Repeat(`{"method":"GET","path":"orders/7?a=b"},`, 6), strings.Repeat(`{"method":"GET","path":"products"},`, 6)
	created := call("POST", "allowParallelMode=true", "["+limited+strings.TrimSuffix(free, ",")+"]")
	query := "ticket=" + strings.Split(created, `"`)[3]
	<-arrived
	<-arrived
	for done := 0; done < 6; {
		done = strings.Count(call("GET", query+"&wait=1", ""), `"COMPLETED"`)
	}
	close(held)
	for ended := false; !ended; {
		ended = strings.Contains(call("GET", query+"&wait=60", ""), `"status":"COMPLETED","totalRequests":12`)
	}
	if most != 2 {
		t.Errorf("%d requests were in flight, want 2", most)
	}
}
