package certificate

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// newPair returns a certificate for a name and its key, in PEM. The certificate is valid for 60 days.
func newPair(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(60 * 24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// pairFiles writes a certificate and its key to files and returns the files' names.
func pairFiles(t *testing.T, cert, key []byte) (certFile, keyFile string) {
	t.Helper()
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, content := range map[string][]byte{certFile: cert, keyFile: key} {
		if content != nil {
			write(t, file, content)
		}
	}
	return certFile, keyFile
}

// writes counts the files that were written. Each one gets another modification time.
var writes atomic.Int64

func write(t *testing.T, file string, content []byte) {
	t.Helper()
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1_900_000_000+writes.Add(1), 0)
	if err := os.Chtimes(file, at, at); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, p *Pair, name string) {
	t.Helper()
	c, err := p.ForClients(nil)
	if err != nil || c.Leaf.Subject.CommonName != name {
		t.Errorf("the certificate is %q, %v, want %q", c.Leaf.Subject.CommonName, err, name)
	}
}

// A reload that fails, because the new files don't belong together, keeps the old certificate.
func TestReload(t *testing.T) {
	certFile, keyFile := pairFiles(t, nil, nil)
	cert, key := newPair(t, "first")
	write(t, certFile, cert)
	write(t, keyFile, key)
	p, err := Load(certFile, keyFile, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, p, "first")

	cert, key = newPair(t, "second")
	write(t, certFile, cert)
	if err := p.Reload(); err == nil {
		t.Error("a certificate without its key was loaded")
	}
	expect(t, p, "first")
	write(t, keyFile, key)
	expect(t, p, "first")
	if err := p.Reload(); err != nil {
		t.Error(err)
	}
	expect(t, p, "second")

	if err := os.Remove(certFile); err != nil {
		t.Fatal(err)
	}
	if err := p.Reload(); err == nil || !strings.Contains(err.Error(), certFile) {
		t.Errorf("got %v, want an error that names %s", err, certFile)
	}
	expect(t, p, "second")
}

// Changed files are read again at the first handshake a minute after the last check. A certificate
// without its key isn't used.
func TestChangedFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		certFile, keyFile := pairFiles(t, nil, nil)
		cert, key := newPair(t, "first")
		write(t, certFile, cert)
		write(t, keyFile, key)
		p, err := Load(certFile, keyFile, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		cert, key = newPair(t, "second")
		write(t, certFile, cert)
		<-time.After(time.Minute - 1)
		expect(t, p, "first")
		if log.Len() > 0 {
			t.Errorf("the log before the check: %s", &log)
		}
		<-time.After(1)
		expect(t, p, "first")
		if !strings.Contains(log.String(), "the previous certificate stays in use") {
			t.Errorf("the log after only one file was written: %s", &log)
		}
		write(t, keyFile, key)
		expect(t, p, "first")
		<-time.After(time.Minute)
		expect(t, p, "second")
		log.Reset()
		<-time.After(time.Minute)
		expect(t, p, "second")
		if log.Len() > 0 {
			t.Errorf("the log without a change: %s", &log)
		}
	})
}

// For the last 14 days of a certificate, the log has a warning a day.
func TestExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		cert, key := newPair(t, "old")
		certFile, keyFile := pairFiles(t, cert, key)
		p, err := Load(certFile, keyFile, slog.New(slog.NewTextHandler(&log, nil)))
		if err != nil {
			t.Fatal(err)
		}
		warnings := func(days int) int {
			log.Reset()
			for range days * 24 {
				<-time.After(time.Hour)
				expect(t, p, "old")
			}
			return strings.Count(log.String(), "must be renewed")
		}
		if n := warnings(46); n != 0 {
			t.Errorf("%d warnings while more than 14 days remain", n)
		}
		if n := warnings(14); n != 14 {
			t.Errorf("%d warnings in the last 14 days", n)
		}
		log.Reset()
		if _, err := Load(certFile, keyFile, slog.New(slog.NewTextHandler(&log, nil))); err != nil || !strings.Contains(log.String(), "must be renewed") {
			t.Errorf("loading an expired certificate: %v, %s", err, &log)
		}
	})
}

func TestRefusals(t *testing.T) {
	cert, key := newPair(t, "first")
	_, other := newPair(t, "second")
	for name, c := range map[string]struct {
		cert, key []byte
		want      string
	}{
		"no certificate": {nil, key, "cert.pem"},
		"no key":         {cert, nil, "key.pem"},
		"another's key":  {cert, other, "must be a certificate and its key"},
		"no PEM":         {[]byte("x"), key, "must be a certificate and its key"},
		"exchanged":      {key, cert, "must be a certificate and its key"},
	} {
		certFile, keyFile := pairFiles(t, c.cert, c.key)
		if _, err := Load(certFile, keyFile, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	certFile, keyFile := pairFiles(t, cert, key)
	if _, err := Authorities(certFile); err != nil {
		t.Error(err)
	}
	for _, file := range []string{keyFile, keyFile + ".none"} {
		if _, err := Authorities(file); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", file, err)
		}
	}
}
