package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/strictupstream"
)

// authority is a certificate authority for one test.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, file: filepath.Join(t.TempDir(), "ca.pem")}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	a.key = a.newKey()
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.write(a.file, "CERTIFICATE", der)
	return a
}

func (a *authority) newKey() *ecdsa.PrivateKey {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	return key
}

func (a *authority) write(file, kind string, der []byte) {
	a.t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// issue writes a certificate for this machine with this name, and its key.
func (a *authority) issue(name, certFile, keyFile string) {
	a.t.Helper()
	key := a.newKey()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	a.write(certFile, "CERTIFICATE", der)
	if der, err = x509.MarshalPKCS8PrivateKey(key); err != nil {
		a.t.Fatal(err)
	}
	a.write(keyFile, "PRIVATE KEY", der)
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// lines is a log that can be waited on.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text.Write(p)
	select {
	case l.more <- struct{}{}:
	default:
	}
	return len(p), nil
}

// await waits until the log matches an expression, and returns the first group.
func (l *lines) await(t *testing.T, expression string) string {
	t.Helper()
	limit := time.After(patience)
	for {
		l.mu.Lock()
		found := regexp.MustCompile(expression).FindSubmatch(l.text.Bytes())
		l.mu.Unlock()
		if found != nil {
			return string(found[1])
		}
		select {
		case <-l.more:
		case <-limit:
			t.Fatalf("the log never matched %s: %s", expression, l.text.String())
		}
	}
}

// started runs sheaf serve in this process until the test ends, and returns its address.
func started(t *testing.T, args ...string) (address string, log *lines) {
	t.Helper()
	log = &lines{more: make(chan struct{}, 1)}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan int, 1)
	args = append([]string{"serve", "--listen=127.0.0.1:0", "--database=sqlite:" + filepath.Join(t.TempDir(), "sheaf.db")}, args...)
	go func() { ended <- run(ctx, args, []string{"GOGC=100", "GOMAXPROCS=2"}, io.Discard, log) }()
	t.Cleanup(func() {
		stop()
		if code := <-ended; code != exitOK {
			t.Errorf("it ended with %d: %s", code, log.text.String())
		}
	})
	return log.await(t, `msg=listening address=(\S+)`), log
}

// The API is served over TLS, with a certificate that SIGHUP reloads. The upstream's certificate is
// verified with the given authorities, and the upstream gets the given client certificate.
func TestTLS(t *testing.T) {
	a := newAuthority(t)
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	a.issue("first", file("cert.pem"), file("key.pem"))
	a.issue("upstream", file("up.pem"), file("up.key"))
	a.issue("sheaf", file("client.pem"), file("client.key"))
	pair, err := tls.LoadX509KeyPair(file("up.pem"), file("up.key"))
	if err != nil {
		t.Fatal(err)
	}
	shown := make(chan string, 10)
	upstream := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		shown <- r.TLS.PeerCertificates[0].Subject.CommonName
	}))
	upstream.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: a.pool()}
	upstream.StartTLS()
	defer upstream.Close()

	address, log := started(t, "--upstream="+upstream.URL+"/{storeId}", "--tls=cert="+file("cert.pem")+",key="+file("key.pem")+
		",upstream-ca="+a.file+",upstream-cert="+file("client.pem")+",upstream-key="+file("client.key"))
	ask := func(method, path, body string) (served string, answer []byte) {
		t.Helper()
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: a.pool()}, DisableKeepAlives: true}}
		r, err := http.NewRequest(method, "https://"+address+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer abc")
		r.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if answer, err = io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%d %s %v", resp.StatusCode, answer, err)
		}
		return resp.TLS.PeerCertificates[0].Subject.CommonName, answer
	}
	served, answer := ask("POST", "/api/v3/1/batch", `[{"method":"POST","path":"orders"}]`)
	var created struct{ Ticket string }
	if err := json.Unmarshal(answer, &created); err != nil || created.Ticket == "" || served != "first" {
		t.Errorf("%s, served by %q", answer, served)
	}
	select {
	case name := <-shown:
		if name != "sheaf" {
			t.Errorf("the upstream got the client certificate %q", name)
		}
	case <-time.After(patience):
		t.Fatal("nothing reached the upstream")
	}

	a.issue("second", file("cert.pem"), file("key.pem"))
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if err := self.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	log.await(t, `msg=(reloaded)`)
	if served, _ = ask("GET", "/healthz", ""); served != "second" {
		t.Errorf("it is still served by %q", served)
	}

	resp, err := http.Get("http://" + address + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("without TLS: %d", resp.StatusCode)
	}
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11} {
		config := &tls.Config{RootCAs: a.pool(), MinVersion: version, MaxVersion: version}
		if c, err := tls.Dial("tcp", address, config); err == nil {
			c.Close()
			t.Errorf("%s is accepted", tls.VersionName(version))
		}
	}
}

