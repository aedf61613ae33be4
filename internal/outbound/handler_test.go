package outbound

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/internal/strictupstream"
)

// newServed returns a client of a handler in this process, and the buffer that it logs to.
func newServed(t testing.TB, h http.HandlerFunc) (*Client, *bytes.Buffer) {
	var log bytes.Buffer
	return newClient(t, "upstream.invalid", func(o *Options) {
		o.Handler = h
		o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	}), &log
}

// A handler sees the same requests, and the client the same answers, with and without a socket.
func TestHandlerAsServer(t *testing.T) {
	type seen struct {
		Method, URL, RequestURI, Host, Proto, Body string
		Length                                     int64
		Header                                     http.Header
	}
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || r.RemoteAddr == "" {
			t.Errorf("error %v, remote address %q", err, r.RemoteAddr)
		}
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusAccepted)
		w.WriteHeader(http.StatusTeapot)
		w.Header().Set("X-Too-Late", "1")
		json.NewEncoder(w).Encode(seen{r.Method, r.URL.String(), r.RequestURI, r.Host, r.Proto, string(body), r.ContentLength, r.Header})
	})
	s := httptest.NewUnstartedServer(h)
	s.Listener = strictupstream.Watch(t, s.Listener)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	s.Start()
	defer s.Close()
	addr := s.Listener.Addr().String()
	overSocket := newClient(t, addr)
	inProcess := newClient(t, addr, func(o *Options) { o.Handler = h })
	for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} {
		for _, path := range []string{"/products?x=%2B+%20", "a%2fb", "", "/a?", "/{}|\"<>", "/%zz"} {
			for _, body := range []string{"", `{"a":1.10}`} {
				call := newCall(method, path, body)
				want, got := overSocket.Do(t.Context(), call), inProcess.Do(t.Context(), call)
				if want.Code == http.StatusBadRequest && got.Code == want.Code && got.Outcome == Answered {
					continue // the server has its own text
				}
				for _, added := range []string{"Date", "Content-Length", "Content-Type"} {
					want.Header.Del(added) // the server adds it
				}
				if !reflect.DeepEqual(got, want) {
					t.Errorf("%s %s %q: in this process\n%+v\n%s\nover a socket\n%+v\n%s",
						method, path, body, got, got.Body, want, want.Body)
				}
			}
		}
	}
}

func TestHandlerAnswers(t *testing.T) {
	for name, v := range map[string]struct {
		handler http.HandlerFunc
		code    int
		body    string
	}{
		"silent":  {func(http.ResponseWriter, *http.Request) {}, 200, ""},
		"written": {func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "a"); io.WriteString(w, "b") }, 200, "ab"},
		"hinted": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(103)
			w.WriteHeader(404)
		}, 404, ""},
		"flushed": {func(w http.ResponseWriter, _ *http.Request) {
			w.(http.Flusher).Flush()
			w.WriteHeader(404)
		}, 200, ""},
		"no content": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(204)
			if _, err := io.WriteString(w, "x"); !errors.Is(err, http.ErrBodyNotAllowed) {
				t.Error(err)
			}
		}, 204, ""},
		"at the limit": {func(w http.ResponseWriter, _ *http.Request) { w.Write(make([]byte, testLimit)) }, 200, string(make([]byte, testLimit))},
	} {
		t.Run(name, func(t *testing.T) {
			c, _ := newServed(t, v.handler)
			a := c.Do(t.Context(), newCall("GET", "/a", ""))
			expect(t, a, Answered, v.code)
			if string(a.Body) != v.body || a.Line != http.StatusText(v.code) {
				t.Errorf("line %q, %d bytes of body", a.Line, len(a.Body))
			}
		})
	}
}

func TestHandlerTooLarge(t *testing.T) {
	c, _ := newServed(t, func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 1000)); err != nil {
				w.Write([]byte("x"))
				panic(http.ErrAbortHandler)
			}
		}
	})
	expect(t, c.Do(t.Context(), newCall("POST", "/a", "")), TooLarge, 502, "larger than the limit of 1 MiB")
}

func TestHandlerFails(t *testing.T) {
	for name, v := range map[string]struct {
		fail   func(w http.ResponseWriter)
		logged string
	}{
		"panics":       {func(http.ResponseWriter) { panic("the body was secret-token") }, "panic=string"},
		"fault":        {func(w http.ResponseWriter) { _ = []int{}[len(w.Header())] }, "index out of range"},
		"invalid code": {func(w http.ResponseWriter) { w.WriteHeader(7) }, "panic=string"},
		"aborts":       {func(http.ResponseWriter) { panic(http.ErrAbortHandler) }, ""},
		"exits":        {func(http.ResponseWriter) { runtime.Goexit() }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c, log := newServed(t, func(w http.ResponseWriter, _ *http.Request) { v.fail(w) })
			expect(t, c.Do(t.Context(), newCall("POST", "/a", "{}")), Doubt, 502,
				"Bad Gateway: the upstream failed before its answer was complete"+unknown)
			if !strings.Contains(log.String(), v.logged) || v.logged == "" && log.Len() > 0 {
				t.Errorf("the log is %q", log)
			}
			if strings.Contains(log.String(), "secret-token") {
				t.Errorf("the log contains the token: %q", log)
			}
		})
	}
}

func TestHandlerTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		deaf := make(chan struct{})
		c, _ := newServed(t, func(w http.ResponseWriter, r *http.Request) {
			<-deaf // ignores its context
			io.WriteString(w, "too late")
		})
		start := time.Now()
		expect(t, c.Do(t.Context(), newCall("POST", "/a", "{}")), Doubt, 504,
			"Gateway Timeout: no complete answer within 1m0s"+unknown)
		if d := time.Since(start); d != time.Minute {
			t.Errorf("Do took %v", d)
		}
		close(deaf)
	})
}

func TestHandlerInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	calls := 0
	c, _ := newServed(t, func(w http.ResponseWriter, r *http.Request) {
		calls++
		cancel()
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	})
	expect(t, c.Do(ctx, newCall("PUT", "/a", "{}")), Doubt, 502, "Bad Gateway: the service was interrupted")
	expect(t, c.Do(ctx, newCall("PUT", "/a", "{}")), NotSent, 502, "Bad Gateway: the service was interrupted")
	if calls != 1 {
		t.Errorf("%d calls", calls)
	}
}
