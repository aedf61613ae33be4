package dashboard

import (
	"net/http"
	"net/url"
	"path"
	"strings"
)

const (
	// cookieName names the cookie that holds the token until the browser is closed.
	cookieName = "sheaf_token"
	// maxCookie is how long a token may be: browsers keep cookies of up to 4 KiB.
	maxCookie = 3800
)

// tokenOf returns the token of who has signed in; empty: nobody has.
func tokenOf(r *http.Request) string {
	c, err := r.Cookie(cookieName)
	if err != nil {
		return ""
	}
	return c.Value
}

// setToken keeps a token; an empty one is forgotten.
func setToken(w http.ResponseWriter, r *http.Request, token string) {
	c := &http.Cookie{ //nolint:gosec // Secure where it can be
		Name: cookieName, Value: token, Path: prefix, HttpOnly: true, SameSite: http.SameSiteLaxMode,
		// A proxy that ends TLS says so; who lies only keeps the cookie from itself.
		Secure: r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https"),
	}
	if token == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// signInPage is what is asked for.
type signInPage struct {
	Problem string // why it is asked for again; empty: it is not
	Store   string
	Next    string // where it goes on
}

// home shows where to sign in.
func (d *Dashboard) home(w http.ResponseWriter, r *http.Request) error {
	return d.show(w, r, http.StatusOK, "signin", "Sign in", signInPage{Store: r.URL.Query().Get("store")})
}

// askToken shows where to sign in, for a page that the token, or its absence, did not open.
func (d *Dashboard) askToken(w http.ResponseWriter, r *http.Request, why *problem) {
	p := signInPage{Store: r.PathValue("store"), Problem: why.text}
	if r.Method == http.MethodGet {
		p.Next = r.URL.RequestURI()
	}
	if tokenOf(r) == "" {
		p.Problem = "Sign in to see this page."
	}
	if err := d.show(w, r, why.status, "signin", "Sign in", p); err != nil {
		d.log.Error("the dashboard failed", "error", err)
	}
}

// signIn asks the API whether the token opens anything, and keeps it.
func (d *Dashboard) signIn(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	p := signInPage{Store: strings.TrimSpace(r.PostFormValue("store")), Next: local(r.PostFormValue("next"))}
	token := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(r.PostFormValue("token")), "Bearer "))
	question, to := "/operator", prefix+"operator"
	if p.Store != "" {
		question, to = batchPath(p.Store)+"/queue", storePage(p.Store)
	}
	switch {
	case token == "":
		p.Problem = "The token is missing."
	case len(token) > maxCookie:
		p.Problem = "This token is too long to be kept by a browser. The command line takes it: sheaf login."
	default:
		_, err := d.ask(r, token, http.MethodGet, question, nil)
		if err == nil {
			setToken(w, r, token)
			if p.Next != "" {
				to = p.Next
			}
			http.Redirect(w, r, to, http.StatusSeeOther)
			return nil
		}
		shown, ok := asProblem(err)
		if !ok {
			return err
		}
		p.Problem = shown.text
	}
	return d.show(w, r, http.StatusForbidden, "signin", "Sign in", p)
}

// local returns an address if it is a page of the dashboard; else nothing.
func local(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(path.Clean(u.Path), prefix) || strings.Contains(address, "\\") {
		return ""
	}
	return u.RequestURI()
}

// signOut forgets the token.
func (d *Dashboard) signOut(w http.ResponseWriter, r *http.Request) error {
	setToken(w, r, "")
	http.Redirect(w, r, prefix, http.StatusSeeOther)
	return nil
}
