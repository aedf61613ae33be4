package outbound

import (
	"strings"
	"testing"
)

func TestTarget(t *testing.T) {
	for _, c := range []struct{ template, path, want string }{
		{"http://h/api/v3/{storeId}", "products", "/api/v3/123/products"},
		{"http://h/api/v3/{storeId}", "/products?x=%2B+%20", "/api/v3/123/products?x=%2B+%20"},
		{"http://h/api/v3/{storeId}/", "/products/", "/api/v3/123/products/"},
		{"http://h/api/v3/{storeId}", "", "/api/v3/123"},
		{"http://h/api/v3/{storeId}", "?", "/api/v3/123?"},
		{"http://h/{storeId}/x/{storeId}", "a", "/123/x/123/a"},
		{"http://h/s-{storeId}.json/v%20/", "a", "/s-123.json/v%20/a"},
		{"http://h", "a", "/a"},
		{"http://h/", "/a", "/a"},
		{"http://h", "", "/"},
		{"http://h/", "?a", "/?a"},
		{"HTTPS://[::1]:8443/base", "a?", "/base/a?"},
	} {
		to, err := parseTemplate(c.template)
		if err != nil {
			t.Errorf("%s: %v", c.template, err)
			continue
		}
		if got := to.target("123", c.path); got != c.want {
			t.Errorf("%s with %q: the target is %q, want %q", c.template, c.path, got, c.want)
		}
	}
}

func TestTemplateRefused(t *testing.T) {
	for template, want := range map[string]string{
		"":                               "required",
		"127.0.0.1:9000/api":             "begin with http:// or https://",
		"/api/v3":                        "begin with http:// or https://",
		"ftp://h/":                       "begin with http:// or https://",
		"http:///api":                    "must have a host",
		"http://:9000/api":               "must have a host",
		"http://h:port/":                 "valid port",
		"http://h:99999/":                "from 1 to 65535",
		"http://h:0/":                    "from 1 to 65535",
		"http://h:/":                     "from 1 to 65535",
		"http://unix:/tmp/x.sock:/a":     "from 1 to 65535",
		"http://{storeId}.example/":      "{storeId} in the path only",
		"http://h{storeId}":              "{storeId} in the path only",
		"http://me:swordfish@h/":         "user name",
		"http://me:swordfish@h:port/":    "host",
		"http://h/api?key=swordfish":     "query",
		"http://h/api?":                  "query",
		"http://h/api#top":               "fragment",
		"http://h/{store}/x":             "only placeholder",
		"http://h/{storeId}}":            "only placeholder",
		"http://h/{storeid}":             "only placeholder",
		"http://h//api/{storeId}":        "must not have //",
		"http://h/api//":                 "must not have //",
		"http://h/a b/{storeId}":         "a space",
		"http://h/ä/{storeId}":           "outside ASCII",
		"http://h\\evil.example/storeId": "host",
	} {
		_, err := parseTemplate(template)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: the error is %v; it must say %q", template, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "swordfish") {
			t.Errorf("%q reveals a password", err)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	good := Options{Template: "http://h", Timeout: 1, MaxAnswer: 1, MaxConns: 1}
	if _, err := New(good); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func(*Options){
		"no template": func(o *Options) { o.Template = "" },
		"no timeout":  func(o *Options) { o.Timeout = 0 },
		"no limit":    func(o *Options) { o.MaxAnswer = -1 },
		"no conns":    func(o *Options) { o.MaxConns = 0 },
	} {
		o := good
		spoil(&o)
		if _, err := New(o); err == nil {
			t.Errorf("New accepts %s", name)
		}
	}
}
