// Package openapi holds the description of Sheaf's API (OpenAPI 3.1), and serves it with
// a page to read it and try it.
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

// Document is the description, as YAML. Every answer of the API's tests is held
// against it.
//
//go:embed openapi.yaml
var Document []byte

//go:embed page/index.html
var page []byte

//go:embed page/start.js
var script []byte

// policy lets the page run what comes from this service, and ask it, and nothing else.
// Swagger UI writes style attributes, and has its icons in its style sheet.
const policy = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; " +
	"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Handler serves the description at /openapi.yaml and a page to read it at /docs, both
// without a token, and hands every other request to next. The page is Swagger UI, all
// of it from this program; its Content-Security-Policy keeps it to this service.
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
			http.Error(w, "This address can be asked with GET and HEAD only.", http.StatusMethodNotAllowed)
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
