package auth

import "net/netip"

// Network returns what counts as one caller's address: an IPv4 address, or the 64 bits of an
// IPv6 address that one subscriber has.
func Network(a netip.Addr) netip.Prefix { return network(a) }
