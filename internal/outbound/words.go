package outbound

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"syscall"
)

// The functions below describe failures in words that callers may see.

// unanswered returns why there is no complete answer to a request that may have been written.
func (c *Client) unanswered(err error) string {
	switch {
	case errors.Is(err, errTimeout):
		return "no complete answer within " + c.timeout.String()
	case errors.Is(err, errInterrupted):
		return "the service was interrupted before the answer was complete"
	case errors.Is(err, errPanicked):
		return "the upstream failed before its answer was complete"
	case broken(err):
		return "the connection broke before the answer was complete"
	}
	return "the upstream's answer could not be read"
}

// missing returns why the rest of an answer is missing.
func (c *Client) missing(err error) string {
	switch {
	case errors.Is(err, errTimeout):
		return "the rest didn't come within " + c.timeout.String()
	case errors.Is(err, errInterrupted):
		return "the service was interrupted"
	case broken(err):
		return "the connection broke"
	}
	return "the rest could not be read"
}

// unsent returns why a request was not sent.
func (c *Client) unsent(err error) string {
	var header *headerError
	switch {
	case errors.Is(err, errTimeout):
		return "no connection within " + c.timeout.String() + "; the request was not sent"
	case errors.Is(err, errInterrupted):
		return "the service was interrupted before the request was sent"
	case isTimeout(err):
		return "no connection within " + dialTimeout.String() + "; the request was not sent"
	case errors.As(err, &header):
		return header.Error()
	case errors.Is(err, errPath):
		return "the request's path can't be sent as it is"
	}
	if why := dialFailure(err); why != "" {
		return "the connection could not be made (" + why + ")"
	}
	return "the request could not be sent"
}

// dialFailure returns why a connection failed; "": unknown. It doesn't use the errors' own texts,
// because they contain addresses and names.
func dialFailure(err error) string {
	var (
		dns         *net.DNSError
		certificate *tls.CertificateVerificationError
		host        x509.HostnameError
		alert       tls.AlertError
		record      tls.RecordHeaderError
		op          *net.OpError
	)
	switch {
	case errors.Is(err, errGuarded):
		return "the upstream's address is not allowed"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "no route to the host"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return "too many open files"
	case errors.As(err, &dns):
		return "host name not resolved"
	case errors.As(err, &certificate), errors.As(err, &host):
		return "TLS certificate not trusted"
	case errors.As(err, &alert), errors.As(err, &record):
		return "TLS handshake failed"
	case broken(err):
		return "connection closed"
	case errors.As(err, &op) && op.Op == "remote error": // an alert
		return "TLS handshake failed"
	case errors.As(err, &op):
		return "network error"
	}
	return ""
}

// broken reports whether err means that the other side or the network ended a connection.
func broken(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrShortWrite) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ETIMEDOUT) || errors.Is(err, net.ErrClosed)
}

// isTimeout reports whether err is a timeout of the network.
func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}
