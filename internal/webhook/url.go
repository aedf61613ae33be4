package webhook

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// maxURL bounds a callback's address, in bytes.
const maxURL = 2 << 10

// CheckURL reports whether a batch's end may be told there: https, or http to this machine
// where loopback addresses are allowed; to one of the hosts, where there are any. The address
// that a name stands for is judged when it is connected to. An error completes a sentence.
func CheckURL(text string, hosts []string, allow []netip.Prefix) error {
	if len(text) > maxURL {
		return fmt.Errorf("must be at most %d bytes long", maxURL)
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "" || u.Fragment != "":
		return errors.New("must be an address such as https://example.com/hooks")
	case u.User != nil:
		return errors.New("must not have a user name or password")
	case u.Scheme != "https" && !(u.Scheme == "http" && local(u.Hostname(), allow)):
		return errors.New("must begin with https://")
	case len(hosts) > 0 && !slices.ContainsFunc(hosts, func(h string) bool { return strings.EqualFold(h, u.Hostname()) }):
		return errors.New("must be at a host that the operator has allowed")
	}
	return nil
}

// local reports whether a host is this machine by its address, and allowed.
func local(host string, allow []netip.Prefix) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback() && slices.ContainsFunc(allow, func(p netip.Prefix) bool { return p.Contains(a) })
}
