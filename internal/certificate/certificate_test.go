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
	"testing"
	"time"
)

// made returns a certificate for a name and its key, in PEM.
func made(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
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

// files are a pair on disk, and a clock.
type files struct {
	t         *testing.T
	cert, key string
	clock     time.Time
	logs      bytes.Buffer
}

func newFiles(t *testing.T) *files {
	dir := t.TempDir()
	return &files{t: t, cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem"), clock: time.Now()}
}

// write writes a file, later by its time than every one before.
func (f *files) write(file string, content []byte) {
	f.t.Helper()
	if err := os.WriteFile(file, content, 0o600); err != nil {
		f.t.Fatal(err)
	}
	f.clock = f.clock.Add(10 * time.Second)
	if err := os.Chtimes(file, f.clock, f.clock); err != nil {
		f.t.Fatal(err)
	}
}

func (f *files) load() (*Pair, error) {
	p, err := Load(f.cert, f.key, slog.New(slog.NewTextHandler(&f.logs, nil)))
	if err == nil {
		p.now = func() time.Time { return f.clock }
	}
	return p, err
}

func (f *files) expect(p *Pair, name string) {
	f.t.Helper()
	if got := p.Certificate().Leaf.Subject.CommonName; got != name {
		f.t.Errorf("the certificate is %q, want %q", got, name)
	}
}

func TestReload(t *testing.T) {
	f := newFiles(t)
	cert, key := made(t, "first")
	f.write(f.cert, cert)
	f.write(f.key, key)
	p, err := f.load()
	if err != nil {
		t.Fatal(err)
	}
	f.expect(p, "first")

	cert, key = made(t, "second")
	f.write(f.cert, cert)
	f.expect(p, "first") // the key is not there yet
	if !strings.Contains(f.logs.String(), "level=ERROR") {
		t.Errorf("half a pair is not told: %s", f.logs.String())
	}
	told := f.logs.Len()
	f.clock = f.clock.Add(time.Minute)
	f.expect(p, "first")
	if f.logs.Len() != told {
		t.Errorf("it is told again and again: %s", f.logs.String())
	}
	f.write(f.key, key)
	f.expect(p, "second")

	if err := os.Remove(f.cert); err != nil {
		t.Fatal(err)
	}
	f.clock = f.clock.Add(time.Minute)
	f.expect(p, "second")
}

// The files are looked at now and then, not for every connection.
func TestLooksRarely(t *testing.T) {
	f := newFiles(t)
	cert, key := made(t, "first")
	f.write(f.cert, cert)
	f.write(f.key, key)
	p, err := f.load()
	if err != nil {
		t.Fatal(err)
	}
	f.expect(p, "first")
	cert, key = made(t, "second")
	at := f.clock
	f.write(f.cert, cert)
	f.write(f.key, key)
	f.clock = at.Add(lookInterval / 2)
	f.expect(p, "first")
	f.clock = at.Add(lookInterval)
	f.expect(p, "second")
}

// A link that is set to another folder is a change, as Kubernetes makes it.
func TestReloadLink(t *testing.T) {
	f := newFiles(t)
	dir := filepath.Dir(f.cert)
	for i, name := range []string{"first", "second"} {
		cert, key := made(t, name)
		folder := filepath.Join(dir, name)
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		f.write(filepath.Join(folder, "cert.pem"), cert)
		f.write(filepath.Join(folder, "key.pem"), key)
		link := filepath.Join(dir, "link")
		if i > 0 {
			if err := os.Remove(link); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Symlink(folder, link); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			f.cert, f.key = filepath.Join(link, "cert.pem"), filepath.Join(link, "key.pem")
			p, err := f.load()
			if err != nil {
				t.Fatal(err)
			}
			f.expect(p, "first")
			defer f.expect(p, "second")
		}
	}
	f.clock = f.clock.Add(time.Minute)
}

func TestRefusals(t *testing.T) {
	f := newFiles(t)
	cert, key := made(t, "first")
	_, other := made(t, "second")
	for _, c := range []struct {
		what      string
		cert, key []byte
		want      string
	}{
		{"no certificate", nil, key, f.cert},
		{"no key", cert, nil, f.key},
		{"another's key", cert, other, "not a certificate and its key"},
		{"no PEM", []byte("x"), key, "not a certificate and its key"},
		{"exchanged", key, cert, "not a certificate and its key"},
	} {
		os.Remove(f.cert)
		os.Remove(f.key)
		if c.cert != nil {
			f.write(f.cert, c.cert)
		}
		if c.key != nil {
			f.write(f.key, c.key)
		}
		if _, err := f.load(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	f.write(f.cert, cert)
	f.write(f.key, key)
	if _, err := Authorities(f.cert); err != nil {
		t.Error(err)
	}
	for _, file := range []string{f.key, filepath.Join(filepath.Dir(f.key), "none")} {
		if _, err := Authorities(file); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", file, err)
		}
	}
}
