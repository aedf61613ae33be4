package batch

import (
	"reflect"
	"strings"
	"testing"
)

// usual are headers that requests may have by default.
var usual = []string{
	"Accept", "accept", "Accept-Language", "Accept-Encoding", "ACCEPT-CHARSET", "Accept-Datetime", "Content-Type", "Content-Language", "If-Match",
	"If-None-Match", "if-modified-since", "If-Unmodified-Since", "If-Range", "If-Schedule-Tag-Match", "Prefer", "Range", "User-Agent",
	"Idempotency-Key", "traceparent", "Tracestate", "X-Request-Id", "X-REQUEST-ID",
}

// admissible are headers that an operator may admit.
var admissible = []string{
	"X-Api-Version", "X-Tenant", "X-Api-Key", "Content-MD5", "Content-Disposition", "Cache-Control", "Origin", "Referer", "X-Requested-With", "X-Locale",
	"Acceptable", "X-Author", "Iffy", "Digest", "Traceparent-2", "X-Client-Version", "Range-Unit", "User-Agent-2",
}

// dangerous are headers that no operator can admit.
var dangerous = []string{
	// Underscores, which CGI-like servers read as hyphens.
	"X_Forwarded_For", "X_Real_IP", "Remote_User", "Content_Length", "X-Forwarded_For", "_", "If_Match", "X_Request_Id",
	// Methods.
	"X-HTTP-Method", "X-HTTP-Method-Override", "X-Method-Override", "HTTP-Method-Override", "X-Method", "X-HTTP-MethodOverride", "x-http-verb",
	// Addresses.
	"X-Original-URL", "X-Rewrite-URL", "X-Original-URI", "X-Original-Host", "X-Original-Method", "X-Forwarded-Host", "X-Forwarded-Proto",
	"X-Forwarded-Port", "X-Forwarded-Prefix", "X-Forwarded-Server", "X-Forwarded-Scheme", "X-Forwarded-Path", "X-Forward-For", "Forwarded",
	"Forwarded-For", "X-Host", "X-HTTP-Host-Override", "X-Override-URL", "X-Envoy-Original-Path", "X-Accel-Redirect", "X-Middleware-Subrequest",
	"X-ProxyUser-Ip", "Front-End-Https", "X-ForwardedFor",
	// Callers.
	"Remote-User", "Remote-Groups", "X-Remote-User", "X-Remote-Addr", "X-Remote-IP", "X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-For",
	"X-FORWARDED-FOR", "X-Authenticated-User", "X-Authenticated-Userid", "X-Authenticated-Groups", "X-Auth-Request-User", "X-Auth-User", "X-Auth-Token",
	"X-User", "X-User-Id", "X-User-Roles", "X-Real-IP", "True-Client-IP", "CF-Connecting-IP", "CF-Connecting-IPv6", "Cf-Access-Jwt-Assertion",
	"X-Client-IP", "X-Client-Cert", "Client-IP", "Client-Cert", "X-Cluster-Client-IP", "Fastly-Client-IP", "Fly-Client-IP", "X-Azure-ClientIP",
	"X-Appengine-User-IP", "X-Amzn-Oidc-Identity", "X-Amzn-Trace-Id", "X-MS-CLIENT-PRINCIPAL-NAME", "X-Goog-Authenticated-User-Email", "X-Goog-IAP-JWT-Assertion",
	"X-Consumer-Username", "X-Webauth-User", "X-SSL-Client-S-DN", "SSL-Client-Cert", "X-Originating-IP", "Impersonate-User", "Tailscale-User-Login",
	// Credentials.
	"Authorization", "authorization", "Cookie", "COOKIE", "Cookie2", "Set-Cookie", "Proxy-Authorization", "X-Authorization",
	// Connections and messages.
	"Host", "Content-Length", "content-length", "Content-Encoding", "Content-Transfer-Encoding", "Transfer-Encoding", "Connection", "Keep-Alive", "Upgrade",
	"Expect", "TE", "Trailer", "Max-Forwards", "Via", "Proxy-Connection", "proxy-x", "HTTP2-Settings", "Sec-WebSocket-Key", "If-Transfer-Encoding",
	// Names that aren't words of letters, digits and hyphens.
	"", "-", "-If-Match", "If-", "Accept-", "A B", "X.Forwarded.For", "X-Forwarded-For ", " Accept", "If-Match:", "If\u2010Match", "X\u2011Forwarded-For",
	"Accept\u2013Language", "If-" + strings.Repeat("a", 200), strings.Repeat("-a", 10_000), "\u212aeep-Alive", "ho\u017ft", "X-F\u00f6o", "X-Tenant\r\nHost", "X-Tenant\x00",
}

