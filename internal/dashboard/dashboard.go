// Package dashboard serves the web interface at /ui/. Pages are rendered on the server and work
// without JavaScript. With JavaScript, they update automatically.
//
// The dashboard calls the public API in the same process, with the token of the signed-in user. It
// therefore shows and does exactly what that token allows. The token stays in this process. The
// browser only holds a random session ID, in a cookie that scripts can't read. Other sites can't
// use it: the cookie is SameSite, and every change checks the origin of the request.
//
// Nothing in a batch can become markup: html/template escapes everything, and the
// Content-Security-Policy allows only this package's own script and style sheet.
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

// prefix is the path below which all pages are.
const prefix = "/ui/"

// policy allows only content from this service. The pages have no inline script or style.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// Dashboard serves the pages. It is safe for concurrent use.
type Dashboard struct {
	api    http.Handler
	log    *slog.Logger
	pages  map[string]*template.Template
	routes http.Handler
	stamp  string        // a hash of the assets, which is part of their URLs
	builds chan struct{} // limits how many pages are built at once

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

// New returns a dashboard that calls api.
func New(api http.Handler, log *slog.Logger) *Dashboard {
	d := &Dashboard{
		api: api, log: log, pages: map[string]*template.Template{}, builds: make(chan struct{}, 2*runtime.GOMAXPROCS(0)),
		sessions: newSessions(), audit: func(*http.Request, string, string, string, int) {},
	}
	assets, err := fs.Sub(assetFiles, "assets")
	if err != nil {
		panic(err) //nolint:forbidigo // a bug in this package that every test finds
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
		"POST /ui/operator/quarantine/{ticket}/{action}":              d.actQuarantined,
		"GET /ui/stores/{store}":                                      d.build(d.store),
		"GET /ui/stores/{store}/search":                               d.build(d.search),
		"POST /ui/stores/{store}/queue/{action}":                      d.steerQueue,
		"POST /ui/stores/{store}/matching/{action}":                   d.actMatching,
		"GET /ui/stores/{store}/batches/{ticket}":                     d.build(d.batch),
		"POST /ui/stores/{store}/batches/{ticket}/{action}":           d.actBatch,
		"GET /ui/stores/{store}/batches/{ticket}/requests/{i}":        d.build(d.request),
		"GET /ui/stores/{store}/batches/{ticket}/requests/{i}/answer": d.download("answer"),
		"GET /ui/stores/{store}/batches/{ticket}/requests/{i}/body":   d.download("request"),
		"GET /ui/": d.notFound,
	} {
		mux.Handle(pattern, d.serve(page))
	}
	mux.HandleFunc("GET /ui", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, prefix, http.StatusPermanentRedirect)
	})
	d.routes = http.NewCrossOriginProtection().Handler(mux)
	return d
}

// stampOf returns a hash of the assets.
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
		panic(err) //nolint:forbidigo // a bug in this package that every test finds
	}
	return strconv.FormatUint(h.Sum64(), 36)
}

// cached lets browsers keep the assets, because an asset's URL changes with its content.
func cached(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
		next.ServeHTTP(w, r)
	})
}

// Wrap returns a handler that serves the dashboard at /ui/ and passes other requests to next.
func (d *Dashboard) Wrap(next http.Handler) http.Handler {
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

// page is a handler for one page. If it returns an error, the caller shows the error.
type page func(w http.ResponseWriter, r *http.Request) error

// problem is an error that is shown to the user.
type problem struct {
	status int
	text   string // one or more sentences
}

func (p *problem) Error() string { return p.text }

// serve makes a page an http.Handler. It shows the page's error, or asks the user to sign in.
func (d *Dashboard) serve(p page) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := p(w, r)
		if err == nil {
			return
		}
		shown := &problem{http.StatusInternalServerError, "The dashboard could not show this page. See the service's log for details."}
		if !errors.As(err, &shown) {
			d.log.Error("could not show a page of the dashboard", "path", r.URL.Path, "error", err)
		}
		// A signed-in user's token may still have other rights, so the user stays signed in.
		if shown.status == http.StatusUnauthorized || shown.status == http.StatusForbidden && d.tokenOf(r) == "" {
			d.askToken(w, r, shown)
			return
		}
		if err := d.show(w, r, shown.status, "problem", "Something went wrong", shown.text); err != nil {
			d.log.Error("could not show a page of the dashboard", "path", r.URL.Path, "error", err)
		}
	})
}

// pageTimeout is how long a browser may take to receive a page.
const pageTimeout = 30 * time.Second

// build limits how many pages are built at once, because a page's data takes more memory than the
// page itself. A finished page no longer counts, so a slow browser doesn't block other pages.
func (d *Dashboard) build(p page) page {
	return func(w http.ResponseWriter, r *http.Request) error {
		select {
		case d.builds <- struct{}{}:
		case <-r.Context().Done():
			return &problem{http.StatusServiceUnavailable, "The browser closed the connection before the page was ready."}
		}
		built := &recorder{header: w.Header()}
		err := func() error {
			defer func() { <-d.builds }()
			return p(built, r)
		}()
		if err != nil {
			return err
		}
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(pageTimeout)) // writers in tests don't support deadlines
		w.WriteHeader(built.status)
		_, _ = w.Write(built.body.Bytes()) // fails only if the browser is gone
		return nil
	}
}

// notFound answers requests for pages that don't exist.
func (d *Dashboard) notFound(http.ResponseWriter, *http.Request) error {
	return &problem{http.StatusNotFound, "Page not found."}
}

// frame is the data of layout.html.
type frame struct {
	Title    string
	Stamp    string
	Store    string // "": the page belongs to no store
	SignedIn bool
	Operates bool   // the user has seen the page of all stores, so it is linked
	Here     string // the name of the page's template
	Notice   string // what the user's last action did; "": there was none
	Every    int    // how often the page updates, in milliseconds; 0: never
	Page     any    // the data of the page's own template
}

// refresher is the data of a page that updates automatically. every returns the interval in
// milliseconds, or 0 if the page won't change any more.
type refresher interface{ every() int }

// show renders the whole page before it sends the first byte, so that an error can still be shown.
func (d *Dashboard) show(w http.ResponseWriter, r *http.Request, status int, name, title string, content any) error {
	f := frame{
		Title: title, Stamp: d.stamp, Store: r.PathValue("store"), SignedIn: d.tokenOf(r) != "", Here: name, Notice: notice(r), Page: content,
	}
	_, f.Operates = lastSeen(r)
	f.Operates = f.Operates || name == "operator"
	if c, ok := content.(refresher); ok {
		f.Every = c.every()
	}
	var b bytes.Buffer
	if err := d.pages[name].Execute(&b, f); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(b.Len()))
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes()) // fails only if the browser is gone
	return nil
}
