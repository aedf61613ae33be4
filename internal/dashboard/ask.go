package dashboard

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
)

// batchPath returns the API's path for a store's batches.
func batchPath(store string) string { return "/api/v3/" + url.PathEscape(store) + "/batch" }

// storePage returns the path of a store's page.
func storePage(store string) string { return prefix + "stores/" + url.PathEscape(store) }

// recorder is a ResponseWriter that keeps an answer in memory.
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

// errBroken means that the API aborted its answer.
var errBroken = errors.New("the API aborted its answer")

// call returns a request to the API with a token, on behalf of the user who sent r.
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

// ask makes one call to the API. It returns an unsuccessful answer as a *problem with the API's
// error message.
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
					panic(v) //nolint:forbidigo // passes on a panic in the API
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

// problem returns an unsuccessful answer as an error.
func (w *recorder) problem(path string) error {
	var answer struct{ ErrorMessage string }
	if err := json.Unmarshal(w.body.Bytes(), &answer); err != nil || answer.ErrorMessage == "" {
		return fmt.Errorf("the API answered %s with %d and no message", path, w.status)
	}
	return &problem{w.status, answer.ErrorMessage}
}

// forwarder forwards a successful answer as it is written, and records any other answer.
type forwarder struct {
	recorder
	to http.ResponseWriter
}

// WriteHeader implements http.ResponseWriter.
func (p *forwarder) WriteHeader(status int) {
	p.recorder.WriteHeader(status)
	if status == http.StatusOK {
		for _, name := range []string{"Content-Type", "Content-Disposition", "Content-Length"} {
			p.to.Header()[name] = p.header[name]
		}
		p.to.WriteHeader(status)
	}
}

// Write implements http.ResponseWriter.
func (p *forwarder) Write(b []byte) (int, error) {
	if p.status == 0 {
		p.WriteHeader(http.StatusOK)
	}
	if p.status == http.StatusOK {
		return p.to.Write(b)
	}
	return p.recorder.Write(b)
}

// Unwrap lets http.ResponseController set the deadlines that the API asks for.
func (p *forwarder) Unwrap() http.ResponseWriter { return p.to }

// forward sends the user the API's answer without holding it in memory.
func (d *Dashboard) forward(w http.ResponseWriter, r *http.Request, path string, query url.Values) error {
	c, err := call(r, d.tokenOf(r), http.MethodGet, path, query)
	if err != nil {
		return err
	}
	p := &forwarder{recorder{header: http.Header{}}, w}
	d.api.ServeHTTP(p, c) // if the API aborts its answer, the user's is aborted too
	if p.status == http.StatusOK {
		return nil
	}
	return p.problem(path)
}

// get calls the API with the user's token and decodes the answer into out.
func (d *Dashboard) get(r *http.Request, path string, query url.Values, out any) error {
	body, err := d.ask(r, d.tokenOf(r), http.MethodGet, path, query)
	if err != nil {
		return err
	}
	return json.Unmarshal(body, out)
}

// post makes a change with the user's token and decodes the answer into out.
func (d *Dashboard) post(r *http.Request, path string, query url.Values, out any) error {
	body, err := d.ask(r, d.tokenOf(r), http.MethodPost, path, query)
	if err != nil {
		return err
	}
	return json.Unmarshal(body, out)
}

// asProblem returns err as a problem, if it is one.
func asProblem(err error) (*problem, bool) {
	var p *problem
	ok := errors.As(err, &p)
	return p, ok
}
