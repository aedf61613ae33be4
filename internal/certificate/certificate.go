// Package certificate keeps a TLS certificate and its key as two files have them, and
// takes them up again when they change, without a restart.
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

// lookInterval is how often, at most, the files are looked at.
const lookInterval = time.Second

// Pair is a certificate, with its chain, and its key, in PEM files. It may be used by many
// goroutines.
type Pair struct {
	certFile, keyFile string
	log               *slog.Logger
	now               func() time.Time

	mu      sync.Mutex
	current *tls.Certificate
	looked  time.Time
	seen    [2]state // of the files that current was read from, or that could not be read
}

// state is what tells one version of a file from another. A link that is set to another
// file, as Kubernetes does it, changes it too.
type state struct {
	modified time.Time
	size     int64
}

// Load reads the files. An error names the one that is wrong.
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

func (p *Pair) look() (seen [2]state) {
	for i, file := range []string{p.certFile, p.keyFile} {
		if info, err := os.Stat(file); err == nil {
			seen[i] = state{info.ModTime(), info.Size()}
		}
	}
	return seen
}

func (p *Pair) read() (*tls.Certificate, error) {
	cert, err := os.ReadFile(p.certFile)
	if err != nil {
		return nil, fmt.Errorf("the certificate can't be read: %w", err)
	}
	key, err := os.ReadFile(p.keyFile)
	if err != nil {
		return nil, fmt.Errorf("the certificate's key can't be read: %w", err)
	}
	c, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, fmt.Errorf("%s and %s are no certificate and its key, both in PEM: %w", p.certFile, p.keyFile, err)
	}
	return &c, nil
}

// Certificate returns the pair as the files have it. Where they changed and don't fit
// together, as while they are being written, it stays the one before.
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
		p.log.Error("the certificate's files have changed and can't be used; the one before stays", "error", err)
		return p.current
	}
	p.current = c
	p.log.Info("took up a new certificate", "file", p.certFile, "expires", c.Leaf.NotAfter.UTC().Format(time.RFC3339))
	return p.current
}

// ForClients is a tls.Config's GetCertificate.
func (p *Pair) ForClients(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return p.Certificate(), nil
}

// ForServer is a tls.Config's GetClientCertificate.
func (p *Pair) ForServer(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return p.Certificate(), nil
}

// Authorities reads a PEM file of the certificates of authorities.
func Authorities(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("the authorities' certificates can't be read: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s has no certificate in PEM", file)
	}
	return pool, nil
}
