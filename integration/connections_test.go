package integration

import (
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
)

// TestConnectionsBeyondTheLimitOfFiles: even if callers hold more connections than the process may
// open files, the API and the probes answer, and batches run.
func TestConnectionsBeyondTheLimitOfFiles(t *testing.T) {
	t.Parallel()
	upstream := newHoldingLedger(t)
	address := freeAddress(t)
	args := append([]string{"-c", `ulimit -n 400 && exec "$0" "$@"`, binary}, serveArgs(address, upstream.URL, filepath.Join(t.TempDir(), "sheaf.db"))...)
	s := launchBinary(t, "/bin/sh", nil, args...)
	s.base = "http://" + address
	s.waitReady(t)
	ticket := s.createBatch(t, "", "GET /hold")
	for i := range 600 {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		defer c.Close()
		_, _ = fmt.Fprintf(c, "GET /api/v3/1003/batch?wait=60&ticket=%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ann\r\n\r\n", ticket)
	}
	ask := func(from, method, path, body string) {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		client := &http.Client{Timeout: patience, Transport: &http.Transport{DialContext: d.DialContext, DisableKeepAlives: true}}
		r, err := http.NewRequest(method, s.base+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer ben")
		r.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(r)
		if err != nil {
			t.Fatalf("from %s: %v", from, err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s %s from %s: %d", method, path, from, resp.StatusCode)
		}
	}
	ask("127.0.0.1", "GET", "/healthz", "")
	ask("127.0.0.2", "GET", "/healthz", "")
	ask("127.0.0.2", "POST", "/api/v3/4/batch", `[{"method":"POST","path":"/orders"}]`)
	s.await(t, `"msg":"batch ended","ticket":"[^"]*","store":"4","requests":1,"completed":1`)
}
