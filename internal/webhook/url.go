package webhook

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// maxURL is the longest URL of a callback, in bytes.
const maxURL = 2 << 10

// CheckURL returns an error if a URL is not allowed for callbacks. It must be https, or http to a
// loopback address in allow. If hosts is not empty, it must name one of them. The addresses that a host
// name resolves to are checked later, when the connection is made. The error is the predicate of a
// sentence, such as "must begin with https://".
func CheckURL(text string, hosts []string, allow []netip.Prefix) error {
	if len(text) > maxURL {
		return fmt.Errorf("must be at most %d bytes long", maxURL)
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "" || u.Fragment != "":
		return errors.New("must be a URL such as https://example.com/hooks")
	case u.User != nil:
		return errors.New("must not have a user name or password")
	case u.Scheme != "https" && !(u.Scheme == "http" && local(u.Hostname(), allow)):
		return errors.New("must begin with https://")
	case len(hosts) > 0 && !slices.ContainsFunc(hosts, func(h string) bool { return strings.EqualFold(h, u.Hostname()) }):
		return errors.New("must have a host that the operator allows")
	}
	return nil
}

// local reports whether a host is a loopback address that is allowed.
func local(host string, allow []netip.Prefix) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback() && slices.ContainsFunc(allow, func(p netip.Prefix) bool { return p.Contains(a) })
}
