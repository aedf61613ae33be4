// Package dashboard is the service's page for people, at /ui/. It is rendered here, works without
// JavaScript, and with it updates itself.
//
// It knows nothing but the public API, which it asks in this process with the token of who has
// signed in: so it shows exactly what that token may see, and does what that may do. The token
// stays in this process. The browser has the random id of a session, in a cookie that scripts
// can't read and that other sites can't make use of (SameSite, and every change asks where it
// comes from).
//
// Nothing that a batch holds can become markup: html/template escapes all of it, and the
// Content-Security-Policy lets no script or style run but the two files of this package.
package dashboard

import (
	"bytes"
	"embed"
	"errors"
	"hash/fnv"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"runtime"
	"strconv"
	"time"
)

//go:embed pages/*.html
var pageFiles embed.FS

//go:embed assets
var assetFiles embed.FS

// prefix is where the dashboard is.
const prefix = "/ui/"

// policy keeps the pages to what comes from this service. They have no inline script or style.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// Dashboard serves the pages. It may be used by many goroutines.
type Dashboard struct {
	api    http.Handler
	log    *slog.Logger
	pages  map[string]*template.Template
	routes http.Handler
	stamp  string        // of the assets: part of their addresses
	places chan struct{} // of pages that are being built

	sessions *sessions
	audit    Audit
}

// Audit receives the users' actions that the API does not see: sign-in and sign-out, with the
// status of the API's answer. It must not log the token.
type Audit func(r *http.Request, action, store, token string, status int)

// WithAudit sets the function that receives sign-ins. Call it before the first request.
func (d *Dashboard) WithAudit(audit Audit) *Dashboard {
	d.audit = audit
	return d
}

// New returns a dashboard over an API. Requests that are not below /ui/ are none of its business.
func New(api http.Handler, log *slog.Logger) *Dashboard {
	d := &Dashboard{
		api: api, log: log, pages: map[string]*template.Template{}, places: make(chan struct{}, 2*runtime.GOMAXPROCS(0)),
		sessions: newSessions(), audit: func(*http.Request, string, string, string, int) {},
	}
	assets, err := fs.Sub(assetFiles, "assets")
	if err != nil {
		panic(err) //nolint:forbidigo // a mistake in this package, which every test finds
	}
	d.stamp = stampOf(assets)
	layout := template.Must(template.New("layout.html").Funcs(helpers).ParseFS(pageFiles, "pages/layout.html", "pages/parts.html"))
	for _, name := range []string{"signin", "home", "store", "search", "batch", "request", "confirm", "operator", "problem"} {
		d.pages[name] = template.Must(template.Must(layout.Clone()).ParseFS(pageFiles, "pages/"+name+".html"))
	}
	mux := http.NewServeMux()
	mux.Handle("GET /ui/assets/", http.StripPrefix("/ui/assets/", cached(http.FileServerFS(assets))))
	for pattern, page := range map[string]page{
		"GET /ui/{$}":       d.home,
		"POST /ui/sign-in":  d.signIn,
		"POST /ui/sign-out": d.signOut,
		"GET /ui/operator":  d.build(d.operator),
		"POST /ui/operator/quarantine/{ticket}/{action}":              d.actAside,
		"GET /ui/stores/{store}":                                      d.build(d.store),
		"GET /ui/stores/{store}/search":                               d.build(d.search),
		"POST /ui/stores/{store}/queue/{action}":                      d.steerQueue,
		"POST /ui/stores/{store}/matching/{action}":                   d.actMatching,
		"GET /ui/stores/{store}/batches/{ticket}":                     d.build(d.batch),
		"POST /ui/stores/{store}/batches/{ticket}/{action}":           d.actBatch,
		"GET /ui/stores/{store}/batches/{ticket}/requests/{i}":        d.build(d.request),
		"GET /ui/stores/{store}/batches/{ticket}/requests/{i}/answer": d.download("answer"),
		"GET /ui/stores/{store}/batches/{ticket}/requests/{i}/body":   d.download("request"),
		"GET /ui/": d.nothing,
	} {
		mux.Handle(pattern, d.serve(page))
	}
	mux.HandleFunc("GET /ui", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, prefix, http.StatusPermanentRedirect)
	})
	d.routes = http.NewCrossOriginProtection().Handler(mux)
	return d
}

