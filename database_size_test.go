package sheaf_test

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sheafapi/sheaf"
)

// A full database refuses new batches. A repeated create still gets its ticket, and all requests of
// stored batches run and have their results recorded.
func TestMaxDatabase(t *testing.T) {
	answer := make(chan struct{})
	upstream := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		<-answer
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(noise(512 << 10))
	})
	service, err := sheaf.New(sheaf.Options{
		Upstream: sheaf.Upstream{URL: "http://in-process/{storeId}", Handler: upstream},
		Limits:   sheaf.Limits{MaxDatabase: 16 << 20},
		Database: sheaf.Database{URL: "sqlite:" + filepath.Join(t.TempDir(), "sheaf.db")},
		Logger:   slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer run(t, service)()
	ask := func(method, query, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "/api/v3/1/batch"+query, strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer abc")
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		service.ServeHTTP(w, r)
		return w
	}
	const first = "?deduplicationKey=7b1c9d3e-4f5a-4b6c-8d7e-9f0a1b2c3d4e"
	var tickets []string
	query, refused := first, false
	for !refused && len(tickets) < 100 {
		a := ask("POST", query, `[{"method":"PUT","path":"p","body":`+string(noise(1<<20))+`}]`)
		switch a.Code {
		case http.StatusOK:
			var got struct{ Ticket string }
			if err := json.Unmarshal(a.Body.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			tickets = append(tickets, got.Ticket)
		case http.StatusInsufficientStorage:
			refused = true
			if a.Header().Get("Retry-After") == "" || !strings.Contains(a.Body.String(), `"errorCode":"DATABASE_FULL"`) {
				t.Errorf("refused with %v %s", a.Header(), a.Body)
			}
		default:
			t.Fatalf("%d %s", a.Code, a.Body)
		}
		query = ""
	}
	if !refused || len(tickets) < 5 || len(tickets) > 15 {
		t.Fatalf("%d batches of 1 MiB were stored in 16 MiB", len(tickets))
	}
	if a := ask("POST", first, `[{"method":"PUT","path":"p"}]`); a.Code != http.StatusOK || !strings.Contains(a.Body.String(), tickets[0]) {
		t.Errorf("a repeated create got %d %s", a.Code, a.Body)
	}
	close(answer)
	for _, ticket := range tickets {
		for end := time.Now().Add(time.Minute); ; {
			a := ask("GET", "?wait=30&ticket="+ticket, "")
			if strings.Contains(a.Body.String(), `"status":"COMPLETED","totalRequests":1,"completedRequests":1`) {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("%d %.300s", a.Code, a.Body)
			}
		}
	}
}

// noise returns a JSON string of about n bytes that can't be compressed.
func noise(n int) []byte {
	raw := make([]byte, n*3/4)
	_, _ = rand.Read(raw) // never fails
	return []byte(`"` + base64.StdEncoding.EncodeToString(raw) + `"`)
}
