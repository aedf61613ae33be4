package dashboard

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
)

// batchPath is where the API has a store's batches.
func batchPath(store string) string { return "/api/v3/" + url.PathEscape(store) + "/batch" }

// storePage is where the dashboard has a store.
func storePage(store string) string { return prefix + "stores/" + url.PathEscape(store) }

// recorder takes an answer of the API in this process.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// Header implements http.ResponseWriter.
func (w *recorder) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

// Write implements http.ResponseWriter.
func (w *recorder) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(p)
}

// errBroken is the API's way to say that an answer can't be finished.
var errBroken = errors.New("the API broke its answer off")

// call is a call to the API with a token, on behalf of who asks for a page.
func call(r *http.Request, token, method, path string, query url.Values) (*http.Request, error) {
	u := &url.URL{Path: path, RawQuery: query.Encode()}
	var err error
	if u.Path, err = url.PathUnescape(path); err != nil {
		return nil, err
	}
	u.RawPath = path
	call := (&http.Request{
		Method: method, URL: u, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Host: r.Host, Body: http.NoBody,
		RemoteAddr: r.RemoteAddr, RequestURI: u.RequestURI(), TLS: r.TLS, Header: http.Header{},
	}).WithContext(r.Context())
	for _, name := range []string{"X-Forwarded-For", "X-Request-Id", "Traceparent", "Tracestate"} {
		if v := r.Header[name]; v != nil {
			call.Header[name] = v
		}
	}
	if token != "" {
		call.Header.Set("Authorization", "Bearer "+token)
	}
	return call, nil
}

// ask makes one call to the API. An answer other than success is a *problem with the API's words.
func (d *Dashboard) ask(r *http.Request, token, method, path string, query url.Values) (body []byte, err error) {
	c, err := call(r, token, method, path, query)
	if err != nil {
		return nil, err
	}
	w := &recorder{header: http.Header{}}
	func() {
		defer func() {
			if v := recover(); v != nil {
				if e, ok := v.(error); !ok || !errors.Is(e, http.ErrAbortHandler) {
					panic(v) //nolint:forbidigo // not ours
				}
				err = errBroken
			}
		}()
		d.api.ServeHTTP(w, c)
	}()
	if err != nil {
		return nil, err
	}
	if w.status >= 200 && w.status <= 299 {
		return w.body.Bytes(), nil
	}
	return nil, w.problem(path)
}

// problem is an answer other than success.
func (w *recorder) problem(path string) error {
	var told struct{ ErrorMessage string }
	if err := json.Unmarshal(w.body.Bytes(), &told); err != nil || told.ErrorMessage == "" {
		return fmt.Errorf("the API answered %s with %d and no message", path, w.status)
	}
	return &problem{w.status, told.ErrorMessage}
}

// passing hands an answer of the API on as it comes, if it is a success.
type passing struct {
	recorder
	to http.ResponseWriter
}

// WriteHeader implements http.ResponseWriter.
func (p *passing) WriteHeader(status int) {
	p.recorder.WriteHeader(status)
	if status == http.StatusOK {
		for _, name := range []string{"Content-Type", "Content-Disposition", "Content-Length"} {
			p.to.Header()[name] = p.header[name]
		}
		p.to.WriteHeader(status)
	}
}

// Write implements http.ResponseWriter.
func (p *passing) Write(b []byte) (int, error) {
	if p.status == 0 {
		p.WriteHeader(http.StatusOK)
	}
	if p.status == http.StatusOK {
		return p.to.Write(b)
	}
	return p.recorder.Write(b)
}

// Unwrap is for http.ResponseController: the API sets deadlines.
func (p *passing) Unwrap() http.ResponseWriter { return p.to }

// pass answers with what the API does, which is not held here.
func (d *Dashboard) pass(w http.ResponseWriter, r *http.Request, path string, query url.Values) error {
	c, err := call(r, d.tokenOf(r), http.MethodGet, path, query)
	if err != nil {
		return err
	}
	p := &passing{recorder{header: http.Header{}}, w}
	d.api.ServeHTTP(p, c) // if it breaks the connection, so does this
	if p.status == http.StatusOK {
		return nil
	}
	return p.problem(path)
}

// get asks the API with the page's own token, and reads the answer into out.
func (d *Dashboard) get(r *http.Request, path string, query url.Values, out any) error {
	body, err := d.ask(r, d.tokenOf(r), http.MethodGet, path, query)
	if err != nil {
		return err
	}
	return json.Unmarshal(body, out)
}

// post has the API change something.
func (d *Dashboard) post(r *http.Request, path string, query url.Values, out any) error {
	body, err := d.ask(r, d.tokenOf(r), http.MethodPost, path, query)
	if err != nil {
		return err
	}
	return json.Unmarshal(body, out)
}

// asProblem returns what is to be shown of an error.
func asProblem(err error) (*problem, bool) {
	var p *problem
	ok := errors.As(err, &p)
	return p, ok
}
