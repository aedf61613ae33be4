package dashboard

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"
)

// visit requests a page with the cookies of an earlier answer.
func (w *world) visit(method, path string, cookies []*http.Cookie, headers ...string) *httptest.ResponseRecorder {
	w.Helper()
	r := httptest.NewRequest(method, "http://sheaf.example"+path, nil)
	for _, c := range cookies {
		r.AddCookie(c)
	}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	out := httptest.NewRecorder()
	w.d.ServeHTTP(out, r)
	return out
}

// TestSessions checks that a session lasts until its user signs out or signs in again, but at most
// 12 hours, and that a copied cookie is useless after that. It also checks that each sign-in and
// sign-out is audited with the token that was used.
func TestSessions(t *testing.T) {
	w := newWorld(t)
	var audited []string
	w.d.WithAudit(func(_ *http.Request, action, store, token string, status int) {
		audited = append(audited, fmt.Sprint(action, " ", store, " ", token, " ", status))
	})
	moment := time.Now()
	w.d.sessions.now = func() time.Time { return moment }
	signIn := func(earlier ...*http.Cookie) []*http.Cookie {
		t.Helper()
		form := url.Values{"store": {"1003"}, "token": {"ann"}}
		r := httptest.NewRequest("POST", "http://sheaf.example/ui/sign-in", strings.NewReader(form.Encode()))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		for _, c := range earlier {
			r.AddCookie(c)
		}
		out := httptest.NewRecorder()
		w.d.ServeHTTP(out, r)
		return out.Result().Cookies()
	}
	open := func(what string, want int, cookies []*http.Cookie, headers ...string) {
		t.Helper()
		if got := w.visit("GET", "/ui/stores/1003", cookies, headers...).Code; got != want {
			t.Errorf("%s: %d, want %d", what, got, want)
		}
	}
	first := signIn()
	open("signed in", 200, first)
	open("over TLS, with a cookie that another host could have set", 401, first, "X-Forwarded-Proto", "https")
	second := signIn(first...)
	open("a session before the last sign-in", 401, first)
	open("signed in again", 200, second)
	w.visit("POST", "/ui/sign-out", second)
	open("signed out", 401, second)
	third := signIn()
	moment = moment.Add(sessionTime - time.Second)
	open("just before the session expires", 200, third)
	moment = moment.Add(time.Second)
	open("when the session has expired", 401, third)
	open("the token as the cookie", 401, []*http.Cookie{{Name: cookieName, Value: "ann"}})
	const want = "sign-in 1003 ann 200,sign-in 1003 ann 200,sign-out  ann 200,sign-in 1003 ann 200"
	if got := strings.Join(audited, ","); got != want {
		t.Errorf("audited:\n%s\nwant\n%s", got, want)
	}
}

// TestManySessions checks that the number of sessions is limited, and that a user who signs in very
// often loses only their own.
func TestManySessions(t *testing.T) {
	s := newSessions()
	moment := time.Now()
	s.now = func() time.Time { return moment }
	ann := s.begin("ann", "192.0.2.1:1000")
	for i := range maxSessions + 100 {
		moment = moment.Add(time.Millisecond)
		s.begin("greedy", fmt.Sprintf("[2001:db8::%x]:1000", i))
	}
	if n := len(s.byID); n > maxSessions {
		t.Errorf("%d sessions, want at most %d", n, maxSessions)
	}
	if s.token(ann) != "ann" {
		t.Error("sign-ins from another network ended the session")
	}
	moment = moment.Add(sessionTime)
	s.begin("ann", "192.0.2.1:1000")
	if n := len(s.byID); n != 1 {
		t.Errorf("%d sessions are kept when all but one have expired", n)
	}
}
