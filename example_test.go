package sheaf_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sheafapi/sheaf"
)

// This program adds a batch endpoint to an API in the same process. The requests of batches call the
// API's handler directly.
func Example() {
	dir, err := os.MkdirTemp("", "sheaf")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	// The API.
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v3/{storeId}/products", func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusCreated)
		fmt.Fprintf(w, `{"store":%q,"price":1.10}`, r.PathValue("storeId"))
	})

	// The batch endpoint, on the same mux.
	service, err := sheaf.New(sheaf.Options{
		Upstream: sheaf.Upstream{URL: "http://shop.example/api/v3/{storeId}", Handler: mux},
		Database: sheaf.Database{URL: "sqlite:" + filepath.Join(dir, "sheaf.db")},
		Logger:   slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer service.Close()
	mux.Handle("/api/v3/{storeId}/batch", service)
	mux.Handle("/api/v3/{storeId}/batch/", service)

	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- service.Run(ctx) }()
	defer func() {
		cancel()
		<-ended
	}()

	server := httptest.NewServer(mux)
	defer server.Close()

	// A client.
	call := func(method, query, body string) []byte {
		req, err := http.NewRequestWithContext(ctx, method, server.URL+"/api/v3/1003/batch?"+query, strings.NewReader(body))
		if err != nil {
			log.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer my-token")
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			log.Fatal(err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil {
			log.Fatal(err)
		}
		return answer
	}
	var created struct{ Ticket string }
	if err := json.Unmarshal(call("POST", "", `[{"id":"chair","method":"POST","path":"products","body":{"name":"Chair"}}]`), &created); err != nil {
		log.Fatal(err)
	}
	for {
		status := call("GET", "ticket="+created.Ticket, "")
		if strings.Contains(string(status), `"COMPLETED","totalRequests"`) {
			fmt.Println(string(status))
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	// Output:
	// {"status":"COMPLETED","totalRequests":1,"completedRequests":1,"responses":[{"id":"chair","status":"COMPLETED","httpBody":{"store":"1003","price":1.10},"httpStatusCode":201,"httpStatusLine":"Created"}]}
}
