// Package certificate loads a TLS certificate and its key from two files, and reloads them when the
// files change.
package certificate

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// lookInterval is the shortest time between two checks of the files.
const lookInterval = time.Second

// Pair is a certificate with its chain and its key, in PEM files. It is safe for concurrent use.
type Pair struct {
	certFile, keyFile string
	log               *slog.Logger
	now               func() time.Time

	mu      sync.Mutex
	current *tls.Certificate
	looked  time.Time
	seen    [2]version // the versions of the files that were read last, successfully or not
}

// version identifies a version of a file. It also changes when a symbolic link points to another file,
// which is how Kubernetes updates secrets.
type version struct {
	modified time.Time
	size     int64
}

// Load reads the files. An error names the invalid one.
func Load(certFile, keyFile string, log *slog.Logger) (*Pair, error) {
	p := &Pair{certFile: certFile, keyFile: keyFile, log: log, now: time.Now}
	seen := p.look()
	c, err := p.read()
	if err != nil {
		return nil, err
	}
	p.current, p.seen, p.looked = c, seen, p.now()
	return p, nil
}

func (p *Pair) look() (seen [2]version) {
	for i, file := range []string{p.certFile, p.keyFile} {
		if info, err := os.Stat(file); err == nil {
			seen[i] = version{info.ModTime(), info.Size()}
		}
	}
	return seen
}

func (p *Pair) read() (*tls.Certificate, error) {
	cert, err := os.ReadFile(p.certFile)
	if err != nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	key, err := os.ReadFile(p.keyFile)
	if err != nil {
		return nil, fmt.Errorf("read the certificate's key: %w", err)
	}
	c, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s and %s are not a certificate and its key in PEM: %w", p.certFile, p.keyFile, err)
	}
	return &c, nil
}

// Certificate returns the current certificate. If the files have changed but don't match, for example
// because they are being written, it returns the previous certificate.
func (p *Pair) Certificate() *tls.Certificate {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if now.Sub(p.looked) < lookInterval {
		return p.current
	}
	p.looked = now
	seen := p.look()
	if seen == p.seen {
		return p.current
	}
	p.seen = seen
	c, err := p.read()
	if err != nil {
		p.log.Error("could not load the changed certificate files; the previous certificate stays in use", "error", err)
		return p.current
	}
	p.current = c
	p.log.Info("loaded a new certificate", "file", p.certFile, "expires", c.Leaf.NotAfter.UTC().Format(time.RFC3339))
	return p.current
}

// ForClients implements GetCertificate of a tls.Config.
func (p *Pair) ForClients(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return p.Certificate(), nil
}

// ForServer implements GetClientCertificate of a tls.Config.
func (p *Pair) ForServer(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return p.Certificate(), nil
}

// Authorities reads a PEM file of certificate authorities.
func Authorities(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the certificate authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s has no PEM certificate", file)
	}
	return pool, nil
}
