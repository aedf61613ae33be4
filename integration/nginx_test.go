package integration

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// TestNginx runs the configuration of examples/nginx in a real nginx: batches go to the
// service, everything else goes to the API, and events arrive as they happen.
func TestNginx(t *testing.T) {
	t.Parallel()
	held := make(chan struct{})
	release := sync.OnceFunc(func() { close(held) })
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/held") {
			<-held
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"path":"`+r.URL.Path+`"}`)
	}))
	t.Cleanup(api.Close)
	t.Cleanup(release) // runs before api.Close, which waits for requests in flight
	s := start(t, api.URL+"/api/v3/{storeId}", filepath.Join(t.TempDir(), "sheaf.db"), "--trusted-proxy", "127.0.0.1/32")

	text, err := os.ReadFile("../examples/nginx/nginx.conf")
	if err != nil {
		t.Fatal(err)
	}
	address, folder := freeAddress(t), t.TempDir()
	conf := strings.NewReplacer(
		"127.0.0.1:8080", strings.TrimPrefix(s.base, "http://"), "127.0.0.1:9000", strings.TrimPrefix(api.URL, "http://"), "127.0.0.1:8000", address,
		"http {", "http {\n    client_body_temp_path body;\n    proxy_temp_path proxy;\n    fastcgi_temp_path fastcgi;\n    uwsgi_temp_path uwsgi;\n    scgi_temp_path scgi;",
	).Replace(string(text))
	if err := os.WriteFile(filepath.Join(folder, "nginx.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	path, err := exec.LookPath("nginx")
	if err != nil {
		path = "/usr/sbin/nginx" // for users without it in PATH
	}
	nginx := launchBinary(t, path, nil, "-p", folder, "-c", "nginx.conf", "-e", "stderr", "-g", "daemon off; master_process off;")
	nginx.base = "http://" + address
	nginx.waitAnswer(t) // nginx passes /readyz on to the API, which answers every path

	get := func(target string) string {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, nginx.base+target, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer t0ken")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	if got := get("/api/v3/1003/products"); got != `{"path":"/api/v3/1003/products"}` {
		t.Errorf("a call of the API: %s", got)
	}
	if got := get("/api/v3/1003/batch"); got != `{"items":[]}` {
		t.Errorf("a search: %s", got)
	}
	if got := get("/api/v3/1003/batches"); got != `{"path":"/api/v3/1003/batches"}` {
		t.Errorf("a path that only has the same prefix as those of batches: %s", got)
	}

	c := caller(nginx.base)
	c.token = "t0ken"
	var created struct{ Ticket string }
	if err := c.call(t.Context(), http.MethodPost, "1003/batch", nil, []byte(`[{"method":"GET","path":"first"},{"method":"GET","path":"held"}]`), &created); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, nginx.base+"/api/v3/1003/batch?ticket="+created.Ticket, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer t0ken")
	req.Header.Set("Accept", "text/event-stream")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var seen []string
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if event, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			if seen = append(seen, event); len(seen) == 1 {
				release() // the first event arrived while the second request is in flight
			}
		}
	}
	if got := strings.Join(seen, " "); got != "response response end" {
		t.Errorf("events: %s (%v)", got, lines.Err())
	}
}
