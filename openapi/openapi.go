// Package openapi holds the OpenAPI 3.1 description of Sheaf's API, and serves it with a page on
// which to read and try it.
package openapi

import (
	"bytes"
	_ "embed" // the description and the page
	"net/http"
	"strings"
	"time"

	"github.com/swaggest/swgui/v5/static"
	"github.com/vearutop/statigz"
)

// Document is the description in YAML. The API's tests check every answer against it. Don't modify
// it.
//
//go:embed openapi.yaml
var Document []byte

//go:embed page/index.html
var page []byte

//go:embed page/start.js
var script []byte

// policy lets the page load code only from this service, and call only this service. Swagger UI
// needs inline styles, and icons as data: URLs.
const policy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; " +
	"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Handler serves the description at /openapi.yaml and a page for reading it at /docs. Neither needs
// a token. Handler passes every other request to next. The page is Swagger UI, which is embedded in
// the binary. Its Content-Security-Policy allows calls only to this service.
func Handler(next http.Handler) http.Handler {
	assets := http.StripPrefix("/docs", statigz.FileServer(static.FS))
	files := map[string]struct {
		mediaType string
		text      []byte
	}{
		"/openapi.yaml":  {"application/yaml", Document}, // RFC 9512
		"/docs":          {"text/html; charset=utf-8", page},
		"/docs/start.js": {"text/javascript; charset=utf-8", script},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		file, ours := files[r.URL.Path]
		if !ours && !strings.HasPrefix(r.URL.Path, "/docs/") {
			next.ServeHTTP(w, r)
			return
		}
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Content-Security-Policy", policy)
		switch {
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "This path supports only GET and HEAD.", http.StatusMethodNotAllowed)
		case r.URL.Path == "/docs/":
			http.Redirect(w, r, "../docs", http.StatusPermanentRedirect)
		case ours:
			h.Set("Content-Type", file.mediaType)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(file.text))
		default:
			assets.ServeHTTP(w, r)
		}
	})
}
