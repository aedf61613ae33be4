package batch

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// HeaderPolicy says which headers a batch's requests may have. The zero value admits the usual headers
// (see usualHeaders). Every policy refuses headers that could mislead an API about the caller, the call
// or the end of a message.
type HeaderPolicy struct {
	more []string // names of further headers, in lower case
	open bool     // admits every header that a policy can admit
}

// AnyHeader returns a policy for programs that don't know which headers the service admits. It refuses
// only those that every service refuses.
func AnyHeader() HeaderPolicy { return HeaderPolicy{open: true} }

// AdmitHeaders returns a policy that admits these headers and the usual ones. The error names the header
// that can't be admitted.
func AdmitHeaders(names ...string) (p HeaderPolicy, err error) {
	for _, name := range names {
		if strings.Contains(name, "*") {
			return HeaderPolicy{}, fmt.Errorf("%q is a pattern: list the headers one by one", name)
		}
		if err := checkPlain(name); err != nil {
			return HeaderPolicy{}, fmt.Errorf("%q %w", name, err)
		}
		lower := strings.ToLower(name)
		if m := misleads(lower); m != nil {
			return HeaderPolicy{}, fmt.Errorf("%q can't be set by a request, whatever is admitted: %s", name, m.why)
		}
		p.more = append(p.more, lower)
	}
	return p, nil
}

// Check returns an error if a request must not have the header. The error completes a sentence that
// begins with the header.
func (p HeaderPolicy) Check(name string) error {
	if err := checkPlain(name); err != nil {
		return err
	}
	if isNamed(usualHeaders, name) {
		return nil
	}
	lower := strings.ToLower(name)
	if m := misleads(lower); m != nil {
		return errors.New("can't be set: " + m.why)
	}
	if p.open || isUsual(lower) || slices.Contains(p.more, lower) {
		return nil
	}
	return fmt.Errorf("can't be set here: the operator must admit it with --request-headers %s", name)
}

// CheckLinks returns an error if a request must not have one of its headers, including those that it
// takes from answers. The error names the header.
func (p HeaderPolicy) CheckLinks(l *Links) error {
	if l == nil {
		return nil
	}
	for _, h := range l.Headers {
		if err := p.Check(h.Name); err != nil {
			return fmt.Errorf("headers%s %w", member(h.Name), err)
		}
	}
	for _, r := range l.Refs {
		if r.Where != InHeader {
			continue
		}
		if err := p.Check(r.Name); err != nil {
			return fmt.Errorf("refs%s %w", member("header:"+r.Name), err)
		}
	}
	return nil
}

// maxHeaderName limits the bytes of a header's name.
const maxHeaderName = 128

// checkPlain returns an error if a name has characters that servers read in different ways: CGI-like
// gateways turn some characters that RFC 9110 allows into an underscore or a hyphen. The error completes
// a sentence that begins with the header.
func checkPlain(name string) error {
	if len(name) > maxHeaderName {
		return fmt.Errorf("must have a name of at most %d bytes", maxHeaderName)
	}
	if strings.Contains(name, "_") {
		return errors.New("can't be set: many servers read the _ in its name as -, so that X_Real_IP becomes X-Real-IP")
	}
	if name == "" || strings.Trim(name, headerCharacters) != "" || strings.HasPrefix(name, "-") || strings.HasSuffix(name, "-") {
		return errors.New("must have a name of letters and digits, with hyphens only between them")
	}
	return nil
}

const headerCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-"

// usualHeaders are admitted by default, together with headers that begin with accept- or if-.
var usualHeaders = []string{
	"accept", "content-language", "content-type", "idempotency-key", "prefer", "range", "traceparent", "tracestate", "user-agent", "x-request-id",
}

func isUsual(lower string) bool {
	return strings.HasPrefix(lower, "accept-") || strings.HasPrefix(lower, "if-") || isNamed(usualHeaders, lower)
}

func isNamed(names []string, name string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, name) })
}

// PlainHeader reports whether every server reads a header's name in the same way.
func PlainHeader(name string) bool { return checkPlain(name) == nil }

// SpeaksForProxy reports whether proxies use the header to tell an API who called or which address was
// called.
func SpeaksForProxy(name string) bool {
	m := misleads(strings.ToLower(name))
	return m != nil && m.byProxy
}

