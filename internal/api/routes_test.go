package api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/storagetest"
)

func TestRoutes(t *testing.T) {
	w := newWorld(t, nil)
	for _, tt := range []struct {
		method, target string
		status         int
		code, allow    string
	}{
		{"GET", "/", 404, "NOT_FOUND", ""},
		{"GET", "/api/v3/12345", 404, "NOT_FOUND", ""},
		{"GET", "/api/v3/12345/batch/", 404, "NOT_FOUND", ""},
		{"GET", "/api/v3/12345/batch/x", 404, "NOT_FOUND", ""},
		{"POST", "/api/v3/12345/batch/cancel-group/", 404, "NOT_FOUND", ""},
		{"GET", "//api/v3/12345/batch", 404, "NOT_FOUND", ""},
		{"GET", "/x/../api/v3/12345/batch", 404, "NOT_FOUND", ""},
		{"GET", "/api/v3/./12345/batch", 404, "NOT_FOUND", ""},
		{"GET", "/API/v3/12345/batch", 404, "NOT_FOUND", ""},
		{"GET", "/healthz/", 404, "NOT_FOUND", ""},
		{"GET", "/debug/pprof/", 404, "NOT_FOUND", ""},
		{"PUT", base, 405, "METHOD_NOT_ALLOWED", "GET, HEAD, POST, DELETE"},
		{"PATCH", base, 405, "METHOD_NOT_ALLOWED", "GET, HEAD, POST, DELETE"},
		{"OPTIONS", base, 405, "METHOD_NOT_ALLOWED", "GET, HEAD, POST, DELETE"},
		{"get", base, 405, "METHOD_NOT_ALLOWED", "GET, HEAD, POST, DELETE"},
		{"GET", base + "/cancel-group", 405, "METHOD_NOT_ALLOWED", "POST"},
		{"HEAD", base + "/cancel-group", 405, "", "POST"},
		{"POST", "/healthz", 405, "METHOD_NOT_ALLOWED", "GET, HEAD"},
		{"DELETE", "/readyz", 405, "METHOD_NOT_ALLOWED", "GET, HEAD"},
		{"GET", "/api/v3/a%2Fb/batch?status=QUEUED", 400, "WRONG_PARAMETER", ""},
		{"GET", "/api/v3//batch?status=QUEUED", 400, "WRONG_PARAMETER", ""},
		{"GET", "/api/v3/../batch?status=QUEUED", 400, "WRONG_PARAMETER", ""},
		{"GET", "/api/v3/a.b/batch?status=QUEUED", 400, "WRONG_PARAMETER", ""},
		{"GET", "/api/v3/%C3%A4/batch?status=QUEUED", 400, "WRONG_PARAMETER", ""},
		{"GET", "/api/v3/" + strings.Repeat("a", 65) + "/batch?status=QUEUED", 400, "WRONG_PARAMETER", ""},
		{"GET", "/api/v3/" + strings.Repeat("a", 64) + "/batch?status=QUEUED", 200, "", ""},
		{"GET", "/api/v3/My_Store-1/batch?status=QUEUED", 200, "", ""},
		{"GET", "/api/v3/%31/%62atch?status=QUEUED", 200, "", ""},
		{"HEAD", base + "?status=QUEUED", 200, "", ""},
		{"HEAD", base, 200, "", ""},
	} {
		t.Run(tt.method+" "+tt.target, func(t *testing.T) {
			a := w.do(tt.method, tt.target)
			if a.status != tt.status || a.header.Get("Allow") != tt.allow {
				t.Errorf("%d, Allow %q: %s", a.status, a.header.Get("Allow"), a.body)
			}
			if tt.code != "" && a.code(t) != tt.code {
				t.Errorf("code %s, want %s", a.code(t), tt.code)
			}
			if tt.method == "HEAD" && a.body != "" {
				t.Errorf("HEAD returned a body: %q", a.body)
			}
			for name, want := range map[string]string{
				"Content-Type": "application/json", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff",
			} {
				if got := a.header.Get(name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
		})
	}
}

func TestAuthorization(t *testing.T) {
	w := newWorld(t, nil)
	for _, tt := range []struct {
		name   string
		values []string
		status int
		code   string
	}{
		{"missing", nil, 401, "MISSING_API_TOKEN"},
		{"empty", []string{""}, 401, "MISSING_API_TOKEN"},
		{"other scheme", []string{"Basic dTpw"}, 401, "MISSING_API_TOKEN"},
		{"no token", []string{"Bearer"}, 401, "MISSING_API_TOKEN"},
		{"no token after the space", []string{"Bearer "}, 401, "MISSING_API_TOKEN"},
		{"scheme run into token", []string{"Bearerabc"}, 401, "MISSING_API_TOKEN"},
		{"twice", []string{"Bearer a", "Bearer b"}, 400, "WRONG_PARAMETER"},
		{"twice the same", []string{"Bearer a", "Bearer a"}, 400, "WRONG_PARAMETER"},
		{"space inside", []string{"Bearer a b"}, 403, "INVALID_API_TOKEN"},
		{"comma", []string{"Bearer a,Bearer b"}, 403, "INVALID_API_TOKEN"},
		{"quote", []string{`Bearer "a"`}, 403, "INVALID_API_TOKEN"},
		{"not ASCII", []string{"Bearer \u00e4"}, 403, "INVALID_API_TOKEN"},
		{"equals inside", []string{"Bearer a=b"}, 403, "INVALID_API_TOKEN"},
		{"equals alone", []string{"Bearer ="}, 403, "INVALID_API_TOKEN"},
		{"too long", []string{"Bearer " + strings.Repeat("a", batch.MaxToken+1)}, 403, "INVALID_API_TOKEN"},
		{"longest", []string{"Bearer " + strings.Repeat("a", batch.MaxToken)}, 200, ""},
		{"any case", []string{"bEARER abc"}, 200, ""},
		{"all characters", []string{"Bearer aZ09-._~+/=="}, 200, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := w.request("GET", base+"?status=QUEUED", nil)
			r.Header["Authorization"] = tt.values
			a := w.send(r)
			if a.status != tt.status || tt.code != "" && a.code(t) != tt.code {
				t.Errorf("%d %s", a.status, a.body)
			}
			challenge := a.header.Get("WWW-Authenticate")
			if want := map[bool]string{true: "Bearer"}[a.status == 401]; challenge != want {
				t.Errorf("WWW-Authenticate: %q, want %q", challenge, want)
			}
		})
	}
}

// TestOrderOfChecks: an unknown path is reported before a missing token, a missing token before a wrong
// store, and a wrong store before a wrong parameter.
func TestOrderOfChecks(t *testing.T) {
	w := newWorld(t, nil)
	for _, tt := range []struct {
		method, target string
		authorized     bool
		code           string
	}{
		{"GET", "/nowhere", false, "NOT_FOUND"},
		{"PUT", "/api/v3/a.b/batch", false, "METHOD_NOT_ALLOWED"},
		{"GET", "/api/v3/a.b/batch", false, "MISSING_API_TOKEN"},
		{"POST", base + "?stopOnFirstFailure=x", true, "WRONG_PARAMETER"},
		{"POST", base, true, "UNSUPPORTED_MEDIA_TYPE"},
	} {
		r := w.request(tt.method, tt.target, nil)
		if !tt.authorized {
			r.Header.Del("Authorization")
		}
		if got := w.send(r).code(t); got != tt.code {
			t.Errorf("%s %s: %s, want %s", tt.method, tt.target, got, tt.code)
		}
	}
	a := w.do("GET", "/api/v3/a.b/batch?status=x")
	if !strings.Contains(a.body, "store id") {
		t.Errorf("the store is not checked first: %s", a.body)
	}
}

func TestHealth(t *testing.T) {
	w := newWorld(t, nil)
	for _, tt := range []struct {
		target string
		ready  error
		status int
		body   string
	}{
		{"/healthz", nil, 200, `{"status":"ok"}`},
		{"/healthz", errors.New("down"), 200, `{"status":"ok"}`},
		{"/readyz", nil, 200, `{"status":"ready"}`},
		{"/readyz", errors.New(`recovery is "running"`), 503, `{"status":"unavailable","reason":"recovery is \"running\""}`},
	} {
		w.ready = tt.ready
		r := w.request("GET", tt.target, nil)
		r.Header.Del("Authorization")
		if a := w.send(r); a.status != tt.status || a.body != tt.body {
			t.Errorf("%s with %v: %d %s", tt.target, tt.ready, a.status, a.body)
		}
		if a := w.do("HEAD", tt.target); a.status != tt.status || a.body != "" {
			t.Errorf("HEAD %s with %v: %d %s", tt.target, tt.ready, a.status, a.body)
		}
	}
}

// faultyStorage is a database with a bug.
type faultyStorage struct {
	Storage
	value any
}

func (p faultyStorage) Find(_ context.Context, f storage.Filter) (storage.Page, error) {
	if p.value == nil {
		return storage.Page{Batches: make([]storage.Summary, 1)[f.Limit:]}, nil
	}
	panic(p.value)
}

func TestPanic(t *testing.T) {
	const target = base + "?status=QUEUED&x=hidden-query"
	for name, tt := range map[string]struct {
		value  any
		logged string
	}{
		"error":   {errors.New("hidden-value"), "*errors.errorString"},
		"text":    {"hidden-value", `"string"`},
		"runtime": {nil, "slice bounds out of range"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(o *Options) { o.Storage = faultyStorage{o.Storage, tt.value} })
			a := w.do("GET", target)
			if a.status != 500 || a.code(t) != "INTERNAL_ERROR" {
				t.Errorf("%d %s", a.status, a.body)
			}
			log := w.log()
			if !strings.Contains(log, tt.logged) || !strings.Contains(log, "routes_test.go") {
				t.Errorf("the log does not say what happened and where: %s", log)
			}
			if strings.Contains(log+a.body, "hidden") {
				t.Errorf("a caller's data was shown: %s %s", log, a.body)
			}
		})
	}
	t.Run("abort", func(t *testing.T) {
		w := newWorld(t, func(o *Options) { o.Storage = faultyStorage{o.Storage, http.ErrAbortHandler} })
		if a, err := try(w.request("GET", target, nil)); err == nil {
			t.Errorf("the connection did not break: %d %s", a.status, a.body)
		}
	})
}

