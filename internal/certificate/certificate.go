// Package certificate reads TLS certificates and keys from PEM files, and reads them again on demand.
package certificate

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"sync/atomic"
)

// Pair is a certificate with its chain and its key. It is safe for concurrent use.
type Pair struct {
	certFile, keyFile string
	current           atomic.Pointer[tls.Certificate]
}

// Load reads a certificate and its key. The error names the file that can't be used.
func Load(certFile, keyFile string) (*Pair, error) {
	p := &Pair{certFile: certFile, keyFile: keyFile}
	return p, p.Reload()
}

// Reload reads the files again. After an error the old certificate stays in use.
func (p *Pair) Reload() error {
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
	p.current.Store(&c)
	return nil
}

// ForClients implements tls.Config.GetCertificate: it returns the certificate that this process shows to
// clients.
func (p *Pair) ForClients(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return p.current.Load(), nil
}

// ForServer implements tls.Config.GetClientCertificate: it returns the certificate that this process shows
// to a server.
func (p *Pair) ForServer(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return p.current.Load(), nil
}

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
