package main

import (
	"net"
	"net/http"
	"slices"
	"strings"
)

// onlyHosts refuses requests for a host that is neither this machine nor among some names.
// A service on a loopback address trusts whoever can reach it, and a page of another site can
// reach it through its reader's browser, by a name that leads to 127.0.0.1.
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
		_, _ = w.Write([]byte(`{"errorMessage":"This service listens on a loopback address and does not serve the host that was asked for. Its operator can name the host in --hosts.","errorCode":"UNKNOWN_HOST"}` + "\n"))
	})
}

// strictTransport has browsers use TLS for a year from now on. Over plain HTTP the header
// means nothing.
func strictTransport(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Strict-Transport-Security", "max-age=31536000")
		next.ServeHTTP(w, r)
	})
}
