package api

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/internal/api/reply"
	"github.com/sheafapi/sheaf/internal/storage"
)

// slowPages is storage that takes longer to return a page of results than a client may take to read
// it.
type slowPages struct{ Storage }

func (s slowPages) Results(ctx context.Context, id storage.BatchID, from, bytes int) ([]storage.IndexedResult, error) {
	<-time.After(2 * time.Minute)
	return s.Storage.Results(ctx, id, from, bytes)
}

// closedOnce is a pipeListener that may be closed twice.
type closedOnce struct {
	pipeListener
	once sync.Once
}

func (l *closedOnce) Close() (err error) {
	l.once.Do(func() { err = l.pipeListener.Close() })
	return err
}

// TestQuietStreamsOverHTTP2: an answer over HTTP/2 may pause as long as the service has nothing to
// send. A write deadline that isn't removed would reset the stream.
func TestQuietStreamsOverHTTP2(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ask := newBare(t)
		create := func(n int) string {
			return ask("POST", base, `[`+strings.Repeat(`{"method":"GET","path":"p"},`, n-1)+`{"method":"GET","path":"p"}]`).Body.String()[len(`{"ticket":"`):][:36]
		}
		large := create(10)
		claim, err := s.Storage.(storage.Storage).Claim(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		var marks []storage.Mark
		for i := range 10 {
			marks = append(marks, done(i, 200, `"`+strings.Repeat("x", 1<<20)+`"`))
		}
		if _, err := s.Storage.(storage.Storage).Finish(t.Context(), claim, marks, "", true); err != nil {
			t.Fatal(err)
		}
		quiet := create(1)
		s.Storage = slowPages{s.Storage}

		server := httptest.NewUnstartedServer(s)
		_ = server.Listener.Close()
		pipes := make(chan net.Conn, 10)
		server.Listener, server.EnableHTTP2, server.Config.WriteTimeout = &closedOnce{pipeListener: pipes}, true, 5*time.Minute
		server.StartTLS()
		defer server.Close()
		client := server.Client()
		client.Timeout = 0
		transport := client.Transport.(*http.Transport)
		transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
			here, there := net.Pipe()
			pipes <- there
			return here, nil
		}
		get := func(ticket, accept string) (body []byte, took time.Duration) {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://example.com"+base+"?ticket="+ticket, http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Authorization", "Bearer abc")
			r.Header.Set("Accept", accept)
			began := time.Now()
			resp, err := client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if body, err = io.ReadAll(resp.Body); err != nil || resp.ProtoMajor != 2 {
				t.Errorf("%s over %s ended after %v with %v", accept, resp.Proto, time.Since(began), err)
			}
			return body, time.Since(began)
		}
		if lines, _ := get(large, "application/x-ndjson"); bytes.Count(lines, []byte("\n")) != 10 {
			t.Errorf("%d lines", bytes.Count(lines, []byte("\n")))
		}
		if _, took := get(quiet, "text/event-stream"); took < reply.StreamLife/2 {
			t.Errorf("the events ended after %v", took)
		}
	})
}