// TestRequestID: each answer has an id. It is the caller's id if that can be logged.
func TestRequestID(t *testing.T) {
	w := newWorld(t, nil)
	seen := map[string]bool{}
	for _, tt := range []struct{ given, want string }{
		{"", ""},
		{"", ""},
		{"trace-1.A_b", "trace-1.A_b"},
		{strings.Repeat("x", 128), strings.Repeat("x", 128)},
		{strings.Repeat("x", 129), ""},
		{"a b", ""},
		{"a\"b", ""},
		{"ä", ""},
	} {
		r := w.request("GET", base+"?status=QUEUED", nil)
		if tt.given != "" {
			r.Header["X-Request-Id"] = []string{tt.given}
		}
		got := w.send(r).header.Get("X-Request-Id")
		if tt.want != "" && got != tt.want || tt.want == "" && (len(got) != 16 || seen[got]) {
			t.Errorf("given %q: %q", tt.given, got)
		}
		seen[got] = true
	}
	w.node.SetFault(func(string) storagetest.Fault { return storagetest.FailedNotStored })
	r := w.request("GET", base+"?status=QUEUED", nil)
	r.Header.Set("X-Request-Id", "mine")
	w.send(r)
	if !strings.Contains(w.log(), `"request_id":"mine"`) {
		t.Errorf("the log does not name the call: %s", w.log())
	}
}
