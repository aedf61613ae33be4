package outbound

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"syscall"
)

// Guard allows connections to public addresses only. It refuses addresses of this machine, of private
// networks and of cloud metadata services, and multicast addresses. It checks each address after the name
// has been resolved, right before the connection is made, so DNS rebinding can't bypass it.
type Guard struct {
	Allow []netip.Prefix // addresses that are allowed although they are not public
}

// special lists the IPv4 and IPv6 blocks that are not public, from the IANA registries of
// special-purpose addresses (RFC 6890) and of multicast addresses.
var special = prefixes(
	"0.0.0.0/8",       // this network; on Linux, 0.0.0.0 is this machine
	"10.0.0.0/8",      // private
	"100.64.0.0/10",   // carrier-grade NAT; also the metadata service of a cloud
	"127.0.0.0/8",     // loopback
	"169.254.0.0/16",  // link-local; also the metadata services of clouds
	"172.16.0.0/12",   // private
	"192.0.0.0/24",    // protocol assignments; also the metadata service of a cloud
	"192.0.2.0/24",    // documentation
	"192.88.99.0/24",  // 6to4 relays, deprecated
	"192.168.0.0/16",  // private
	"198.18.0.0/15",   // benchmarks
	"198.51.100.0/24", // documentation
	"203.0.113.0/24",  // documentation
	"224.0.0.0/4",     // multicast
	"240.0.0.0/4",     // reserved, and broadcast

	"2001::/23",     // protocol assignments: Teredo, benchmarks, ORCHID
	"2001:db8::/32", // documentation
	"3fff::/20",     // documentation
)

var (
	publicIPv6 = netip.MustParsePrefix("2000::/3")     // all other addresses are loopback, local, multicast or unassigned
	nat64      = netip.MustParsePrefix("64:ff9b::/96") // RFC 6052: the last 4 bytes are an IPv4 address
	sixToFour  = netip.MustParsePrefix("2002::/16")    // RFC 3056: the 4 bytes after the prefix are an IPv4 address
)

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, text := range texts {
		out = append(out, netip.MustParsePrefix(text))
	}
	return out
}

// errGuarded means that the guard refuses an address.
var errGuarded = errors.New("the address is not public, and not allowed")

// check returns nil if the address is allowed, and otherwise errGuarded.
func (g *Guard) check(address netip.Addr) error {
	address = address.Unmap() // ::ffff:127.0.0.1 is 127.0.0.1
	for _, p := range g.Allow {
		if p.Contains(address) {
			return nil
		}
	}
	if address.Is6() {
		b := address.As16()
		switch {
		case nat64.Contains(address):
			return g.check(netip.AddrFrom4([4]byte(b[12:])))
		case sixToFour.Contains(address):
			return g.check(netip.AddrFrom4([4]byte(b[2:6])))
		case !publicIPv6.Contains(address):
			return errGuarded
		}
	}
	for _, p := range special {
		if p.Contains(address) {
			return errGuarded
		}
	}
	return nil
}

// control is a net.Dialer's ControlContext, which the dialer calls right before it connects to an
// address. If it refuses one of a host's addresses, the dialer tries the next.
func (g *Guard) control(_ context.Context, network, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("connect over %s: %w", network, errGuarded)
	}
	return g.check(to.Addr().WithZone(""))
}