// EndToEnd reports whether a header is meant for the API and not for one connection.
func EndToEnd(name string) bool {
	lower := strings.ToLower(name)
	return isUsual(lower) || misleads(lower) != nil || strings.HasPrefix(lower, "content-") || isNamed(endToEnd, lower)
}

// endToEnd lists the other headers that are meant for the API.
var endToEnd = []string{"apikey", "api-key", "cache-control", "date", "origin", "pragma", "referer", "x-api-key", "x-csrf-token", "x-requested-with", "x-tenant"}

// refusedGroup is a group of headers that no policy admits. All texts are in lower case. A header belongs
// to the group if its name matches, if it begins with a prefix, or if its name without hyphens contains
// a text.
type refusedGroup struct {
	why                    string
	byProxy                bool // proxies set these headers, and APIs trust them
	names, prefixes, parts []string
}

var misleadings = []refusedGroup{
	{
		why: "the service sets it itself, because it says where a message ends or how a connection is used",
		names: []string{
			"connection", "content-encoding", "content-length", "content-transfer-encoding", "early-data", "expect", "host", "keep-alive",
			"max-forwards", "te", "trailer", "trailers", "transfer-encoding", "upgrade", "via",
		},
		prefixes: []string{"http2-", "proxy-", "sec-"},
		parts:    []string{"contentlength", "transferencoding"},
	},
	{
		why:      "the service sets the credential itself",
		names:    []string{"authorization", "cookie", "cookie2", "set-cookie", "set-cookie2", "x-access-token", "x-id-token"},
		prefixes: []string{"authorization-", "x-authorization", "x-auth-"},
	},
	{
		why:      "many APIs let it replace the request's method",
		names:    []string{"x-method"},
		prefixes: []string{"x-http-"},
		parts:    []string{"httpmethod", "httpverb", "methodoverride", "overridemethod"},
	},
	{
		why:     "many APIs let it replace the request's address",
		byProxy: true,
		names: []string{
			"base-url", "destination", "forwarded", "front-end-https", "request-uri", "x-host", "x-path", "x-request-uri", "x-scheme", "x-uri", "x-url",
			"x-url-scheme", "x-wap-profile",
		},
		prefixes: []string{
			"forwarded-", "x-accel-", "x-envoy-", "x-forward", "x-middleware-", "x-original-", "x-override-", "x-proxy", "x-rewrite-", "x-sendfile",
		},
		parts: []string{
			"forwardedfor", "forwardedhost", "forwardedprefix", "forwardedproto", "hostoverride", "originalhost", "originaluri", "originalurl",
			"overrideurl", "rewriteuri", "rewriteurl",
		},
	},
	{
		why:     "APIs behind a proxy take the caller's identity or address from it",
		byProxy: true,
		names:   []string{"cdn-loop", "x-identity", "x-remote", "x-user", "x-userid", "x-userinfo", "x-username"},
		prefixes: []string{
			"cf-", "fastly-", "fly-", "impersonate-", "remote-", "ssl-", "tailscale-", "true-client-", "x-akamai-", "x-amzn-", "x-appengine-",
			"x-arr-", "x-authentik-", "x-azure-", "x-cluster-", "x-consumer-", "x-credential-", "x-goog-authenticated-", "x-goog-iap-",
			"x-identity-", "x-impersonate-", "x-jwt-", "x-ms-client-principal", "x-ms-token-", "x-originating-", "x-pomerium-", "x-real-",
			"x-remote-", "x-ssl-", "x-user-", "x-vouch-", "x-webauth-",
		},
		parts: []string{
			"authenticated", "authuser", "clientaddr", "clientcert", "clientdn", "clientip", "clientverify", "connectingip", "forwardeduser",
			"realip", "remoteaddr", "remoteip", "remoteuser",
		},
	},
}

// misleads returns the refused group that a header belongs to, or nil if policies may admit the header.
// The name is in lower case.
func misleads(lower string) *refusedGroup {
	squeezed := strings.ReplaceAll(lower, "-", "")
	for i := range misleadings {
		m := &misleadings[i]
		if slices.Contains(m.names, lower) ||
			slices.ContainsFunc(m.prefixes, func(p string) bool { return strings.HasPrefix(lower, p) }) ||
			slices.ContainsFunc(m.parts, func(p string) bool { return strings.Contains(squeezed, p) }) {
			return m
		}
	}
	return nil
}
