package outbound

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Limits of calls to receivers of callbacks, whose URLs are chosen by callers.
const (
	receiverDial   = 5 * time.Second // for name resolution and for connecting, each
	receiverHeader = 16 << 10        // the size of an answer's header, in bytes
	perAddress     = 8               // connections to one address, over all names and ports
)

// Receiver returns a client for calls to the receivers of callbacks. It doesn't follow redirects or
// use a proxy from the environment, and connects only to addresses that the guard allows at that
// moment. Several stores may use one receiver, so each callback has its own connection: late data of
// one must not count as the answer to another. The number of connections to each address is limited,
// because many names may resolve to one address.
func Receiver(guard *Guard, timeout time.Duration) *http.Client {
	d := &receiverDialer{
		dialer: net.Dialer{Timeout: receiverDial, ControlContext: guard.control},
		guard:  guard, open: map[netip.Addr]int{},
	}
	return &http.Client{
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: d.dial, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, TLSHandshakeTimeout: receiverDial,
			MaxResponseHeaderBytes: receiverHeader, DisableCompression: true, DisableKeepAlives: true,
		},
	}
}

// errCrowded means that an address already has the maximum number of connections.
var errCrowded = errors.New("too many concurrent calls to its address")

// IsCrowded reports whether a call was not made because there are already too many concurrent calls
// to its receiver's address.
func IsCrowded(err error) bool { return errors.Is(err, errCrowded) }

// receiverDialer connects to receivers. It is safe for concurrent use.
type receiverDialer struct {
	dialer net.Dialer
	guard  *Guard

	mu   sync.Mutex
	open map[netip.Addr]int // the number of connections and attempts to connect
}

// dial connects to the first of a host's addresses that accepts a connection.
func (d *receiverDialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*receiverDial)
	defer cancel()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("connect to a receiver: %w", err)
	}
	resolving, cancelResolving := context.WithTimeout(ctx, receiverDial)
	defer cancelResolving()
	found, err := net.DefaultResolver.LookupNetIP(resolving, "ip", host)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, a := range found {
		c, err := d.connect(ctx, network, a.Unmap(), port)
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// connect connects to one address, unless the guard refuses it or it has too many connections.
func (d *receiverDialer) connect(ctx context.Context, network string, a netip.Addr, port string) (net.Conn, error) {
	if err := d.guard.check(a.WithZone("")); err != nil {
		return nil, err
	}
	key := network64(a)
	d.mu.Lock()
	if d.open[key] >= perAddress {
		d.mu.Unlock()
		return nil, errCrowded
	}
	d.open[key]++
	d.mu.Unlock()
	c, err := d.dialer.DialContext(ctx, network, net.JoinHostPort(a.String(), port))
	if err != nil {
		d.release(key)
		return nil, err
	}
	return &receiverConn{Conn: c, release: sync.OnceFunc(func() { d.release(key) })}, nil
}

// network64 returns the key under which an address is counted: an IPv4 address itself, or the /64 of
// an IPv6 address, because one host usually has the whole /64.
func network64(a netip.Addr) netip.Addr {
	if a.Is4() {
		return a
	}
	return netip.PrefixFrom(a.WithZone(""), 64).Masked().Addr()
}

func (d *receiverDialer) release(key netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open[key]--; d.open[key] == 0 {
		delete(d.open, key)
	}
}

// receiverConn is a connection that is counted until it is closed.
type receiverConn struct {
	net.Conn
	release func()
}

func (c *receiverConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}

// ReceiverFailure returns why a call to a receiver failed, as text for the state of the delivery. It
// reveals nothing about addresses or networks.
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
