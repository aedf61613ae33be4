package dashboard

import (
	"net/http"
	"net/url"
	"path"
	"strings"
)

const (
	// The names of the session cookie. Browsers accept a name that begins with __Host- only over
	// TLS, from this host, and for all its paths, so other hosts of the domain can't set it.
	cookieName       = "sheaf_session"
	secureCookieName = "__Host-" + cookieName

	maxToken = 3800 // the maximum length of a token, in bytes
)

// isSecure reports whether the browser uses TLS. A proxy that terminates TLS says so in a header.
// A client that forges the header only loses its own cookie.
func isSecure(r *http.Request) bool {
	return r.TLS != nil || strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https")
}

// sessionOf returns the ID in the session cookie, or "" if there is none.
func sessionOf(r *http.Request) string {
	name := cookieName
	if isSecure(r) {
		name = secureCookieName
	}
	c, err := r.Cookie(name)
	if err != nil {
		return ""
	}
	return c.Value
}

// tokenOf returns the signed-in user's token, or "" if the user isn't signed in.
func (d *Dashboard) tokenOf(r *http.Request) string { return d.sessions.token(sessionOf(r)) }

// setSession sets the session cookie. An empty ID removes it.
func setSession(w http.ResponseWriter, r *http.Request, id string) {
	name, path := cookieName, prefix
	if isSecure(r) {
		name, path = secureCookieName, "/"
	}
	setCookie(w, r, name, path, id)
}

// setCookie sets a cookie that lasts until the browser is closed. An empty value removes it.
func setCookie(w http.ResponseWriter, r *http.Request, name, path, value string) {
	c := &http.Cookie{ //nolint:gosec // Secure over TLS
		Name: name, Value: value, Path: path, HttpOnly: true, SameSite: http.SameSiteLaxMode, Secure: isSecure(r),
	}
	if value == "" {
		c.MaxAge = -1
	}
	http.SetCookie(w, c)
}

// lastCookie is the name of the cookie that records which page the user saw last: a store or all
// stores. It only selects pages and links and grants no access.
const lastCookie = "sheaf_last"

// allStores in lastCookie stands for the page of all stores. No store can have this name.
const allStores = "*"

// lastSeen returns the store that the user saw last, and whether they have seen the page of all
// stores.
func lastSeen(r *http.Request) (store string, all bool) {
	c, err := r.Cookie(lastCookie)
	if err != nil {
		return "", false
	}
	store, all = strings.CutPrefix(c.Value, allStores)
	return store, all
}

// remember records which page the user sees now.
func remember(w http.ResponseWriter, r *http.Request, store string, all bool) {
	oldStore, seen := lastSeen(r)
	value := store
	if store == "" {
		value = oldStore
	}
	if all || seen {
		value = allStores + value
	}
	if c, err := r.Cookie(lastCookie); err != nil || c.Value != value {
		setCookie(w, r, lastCookie, prefix, value)
	}
}

// signInPage is the data of the sign-in form.
type signInPage struct {
	Problem string // why the user must sign in again; "" on the first attempt
	Store   string
	Next    string // the page to open after signing in
}

// home redirects a signed-in user to a store, or asks for one. Other users are asked to sign in.
func (d *Dashboard) home(w http.ResponseWriter, r *http.Request) error {
	store := strings.TrimSpace(r.URL.Query().Get("store"))
	if d.tokenOf(r) == "" {
		return d.show(w, r, http.StatusOK, "signin", "Sign in", signInPage{Store: store})
	}
	last, all := lastSeen(r)
	switch {
	case store == "" && last == "" && all:
		http.Redirect(w, r, prefix+"operator", http.StatusSeeOther)
		return nil
	case store == "":
		store = last
	}
	if store == "" {
		return d.show(w, r, http.StatusOK, "home", "Choose a store", nil)
	}
	http.Redirect(w, r, storePage(store), http.StatusSeeOther) //nolint:gosec // a page of the dashboard
	return nil
}

// askToken shows the sign-in form in place of a page that the user isn't allowed to see.
func (d *Dashboard) askToken(w http.ResponseWriter, r *http.Request, why *problem) {
	p := signInPage{Store: r.PathValue("store"), Problem: why.text}
	if r.Method == http.MethodGet {
		p.Next = r.URL.RequestURI()
	}
	if d.tokenOf(r) == "" {
		p.Problem = "Sign in to see this page."
	}
	if err := d.show(w, r, why.status, "signin", "Sign in", p); err != nil {
		d.log.Error("could not show the sign-in page of the dashboard", "error", err)
	}
}

// signIn begins a session if the API accepts the token.
func (d *Dashboard) signIn(w http.ResponseWriter, r *http.Request) error {
	r.Body = http.MaxBytesReader(w, r.Body, 64<<10)
	p := signInPage{Store: strings.TrimSpace(r.PostFormValue("store")), Next: local(r.PostFormValue("next"))}
	token := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(r.PostFormValue("token")), "Bearer "))
	probe, to := "/operator", prefix+"operator"
	if p.Store != "" {
		probe, to = batchPath(p.Store)+"/queue", storePage(p.Store)
	}
	switch {
	case token == "":
		p.Problem = "Enter a token."
	case len(token) > maxToken:
		p.Problem = "This token is too long for the dashboard. Use it on the command line: sheaf login."
	default:
		_, err := d.ask(r, token, http.MethodGet, probe, nil)
		if err == nil {
			d.sessions.end(sessionOf(r))
			setSession(w, r, d.sessions.begin(token, r.RemoteAddr))
			d.audit(r, "sign-in", p.Store, token, http.StatusOK)
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
		d.audit(r, "sign-in", p.Store, token, shown.status)
	}
	return d.show(w, r, http.StatusForbidden, "signin", "Sign in", p)
}

// local returns the URL if it leads to a page of the dashboard, and "" otherwise.
func local(address string) string {
	u, err := url.Parse(address)
	if err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(path.Clean(u.Path), prefix) || strings.Contains(address, "\\") {
		return ""
	}
	return u.RequestURI()
}

// signOut ends the session.
func (d *Dashboard) signOut(w http.ResponseWriter, r *http.Request) error {
	if token := d.tokenOf(r); token != "" {
		d.sessions.end(sessionOf(r))
		d.audit(r, "sign-out", "", token, http.StatusOK)
	}
	setSession(w, r, "")
	if _, err := r.Cookie(lastCookie); err == nil {
		setCookie(w, r, lastCookie, prefix, "")
	}
	http.Redirect(w, r, prefix, http.StatusSeeOther)
	return nil
}
