package main

import (
	"net"
	"net/http"
	"slices"
	"strings"
)

// onlyHosts refuses requests for a host that is neither this machine nor one of the given names.
// A service on a loopback address trusts everyone who can reach it. A page of another site can
// reach it through a user's browser, under a name that resolves to 127.0.0.1.
func onlyHosts(names []string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		host = strings.Trim(host, "[]")
		served := func(name string) bool { return strings.EqualFold(name, strings.TrimSuffix(host, ".")) }
		if host == "" || isLoopbackHost(host) || slices.ContainsFunc(names, served) {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.WriteHeader(http.StatusMisdirectedRequest)
		_, _ = w.Write([]byte(`{"errorMessage":"This service listens on a loopback address and does not serve the host in this request. To serve it, add it to --hosts.","errorCode":"UNKNOWN_HOST"}` + "\n"))
	})
}

// strictTransport makes browsers use TLS for a year. Browsers ignore the header over plain HTTP.
func strictTransport(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Strict-Transport-Security", "max-age=31536000")
		next.ServeHTTP(w, r)
	})
}
