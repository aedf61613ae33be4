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

// Limits of a call to a receiver of callbacks, which anybody may have named.
const (
	receiverDial   = 5 * time.Second // for resolving a name and connecting, each
	receiverHeader = 16 << 10        // bytes of an answer's header
	perAddress     = 8               // connections to one address, whatever names and ports lead there
)

// Receiver returns a client for the receivers of callbacks. It follows no redirect, takes
// no proxy from the environment, and connects only to addresses that the guard lets through,
// as they are at that moment. Each callback has a connection to itself: several stores may use
// one receiver, and what comes late on a connection must not count as the answer to another's.
// Many names may stand for one address, so it limits the connections to each.
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

// errCrowded is the error of a call to an address that has as many as it may have.
var errCrowded = errors.New("its address is called as often as it may be at once")

// IsCrowded reports whether a call was not made because its receiver's address has as many as
// it may have at once.
func IsCrowded(err error) bool { return errors.Is(err, errCrowded) }

// receiverDialer connects to receivers. It may be used by many goroutines.
type receiverDialer struct {
	dialer net.Dialer
	guard  *Guard

	mu   sync.Mutex
	open map[netip.Addr]int // connections, and attempts to connect
}

// dial connects to the first of a name's addresses that answers.
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

// connect connects to one address, unless the guard refuses it or it is crowded.
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
		d.leave(key)
		return nil, err
	}
	return &receiverConn{Conn: c, leave: sync.OnceFunc(func() { d.leave(key) })}, nil
}

// network64 returns what an address counts as: one who has an IPv6 address has its /64.
func network64(a netip.Addr) netip.Addr {
	if a.Is4() {
		return a
	}
	return netip.PrefixFrom(a.WithZone(""), 64).Masked().Addr()
}

func (d *receiverDialer) leave(key netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.open[key]--; d.open[key] == 0 {
		delete(d.open, key)
	}
}

// receiverConn is a connection that counts for its address until it is closed.
type receiverConn struct {
	net.Conn
	leave func()
}

func (c *receiverConn) Close() error {
	defer c.leave()
	return c.Conn.Close()
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
