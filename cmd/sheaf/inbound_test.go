package main

import (
	"crypto/tls"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// Metrics and probes have an address that serves nothing else, and sheaf healthcheck calls it.
func TestOperatorsAddress(t *testing.T) {
	_, log := started(t, "--upstream=http://127.0.0.1:1/{storeId}", "--listen=127.0.0.1:0,metrics=127.0.0.1:0")
	address := log.await(t, `msg=metrics address=(\S+)`)
	log.await(t, `msg=(ready)`)
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/metrics": 200, "/api/v3/1/batch?status=QUEUED": 404, "/ui/": 404} {
		resp, err := http.Get("http://" + address + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, resp.StatusCode, want)
		}
	}
	for _, c := range []struct {
		args, environ []string
		code          int
	}{
		{[]string{"healthcheck"}, []string{"SHEAF_LISTEN=127.0.0.1:1,metrics=" + address}, exitOK},
		{[]string{"healthcheck"}, []string{"SHEAF_LISTEN=" + strings.Replace(address, "127.0.0.1", "", 1)}, exitOK},
		{[]string{"healthcheck", "http://" + address + "/readyz"}, nil, exitOK},
		{[]string{"healthcheck", "http://" + address + "/other"}, nil, exitFailed},
		{[]string{"healthcheck", "http://127.0.0.1:1/healthz"}, nil, exitFailed},
		{[]string{"healthcheck"}, []string{"SHEAF_LISTEN=nonsense"}, exitUsage},
	} {
		if code := run(t.Context(), c.args, c.environ, io.Discard, io.Discard); code != c.code {
			t.Errorf("%q with %q: exit code %d, want %d", c.args, c.environ, code, c.code)
		}
	}
}

// An HTTP/2 connection has limits on its open requests and on its unread bytes.
func TestHTTP2IsBounded(t *testing.T) {
	a := newAuthority(t)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	a.issue("sheaf", cert, key)
	address, _ := started(t, "--upstream=http://127.0.0.1:1/{storeId}", "--tls=cert="+cert+",key="+key)
	conn, err := tls.Dial("tcp", address, &tls.Config{RootCAs: a.pool(), NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	frames := http2.NewFramer(conn, conn)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := frames.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	frame, err := frames.ReadFrame()
	settings, ok := frame.(*http2.SettingsFrame)
	if err != nil || !ok {
		t.Fatalf("the first frame is %v, %v", frame, err)
	}
	for id, most := range map[http2.SettingID]uint32{http2.SettingMaxConcurrentStreams: 100, http2.SettingInitialWindowSize: 1 << 18} {
		if v, ok := settings.Value(id); !ok || v > most {
			t.Errorf("%v is %d, want %d at most", id, v, most)
		}
	}
}