func TestHeaderPolicy(t *testing.T) {
	widened, err := AdmitHeaders(append(append([]string{}, admissible...), "if-match")...)
	if err != nil {
		t.Fatal(err)
	}
	policies := map[string]HeaderPolicy{"usual": {}, "widened": widened, "any": AnyHeader()}
	for kind, p := range policies {
		for _, name := range usual {
			if err := p.Check(name); err != nil {
				t.Errorf("%s: %s %v", kind, name, err)
			}
		}
		for _, name := range dangerous {
			if err := p.Check(name); err == nil {
				t.Errorf("%s: %q is admitted", kind, name)
			}
		}
		for _, name := range append([]string{strings.ToUpper(admissible[0])}, admissible...) {
			err := p.Check(name)
			if kind != "usual" && err != nil {
				t.Errorf("%s: %s %v", kind, name, err)
			}
			if kind == "usual" && (err == nil || !strings.Contains(err.Error(), "--request-headers "+name)) {
				t.Errorf("%s without an operator's doing: %v", name, err)
			}
		}
	}
	if widened.Check("X-Other") == nil {
		t.Error("a header that nobody listed is admitted")
	}
}

// TestAdmitHeaders checks that an operator can't admit headers that mislead APIs.
func TestAdmitHeaders(t *testing.T) {
	for _, name := range append([]string{"*", "X-*", "X-Api-Version,X-Tenant"}, dangerous...) {
		if p, err := AdmitHeaders("X-Api-Version", name); err == nil || !reflect.DeepEqual(p, HeaderPolicy{}) {
			t.Errorf("%q: %+v, %v", name, p, err)
		}
	}
	if _, err := AdmitHeaders(); err != nil {
		t.Error(err)
	}
}

// TestDecodeHeaders checks that the policy applies to given headers and to headers from answers, and
// that the error names the request and the header.
func TestDecodeHeaders(t *testing.T) {
	admitted, err := AdmitHeaders("X-Api-Version")
	if err != nil {
		t.Fatal(err)
	}
	decode := func(fields string, p HeaderPolicy) string {
		_, err := Decode([]byte(`[{"id":"p","method":"GET","path":"x"},{"method":"GET","path":"x",`+fields+`}]`), Options{}, p)
		if err == nil {
			return ""
		}
		return err.Error()
	}
	for _, v := range []struct{ fields, usual, admitted string }{
		{`"headers":{"If-Match":"*","Accept-Language":"de"}`, "", ""},
		{`"refs":{"header:If-Match":"p@ETag"}`, "", ""},
		{`"headers":{"X-Api-Version":"2"}`, `$[1].headers["X-Api-Version"] can't be set here: the operator must admit it with --request-headers X-Api-Version`, ""},
		{`"refs":{"header:x-api-version":"p#/v"}`, `$[1].refs["header:x-api-version"] can't be set here`, ""},
		{`"headers":{"X_Forwarded_For":"1"}`, `$[1].headers["X_Forwarded_For"] can't be set: `, `$[1].headers["X_Forwarded_For"] can't be set: `},
		{`"refs":{"header:Remote-User":"p#/v"}`, `$[1].refs["header:Remote-User"] can't be set: `, `$[1].refs["header:Remote-User"] can't be set: `},
		{`"refs":{"header:If-Match":"p@x_y"}`, "", ""}, // the API chooses the names of its headers
	} {
		if got := decode(v.fields, HeaderPolicy{}); (got == "") != (v.usual == "") || !strings.Contains(got, v.usual) {
			t.Errorf("%s: %s", v.fields, got)
		}
		if got := decode(v.fields, admitted); (got == "") != (v.admitted == "") || !strings.Contains(got, v.admitted) {
			t.Errorf("%s, where X-Api-Version is admitted: %s", v.fields, got)
		}
	}
}

func TestCheckLinks(t *testing.T) {
	for _, l := range []*Links{nil, {}, {Headers: []Header{{"If-Match", "*"}}, Refs: []Ref{{Where: InHeader, Name: "Range"}, {Where: InPath, Name: "X_Y"}}}} {
		if err := (HeaderPolicy{}).CheckLinks(l); err != nil {
			t.Errorf("%+v: %v", l, err)
		}
	}
	for want, l := range map[string]*Links{
		`headers["X-A"] can't be set`:     {Headers: []Header{{"If-Match", "*"}, {"X-A", "1"}}},
		`refs["header:X_A"] can't be set`: {Refs: []Ref{{Where: InHeader, Name: "X_A"}}},
	} {
		if err := (HeaderPolicy{}).CheckLinks(l); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
