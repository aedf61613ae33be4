// Package certificate reads TLS certificates and keys from PEM files. It reads them again when they
// change, and logs that a certificate must be renewed.
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

const (
	// checkInterval is the shortest time between two looks at the files. A handshake is the occasion.
	checkInterval = time.Minute
	// warnBefore is how long before its end a certificate must be renewed. A warning repeats after
	// warnInterval.
	warnBefore   = 14 * 24 * time.Hour
	warnInterval = 24 * time.Hour
)

// Pair is a certificate with its chain and its key. It is safe for concurrent use.
type Pair struct {
	certFile, keyFile string
	log               *slog.Logger

	mu      sync.Mutex
	current *tls.Certificate
	read    [2]time.Time // when the files that current was read from had been modified
	checked time.Time
	warned  time.Time // when the log last had a warning about current
}

// Load reads a certificate and its key. The error names the file that can't be used.
func Load(certFile, keyFile string, log *slog.Logger) (*Pair, error) {
	p := &Pair{certFile: certFile, keyFile: keyFile, log: log}
	return p, p.Reload()
}

// Reload reads the files again. After an error the old certificate stays in use.
func (p *Pair) Reload() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.load(time.Now())
}

// load is Reload. mu is held.
func (p *Pair) load(now time.Time) error {
	modified := p.modified() // a later change is found by the next check
	cert, err := os.ReadFile(p.certFile)
	if err != nil {
		return fmt.Errorf("the certificate can't be read: %w", err)
	}
	key, err := os.ReadFile(p.keyFile)
	if err != nil {
		return fmt.Errorf("the certificate's key can't be read: %w", err)
	}
	c, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("%s and %s must be a certificate and its key in PEM: %w", p.certFile, p.keyFile, err)
	}
	p.current, p.read, p.checked, p.warned = &c, modified, now, time.Time{}
	p.warn(now)
	return nil
}

// modified returns when the files were modified; zero for a file that can't be found.
func (p *Pair) modified() (at [2]time.Time) {
	for i, file := range []string{p.certFile, p.keyFile} {
		if info, err := os.Stat(file); err == nil {
			at[i] = info.ModTime()
		}
	}
	return at
}

// warn logs, once a day, that the certificate must be renewed. mu is held.
func (p *Pair) warn(now time.Time) {
	if end := p.current.Leaf.NotAfter; end.Sub(now) < warnBefore && now.Sub(p.warned) >= warnInterval {
		p.warned = now
		p.log.Warn("a TLS certificate must be renewed", "file", p.certFile, "expires", end.UTC().Format(time.RFC3339))
	}
}

// get returns the current certificate. Before that, at most once a minute, it reads the files again if
// they have changed. While they can't be used, for example because only one of them has been written,
// the old certificate stays in use.
func (p *Pair) get() *tls.Certificate {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now := time.Now(); now.Sub(p.checked) >= checkInterval {
		p.checked = now
		if p.modified() != p.read {
			if err := p.load(now); err != nil {
				p.log.Error("changed certificate files can't be used; the previous certificate stays in use", "error", err)
			} else {
				p.log.Info("certificate reloaded", "file", p.certFile)
			}
		}
		p.warn(now)
	}
	return p.current
}

// ForClients implements tls.Config.GetCertificate: it returns the certificate that this process shows to
// clients.
func (p *Pair) ForClients(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.get(), nil }

// ForServer implements tls.Config.GetClientCertificate: it returns the certificate that this process shows
// to a server.
func (p *Pair) ForServer(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return p.get(), nil }

// Authorities reads a PEM file with the certificates of certificate authorities.
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
