package auth

import (
	"net/http"
	"net/netip"
	"strings"
)

// Proxies are the networks of trusted proxies. Their X-Forwarded-For is trusted.
type Proxies []netip.Prefix

// Address returns the address that a request came from; see From.
func (p Proxies) Address(r *http.Request) netip.Addr {
	return p.From(r.RemoteAddr, r.Header["X-Forwarded-For"])
}

// Network returns the network that a request came from, as NetworkOf defines it.
func (p Proxies) Network(r *http.Request) netip.Prefix { return NetworkOf(p.Address(r)) }

// NetworkOf returns the network that counts as one caller: an IPv4 address, or the 64 bits of an
// IPv6 address that identify one subscriber.
func NetworkOf(a netip.Addr) netip.Prefix {
	bits := 32
	if a = a.Unmap().WithZone(""); a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // all unknown addresses count as one
	}
	return p
}

// Trusts reports whether a connection comes from a trusted proxy. remote is http.Request's
// RemoteAddr.
func (p Proxies) Trusts(remote string) bool {
	at, err := netip.ParseAddrPort(remote)
	return err == nil && p.contain(at.Addr().Unmap())
}

// From returns the address that a call came from. It is the connection's address or, if that is a
// trusted proxy, the last address in X-Forwarded-For that isn't one. The entries before it are
// ignored, because anybody can forge them. An unreadable entry ends the search at the proxy that
// sent it.
func (p Proxies) From(remote string, forwardedFor []string) netip.Addr {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Addr{}
	}
	from := at.Addr().Unmap()
	rest := strings.Join(forwardedFor, ",")
	for p.contain(from) && rest != "" {
		last := strings.LastIndexByte(rest, ',')
		entry := strings.TrimSpace(rest[last+1:])
		rest = rest[:max(last, 0)]
		if entry == "" { // a list may have empty entries (RFC 9110, section 5.6.1)
			continue
		}
		hop, ok := parseHop(entry)
		if !ok {
			break
		}
		from = hop
	}
	return from
}

// parseHop reads an entry of X-Forwarded-For: an address with an optional port. An IPv6 address may
// have brackets.
func parseHop(entry string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(entry)
	if err != nil {
		var at netip.AddrPort
		if at, err = netip.ParseAddrPort(entry); err == nil {
			a = at.Addr()
		}
	}
	if inner, ok := strings.CutPrefix(entry, "["); err != nil && ok {
		if inner, ok = strings.CutSuffix(inner, "]"); ok {
			if a, err = netip.ParseAddr(inner); err == nil && !a.Is6() {
				return a, false
			}
		}
	}
	return a.Unmap().WithZone(""), err == nil
}

func (p Proxies) contain(a netip.Addr) bool {
	a = a.WithZone("")
	for _, network := range p {
		if network.Contains(a) {
			return true
		}
	}
	return false
}
