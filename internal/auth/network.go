package auth

import (
	"net/http"
	"net/netip"
)

// Network returns what counts as one caller's address: an IPv4 address, or the 64 bits of an
// IPv6 address that one subscriber has.
func Network(a netip.Addr) netip.Prefix { return network(a) }

// NetworkOf returns a function that tells from which network a request came. Behind a trusted
// proxy that is the forwarded one.
func NetworkOf(trustedProxies []netip.Prefix) func(r *http.Request) netip.Prefix {
	return func(r *http.Request) netip.Prefix {
		return network(Proxies(trustedProxies).From(r.RemoteAddr, r.Header["X-Forwarded-For"]))
	}
}
