package api

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/sheafapi/sheaf/internal/api/reply"
	"github.com/sheafapi/sheaf/internal/auth"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/budget"
	"github.com/sheafapi/sheaf/internal/cpu"
	"github.com/sheafapi/sheaf/internal/storage"
)

// hog takes all memory that calls may hold while they read. It returns a function that frees it.
func hog(t *testing.T, s *API) (release func()) {
	t.Helper()
	var shares []*budget.Share
	for n := 0; ; n++ { // each call gets half of what is free
		share := s.source.Reads.Share(fmt.Sprint(n))
		for share.TryGrow(1 << 10) {
			continue
		}
		if shares = append(shares, share); share.Held() == 0 {
			break
		}
	}
	favored := s.source.Reads.Share("favored")
	if err := favored.Grow(t.Context(), s.source.Reads.Most()); err != nil {
		t.Fatal(err)
	}
	return func() {
		favored.Release()
		for _, share := range shares {
			share.Release()
		}
	}
}

// newBare returns an API without a server, and a function that calls it.
func newBare(t testing.TB) (*API, func(method, target, body string) *httptest.ResponseRecorder) {
	s := New(Options{
		Authorize: new(auth.Gate).Authorize, AuthorizeOperator: new(auth.Gate).AuthorizeOperator,
		Storage: openDatabase(t), MaxBody: maxBody, MaxAnswer: 5 << 20, Logger: discard,
		Wake: func(storage.QueueID) {}, Notify: func(storage.QueueID) {},
		Seal: func(batch.Ticket, string, string) ([]byte, error) { return []byte("sealed"), nil },
	})
	return s, func(method, target, body string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, target, strings.NewReader(body))
		r.Header.Set("Authorization", "Bearer abc")
		r.Header.Set("Content-Type", "application/json")
		rec := httptest.NewRecorder()
		s.ServeHTTP(rec, r)
		return rec
	}
}

// TestCreatesTakeTurns: a large create, compressed or not, waits until the CPU is free of other
// stores' large work. A small one doesn't wait.
func TestCreatesTakeTurns(t *testing.T) {
	small := `[{"method":"POST","path":"p"}]`
	large := `[{"method":"POST","path":"p","body":"` + strings.Repeat("x", cpu.Large) + `"}]`
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write([]byte(large))
	_ = z.Close()
	synctest.Test(t, func(t *testing.T) {
		s, _ := newBare(t)
		s.CPU = cpu.New(2)
		leave, err := s.CPU.Enter(t.Context(), cpu.Large, "hog")
		if err != nil {
			t.Fatal(err)
		}
		var answered atomic.Int32
		create := func(body, coding string) {
			r := httptest.NewRequest("POST", base, strings.NewReader(body))
			r.Header.Set("Authorization", "Bearer abc")
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Content-Encoding", coding)
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			if w.Code != http.StatusOK {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			answered.Add(1)
		}
		go create(large, "identity")
		go create(zipped.String(), "gzip")
		go create(small, "identity")
		synctest.Wait()
		if n := answered.Load(); n != 1 {
			t.Errorf("%d creates were answered while large work ran, want the small one", n)
		}
		leave()
		synctest.Wait()
		if n := answered.Load(); n != 3 {
			t.Errorf("%d creates were answered, want 3", n)
		}
	})
}

// TestAnswersWaitForMemory: when slow readers hold all memory for answers, other calls are asked to
// retry. A status without responses needs no memory.
func TestAnswersWaitForMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ask := newBare(t)
		ticket := ask("POST", base, `[{"method":"GET","path":"p"}]`).Body.String()[len(`{"ticket":"`):][:36]
		status := func(query string) int { return ask("GET", base+"?ticket="+ticket+query, "").Code }
		if code := status(""); code != 200 {
			t.Errorf("with memory: %d", code)
		}
		if !s.source.Answers.Try(reply.AnswersShare) {
			t.Fatal("the answer kept memory")
		}
		if code := status(""); code != 503 {
			t.Errorf("without memory: %d", code)
		}
		if code := status("&responses=false"); code != 200 {
			t.Errorf("a status that needs no memory: %d", code)
		}
		waited := make(chan int)
		go func() { waited <- status("") }()
		synctest.Wait()
		s.source.Answers.Leave(reply.AnswersShare)
		if code := <-waited; code != 200 {
			t.Errorf("an answer that waited: %d", code)
		}
		if !s.source.Answers.Try(reply.AnswersShare) {
			t.Error("memory was lost")
		}
	})
}

// TestStalledClients: on a stalled connection, an upload is refused and a large answer is cut off,
// long before the server's own time limits.
func TestStalledClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ask := newBare(t)
		ticket := ask("POST", base, `[{"method":"GET","path":"p"}]`).Body.String()[len(`{"ticket":"`):][:36]
		c, err := s.Storage.(storage.Storage).Claim(t.Context(), 1)
		if err == nil {
			_, err = s.Storage.(storage.Storage).Finish(t.Context(), c, []storage.Mark{done(0, 200, `"`+strings.Repeat("x", 3<<20)+`"`)}, "", true)
		}
		if err != nil {
			t.Fatal(err)
		}
		pipes := make(chan net.Conn, 2)
		server := &http.Server{Handler: s}
		go server.Serve(pipeListener(pipes))
		defer server.Close()

		connect := func(request string) net.Conn {
			client, end := net.Pipe()
			pipes <- end
			if _, err := io.WriteString(client, request); err != nil {
				t.Fatal(err)
			}
			return client
		}
		upload := connect("POST " + base + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer abc\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n[")
		answer, err := io.ReadAll(upload)
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 408 ") {
			t.Errorf("the upload: %q, %v", answer, err)
		}
		download := connect("GET " + base + "?ticket=" + ticket + " HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer abc\r\n\r\n")
		defer download.Close()
		synctest.Wait()
		if s.source.Answers.Try(reply.AnswersShare) {
			t.Error("the running answer holds no memory")
		}
		if err := s.source.Answers.Enter(t.Context(), reply.AnswersShare); err != nil {
			t.Error(err)
		}
	})
}

// pipeListener accepts the connections that come through a channel.
type pipeListener chan net.Conn

func (l pipeListener) Accept() (net.Conn, error) {
	c, ok := <-l
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (l pipeListener) Close() error   { close(l); return nil }
func (l pipeListener) Addr() net.Addr { return &net.TCPAddr{} }