// stampOf names the assets' content.
func stampOf(assets fs.FS) string {
	h := fnv.New64a()
	err := fs.WalkDir(assets, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		text, err := fs.ReadFile(assets, path)
		_, _ = h.Write(text)
		return err
	})
	if err != nil {
		panic(err) //nolint:forbidigo // a mistake in this package, which every test finds
	}
	return strconv.FormatUint(h.Sum64(), 36)
}

// cached lets browsers keep assets: their addresses change with their content.
func cached(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		next.ServeHTTP(w, r)
	})
}

// Beside serves the dashboard at /ui/, and hands every other request to next.
func (d *Dashboard) Beside(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ui" || len(r.URL.Path) >= len(prefix) && r.URL.Path[:len(prefix)] == prefix {
			d.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// ServeHTTP serves one page or asset.
func (d *Dashboard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	d.routes.ServeHTTP(w, r)
}

// page serves a page, or returns the error to show.
type page func(w http.ResponseWriter, r *http.Request) error

// problem is an error that is shown.
type problem struct {
	status int
	text   string // a sentence
}

func (p *problem) Error() string { return p.text }

// serve shows what a page can't.
func (d *Dashboard) serve(p page) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := p(w, r)
		if err == nil {
			return
		}
		shown := &problem{http.StatusInternalServerError, "The dashboard failed to show this page. The service's log says more."}
		if !errors.As(err, &shown) {
			d.log.Error("the dashboard failed", "path", r.URL.Path, "error", err)
		}
		// The token may still have other rights, so its user stays signed in.
		if shown.status == http.StatusUnauthorized || shown.status == http.StatusForbidden && d.tokenOf(r) == "" {
			d.askToken(w, r, shown)
			return
		}
		if err := d.show(w, r, shown.status, "problem", "Not shown", shown.text); err != nil {
			d.log.Error("the dashboard failed", "path", r.URL.Path, "error", err)
		}
	})
}

// pageTime is how long a browser may take to read a page.
const pageTime = 30 * time.Second

// build limits how many pages are built at once: what a page is made of takes more memory than
// the page. A browser that reads slowly keeps no place.
func (d *Dashboard) build(p page) page {
	return func(w http.ResponseWriter, r *http.Request) error {
		select {
		case d.places <- struct{}{}:
		case <-r.Context().Done():
			return &problem{http.StatusServiceUnavailable, "The browser did not wait for this page."}
		}
		built := &recorder{header: w.Header()}
		err := func() error {
			defer func() { <-d.places }()
			return p(built, r)
		}()
		if err != nil {
			return err
		}
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(pageTime)) // a test's writer has none
		w.WriteHeader(built.status)
		_, _ = w.Write(built.body.Bytes()) // a browser that is gone is no error
		return nil
	}
}

// nothing answers where there is no page.
func (d *Dashboard) nothing(http.ResponseWriter, *http.Request) error {
	return &problem{http.StatusNotFound, "There is no page at this address."}
}

// frame is what every page is made of.
type frame struct {
	Title    string
	Stamp    string
	Store    string // empty: none
	SignedIn bool
	Operates bool   // the user has seen the page of all stores
	Here     string // which of the main pages it is
	Said     string // what was just done; empty: nothing
	Every    int    // milliseconds after which the page updates itself; 0: never
	Page     any
}

// living is a page that updates itself.
type living interface{ every() int }

// show renders a page as a whole before anything of it is sent.
func (d *Dashboard) show(w http.ResponseWriter, r *http.Request, status int, name, title string, content any) error {
	f := frame{
		Title: title, Stamp: d.stamp, Store: r.PathValue("store"), SignedIn: d.tokenOf(r) != "", Here: name, Said: said(r), Page: content,
	}
	_, f.Operates = lastSeen(r)
	f.Operates = f.Operates || name == "operator"
	if l, ok := content.(living); ok {
		f.Every = l.every()
	}
	var b bytes.Buffer
	if err := d.pages[name].Execute(&b, f); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // a browser that is gone is no error
	return nil
}
