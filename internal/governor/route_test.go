package governor

import "testing"

func TestRouteMatches(t *testing.T) {
	for _, tt := range []struct {
		method, pattern string // of the limit
		request, path   string
		want            bool
	}{
		{"GET", "/orders*", "GET", "orders", true},
		{"GET", "/orders*", "GET", "orders/7?x=/y", true},
		{"GET", "/orders*", "POST", "orders", false},
		{"GET", "/orders*", "GET", "order", false},
		{"*", "/orders", "PUT", "orders?limit=5", true},
		{"*", "/orders", "PUT", "orders/7", false},
		{"*", "/*/variants", "GET", "products/7/variants", true},
		{"*", "/*/variants", "GET", "products/7/variants/2", false},
		{"*", "/a*b*c", "GET", "abbc", true},
		{"*", "/a*b*c", "GET", "acb", false},
		{"*", "/a*b*b", "GET", "ab", false},
		{"*", "/*", "DELETE", "", true},
		{"*", "/**x", "GET", "yx", true},
		{"*", "/graphql.json", "POST", "graphqlXjson", false},
	} {
		l := RouteLimit{Method: tt.method, Path: tt.pattern}
		if got := l.Matches(tt.request, tt.path); got != tt.want {
			t.Errorf("%s %s matches %s %s: %v, want %v", tt.method, tt.pattern, tt.request, tt.path, got, tt.want)
		}
	}
}
