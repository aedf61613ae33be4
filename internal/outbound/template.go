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

// template is the upstream's address, taken apart once.
type template struct {
	scheme  string
	address string   // where to connect to
	host    string   // as it stands in a request
	base    []string // the path around each placeholder, with no slash at its end
}

// parseTemplate takes an address template apart. Its errors never quote it: it may
// hold a password.
func parseTemplate(s string) (*template, error) {
	const example = "such as http://127.0.0.1:9000/api/v3/{storeId}"
	scheme, rest, _ := strings.Cut(s, "://")
	u, err := url.Parse(s)
	switch {
	case s == "":
		return nil, errors.New("an address is required, " + example)
	case !strings.EqualFold(scheme, "http") && !strings.EqualFold(scheme, "https"):
		return nil, errors.New("the address has to begin with http:// or https://, " + example)
	case strings.ContainsAny(s, "?#"):
		return nil, errors.New("the address can't have a query or a fragment: leave out what begins with ? or #")
	case err == nil && u.User != nil:
		return nil, errors.New("the address can't have a user name or password: each caller's own token is sent")
	case err == nil && !validPort(u):
		return nil, errors.New("the address's port must be a number from 1 to 65535, " + example)
	case err != nil || u.Hostname() == "":
		return nil, errors.New("the address has to have a host, a valid port if any, and {storeId} in the path only, " + example)
	}
	var path string
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		path = strings.TrimSuffix(rest[i:], "/")
	}
	base := strings.Split(path, placeholder)
	switch {
	case strings.ContainsAny(strings.Join(base, ""), "{}"):
		return nil, errors.New("{storeId} is the only placeholder that the address may have, " + example)
	case strings.Contains(rest, "//") || !sendable(path):
		return nil, errors.New("the address's path can't have //, \\, a space, a control character or one outside ASCII (write %20 and the like)")
	}
	t := &template{scheme: u.Scheme, base: base}
	if t.host, err = httpguts.PunycodeHostPort(u.Host); err != nil {
		return nil, errors.New("the address's host can't be a host's name, " + example)
	}
	name, zone := t.host, strings.IndexByte(t.host, '%')
	if zone >= 0 { // of an IPv6 address; it means something on this machine only
		t.host = name[:zone] + name[strings.IndexByte(name, ']'):]
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[t.scheme]
	}
	t.address = net.JoinHostPort((&url.URL{Host: name}).Hostname(), port)
	return t, nil
}

// validPort reports whether an address has no port, or one that exists.
func validPort(u *url.URL) bool {
	port := u.Port()
	n, err := strconv.ParseUint(port, 10, 16)
	return port == "" && !strings.HasSuffix(u.Host, ":") || err == nil && n > 0
}

// target returns what the request line holds: the template's path for the store,
// and behind it the request's path and query, byte for byte.
func (t *template) target(store, path string) string {
	slash := ""
	if path == "" || path[0] == '?' {
		if len(t.base) == 1 && t.base[0] == "" {
			slash = "/" // the host's root has no shorter name
		}
	} else if path[0] != '/' {
		slash = "/"
	}
	if len(t.base) == 2 {
		return t.base[0] + store + t.base[1] + slash + path
	}
	return strings.Join(t.base, store) + slash + path
}

// sendable reports whether a target can stand in a request line as it is. Paths are
// checked when a batch is created; this is the last door, where a space or a line's
// end would let a path become another request.
func sendable(target string) bool {
	for i := range len(target) {
		if c := target[i]; c <= ' ' || c >= 0x7f || c == '\\' {
			return false
		}
	}
	return !strings.HasPrefix(target, "//")
}
