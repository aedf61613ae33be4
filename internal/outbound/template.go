package outbound

import (
	"errors"
	"net"
	"net/url"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// placeholder stands for the store in a template.
const placeholder = "{storeId}"

// template is the parsed URL of the upstream.
type template struct {
	scheme  string
	address string   // host and port to connect to
	host    string   // the value of the Host header
	base    []string // the parts of the path between placeholders, without a slash at the end
}

// parseTemplate parses the URL of the upstream. Its errors never quote the URL, because it may contain
// a password.
func parseTemplate(s string) (*template, error) {
	const example = "such as http://127.0.0.1:9000/api/v3/{storeId}"
	scheme, rest, _ := strings.Cut(s, "://")
	u, err := url.Parse(s)
	switch {
	case s == "":
		return nil, errors.New("an address is required, " + example)
	case !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https"):
		return nil, errors.New("the address must begin with http:// or https://, " + example)
	case strings.ContainsAny(s, "?#"):
		return nil, errors.New("the address must not have a query or a fragment: remove ? or # and what follows")
	case err == nil && u.User != nil:
		return nil, errors.New("the address must not have a user name or password: Sheaf sends each caller's own token")
	case err == nil && !validPort(u):
		return nil, errors.New("the address's port must be a number from 1 to 65535, " + example)
	case err != nil || u.Hostname() == "":
		return nil, errors.New("the address must have a host, a valid port if any, and {storeId} in the path only, " + example)
	}
	var path string
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		path = strings.TrimSuffix(rest[i:], "/")
	}
	base := strings.Split(path, placeholder)
	switch {
	case strings.ContainsAny(strings.Join(base, ""), "{}"):
		return nil, errors.New("{storeId} is the only placeholder allowed in the address, " + example)
	case strings.Contains(rest, "//") || !sendable(path):
		return nil, errors.New("the address's path must not have //, \\, a space, a control character or a character outside ASCII (encode them, such as %20)")
	}
	t := &template{scheme: u.Scheme, base: base}
	if t.host, err = httpguts.PunycodeHostPort(u.Host); err != nil {
		return nil, errors.New("the address's host is not a valid host name, " + example)
	}
	name, zone := t.host, strings.IndexByte(t.host, '%')
	if zone >= 0 { // the zone of an IPv6 address is only meaningful on this machine
		t.host = name[:zone] + name[strings.IndexByte(name, ']'):]
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[t.scheme]
	}
	t.address = net.JoinHostPort((&url.URL{Host: name}).Hostname(), port)
	return t, nil
}

// validPort reports whether a URL has no port or a valid one.
func validPort(u *url.URL) bool {
	port := u.Port()
	n, err := strconv.ParseUint(port, 10, 16)
	return port == "" && !strings.HasSuffix(u.Host, ":") || err == nil && n > 0
}

// target returns the target of the request line: the template's path for the store, followed by the
// request's path and query, byte for byte.
func (t *template) target(store, path string) string {
	slash := ""
	if path == "" || path[0] == '?' {
		if len(t.base) == 1 && t.base[0] == "" {
			slash = "/" // a request line can't have an empty path
		}
	} else if path[0] != '/' {
		slash = "/"
	}
	if len(t.base) == 2 {
		return t.base[0] + store + t.base[1] + slash + path
	}
	return strings.Join(t.base, store) + slash + path
}

// sendable reports whether a target is valid in a request line. Paths are validated when a batch is
// created. This is the last check: a space or a line break would turn a path into another request.
func sendable(target string) bool {
	for i := range len(target) {
		if c := target[i]; c <= ' ' || c >= 0x7f || c == '\\' {
			return false
		}
	}
	return !strings.HasPrefix(target, "//")
}
