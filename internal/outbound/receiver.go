package outbound

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"time"
)

// Bounds of a call to a receiver of callbacks, whom nobody knows.
const (
	receiverDial   = 5 * time.Second
	receiverHeader = 16 << 10 // bytes of an answer's header
)

// Receiver returns a client for the receivers of callbacks. It follows no redirect, takes
// no proxy from the environment, and connects only to addresses that the guard lets through,
// as they are at that moment. Each callback has a connection to itself: several stores may use
// one receiver, and what comes late on a connection must not count as the answer to another's.
func Receiver(guard *Guard, timeout time.Duration) *http.Client {
	dialer := &net.Dialer{Timeout: receiverDial, ControlContext: guard.control}
	return &http.Client{
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: dialer.DialContext, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: receiverDial,
			MaxResponseHeaderBytes: receiverHeader, DisableCompression: true, DisableKeepAlives: true,
		},
	}
}

// ReceiverFailure says, in words for the one who reads a delivery's state, why a call to a
// receiver has failed: nothing of an address or a network.
func ReceiverFailure(err error) string {
	switch why := dialFailure(err); {
	case errors.Is(err, errGuarded):
		return "its address is not public, and not allowed"
	case isTimeout(err):
		return "no answer in time"
	case why != "":
		return why
	}
	return "the connection broke"
}