// The guard refuses an upstream on this machine unless its network is allowed, and the batch says so.
func TestUpstreamGuard(t *testing.T) {
	upstream, _ := strictupstream.Start(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	for flag, want := range map[string]string{"--upstream-guard=off": "COMPLETED", "--upstream-guard=on": "not allowed", "--upstream-guard=127.0.0.0/8": "COMPLETED"} {
		address, _ := started(t, "--upstream="+upstream.URL+"/{storeId}", flag)
		ask := func(method, query, body string) string {
			t.Helper()
			r, err := http.NewRequest(method, "http://"+address+"/api/v3/1/batch"+query, strings.NewReader(body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "Bearer abc")
			r.Header.Set("Content-Type", "application/json")
			resp, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			answer, err := io.ReadAll(resp.Body)
			if err != nil {
				t.Fatal(err)
			}
			return string(answer)
		}
		ticket := ask("POST", "", `[{"method":"POST","path":"orders"}]`)[len(`{"ticket":"`):][:36]
		status := ""
		for limit := time.Now().Add(patience); !strings.Contains(status, `{"status":"COMPLETED","total`); status = ask("GET", "?ticket="+ticket, "") {
			if time.Now().After(limit) {
				t.Fatalf("%s: %s", flag, status)
			}
		}
		if _, result, _ := strings.Cut(status, "responses"); !strings.Contains(result, want) {
			t.Errorf("%s: %s", flag, result)
		}
	}
}

// A client that is slow or sends too much is cut off, and others are not affected.
func TestSlowClients(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(w, r.Body); err != nil {
			w.WriteHeader(http.StatusRequestTimeout)
		}
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	short := limits{header: 300 * time.Millisecond, request: time.Second, idle: 300 * time.Millisecond}
	server := newServer(handler, slog.New(slog.DiscardHandler), short)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	t.Cleanup(func() { server.Close(); <-ended })
	const whole = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok"
	for name, c := range map[string]struct {
		says string
		want string // the beginning of the answer before the connection ends
	}{
		"nothing":         {"", ""},
		"half a header":   {"POST / HTTP/1.1\r\nHost: a\r\nX-", ""},
		"half a body":     {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf", ""},
		"idle afterwards": {whole, "HTTP/1.1 200 OK"},
		"a long header":   {"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 1<<20) + "\r\n\r\n", "HTTP/1.1 431"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := net.Dial("tcp", listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			go io.WriteString(conn, c.says) // may be cut off
			got, err := io.ReadAll(bufio.NewReader(conn))
			if os.IsTimeout(err) {
				t.Fatal("the connection was never ended")
			}
			if !strings.HasPrefix(string(got), c.want) {
				t.Errorf("got %.80q, want %q", got, c.want)
			}
			if fine, err := http.Post("http://"+listener.Addr().String(), "text/plain", strings.NewReader("fine")); err != nil {
				t.Error(err)
			} else {
				fine.Body.Close()
			}
		})
	}
}
