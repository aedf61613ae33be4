package auth

import (
	"net/netip"
	"strings"
)

// Proxies are networks whose word on where a call came from is believed.
type Proxies []netip.Prefix

// Trusts reports whether a connection comes from a trusted proxy. remote is http.Request's
// RemoteAddr.
func (p Proxies) Trusts(remote string) bool {
	at, err := netip.ParseAddrPort(remote)
	return err == nil && p.contain(at.Addr().Unmap())
}

// From returns where a call came from: the connection's address or, where that is a trusted
// proxy's, the last address in X-Forwarded-For that isn't one. Anybody can have written what
// stands before that. An entry that can't be read ends the search at the proxy behind it.
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

// parseHop reads an entry of X-Forwarded-For: an address, of IPv6 with or without brackets, and
// perhaps a port.
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
