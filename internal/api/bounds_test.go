package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"unicode/utf8"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"pgregory.net/rapid"
)

// largest is a writer that keeps only the length of the longest piece.
type largest struct {
	header http.Header
	status int
	piece  int
	total  int
}

func (w *largest) Header() http.Header    { return w.header }
func (w *largest) WriteHeader(status int) { w.status = status }
func (w *largest) Write(p []byte) (int, error) {
	w.piece, w.total = max(w.piece, len(p)), w.total+len(p)
	return len(p), nil
}

// finished stores a batch of one request with a body, and an answer with another body.
func finished(t *testing.T, s *API, ask func(method, target, body string) *httptest.ResponseRecorder, request, answer string) (ticket string) {
	t.Helper()
	rec := ask("POST", base, `[{"id":"i","method":"POST","path":"p","body":`+request+`}]`)
	if rec.Code != http.StatusOK {
		t.Fatal(rec.Body)
	}
	c, err := s.Storage.(storage.Storage).Claim(t.Context(), 1)
	if err == nil {
		_, err = s.Storage.(storage.Storage).Finish(t.Context(), c, []storage.Mark{done(0, 200, answer)}, "", true)
	}
	if err != nil {
		t.Fatal(err)
	}
	return rec.Body.String()[len(`{"ticket":"`):][:36]
}

// TestLargeBodiesAreSentInPieces: no call puts a whole body into one buffer, in any form.
func TestLargeBodiesAreSentInPieces(t *testing.T) {
	s, ask := newBare(t)
	ticket := finished(t, s, ask, `["`+strings.Repeat("x", 1<<20)+`"]`, strings.Repeat("\x01", 1<<20))
	for _, target := range []string{
		"?ticket=", "?escapedJson=true&details=true&ticket=", "/requests?ticket=", "/body?index=0&ticket=", "/body?index=0&of=request&ticket=",
	} {
		for _, accept := range []string{"application/json", "application/x-ndjson"} {
			r := httptest.NewRequest("GET", base+target+ticket, nil)
			r.Header.Set("Authorization", "Bearer abc")
			r.Header.Set("Accept", accept)
			w := &largest{header: http.Header{}}
			s.ServeHTTP(w, r)
			if w.status > http.StatusOK || w.total < 1<<20 {
				t.Errorf("%s: %d, %d bytes", target, w.status, w.total)
			}
			if most := 3 * (256 << 10); w.piece > most {
				t.Errorf("%s: a piece of %d bytes, more than %d", target, w.piece, most)
			}
		}
	}
	if u := s.source.Reads.Usage(); u.Held != 0 || u.Waiting != 0 {
		t.Errorf("memory was lost: %+v", u)
	}
}

// TestPiecesMakeTheSameAnswer: an answer that is sent in pieces contains the recorded bodies.
func TestPiecesMakeTheSameAnswer(t *testing.T) {
	s, ask := newBare(t)
	for _, unit := range []string{"é", "\x01", "😀", `"\`, "\xff\xfe", "[[],\n0]", "x"} {
		text := strings.Repeat(unit, 300_000/len(unit))
		if unit == "[[],\n0]" {
			text = "[" + strings.Repeat(unit+",", 40_000) + "0]"
		}
		quoted, err := json.Marshal(strings.ToValidUTF8(text, "?"))
		if err != nil {
			t.Fatal(err)
		}
		ticket := finished(t, s, ask, string(quoted), text)
		if got := ask("GET", base+"/body?index=0&ticket="+ticket, "").Body.String(); got != text {
			t.Errorf("%q: the download has %d bytes, want %d", unit, len(got), len(text))
		}
		for _, accept := range []string{"application/json", "application/x-ndjson"} {
			r := httptest.NewRequest("GET", base+"?escapedJson=true&ticket="+ticket, nil)
			r.Header.Set("Authorization", "Bearer abc")
			r.Header.Set("Accept", accept)
			rec := httptest.NewRecorder()
			s.ServeHTTP(rec, r)
			var got struct {
				Responses       []struct{ EscapedHTTPBody []byte }
				EscapedHTTPBody string
			}
			raw := rec.Body.Bytes()
			if !json.Valid(raw) || accept == "application/x-ndjson" && bytes.Count(raw, []byte("\n")) != 1 {
				t.Errorf("%q as %s: this isn't JSON", unit, accept)
			}
			if accept == "application/x-ndjson" && utf8.ValidString(text) {
				if err := json.Unmarshal(raw, &got); err != nil || got.EscapedHTTPBody != text {
					t.Errorf("%q as %s: %v", unit, accept, err)
				}
			}
		}
		var created struct {
			Requests []struct{ Body json.RawMessage }
		}
		if err := json.Unmarshal(ask("GET", base+"/requests?ticket="+ticket, "").Body.Bytes(), &created); err != nil || len(created.Requests) != 1 {
			t.Errorf("%q: the requests aren't JSON: %v", unit, err)
		}
	}
}

// TestBodyBytes: with bodyBytes, only the beginning and the length of a long body are sent.
func TestBodyBytes(t *testing.T) {
	s, ask := newBare(t)
	ticket := finished(t, s, ask, `{"a":"`+strings.Repeat("é", 1000)+`"}`, `["`+strings.Repeat("é", 1000)+`"]`)
	for most, cut := range map[int]bool{100: true, 101: true, 2004: false} {
		query := fmt.Sprintf("?bodyBytes=%d&ticket=%s", most, ticket)
		var got struct {
			Responses []struct {
				HTTPBody        json.RawMessage
				EscapedHTTPBody string
				HTTPBodyBytes   int
			}
		}
		if err := json.Unmarshal(ask("GET", base+query, "").Body.Bytes(), &got); err != nil {
			t.Fatal(err)
		}
		r := got.Responses[0]
		if (r.HTTPBodyBytes == 2004) != cut || (r.HTTPBody == nil) != cut || cut && (len(r.EscapedHTTPBody) > most || len(r.EscapedHTTPBody) < most-4) {
			t.Errorf("%d bytes of an answer: %+v", most, r)
		}
		var created struct {
			Requests []struct {
				Body      json.RawMessage
				BodyText  string
				BodyBytes int
			}
		}
		if err := json.Unmarshal(ask("GET", base+"/requests"+fmt.Sprintf("?bodyBytes=%d&ticket=%s", most, ticket), "").Body.Bytes(), &created); err != nil {
			t.Fatal(err)
		}
		q := created.Requests[0]
		if most < 2004 && (q.BodyBytes != 2008 || q.Body != nil || !strings.HasPrefix(q.BodyText, `{"a":"é`)) {
			t.Errorf("%d bytes of a request: %+v", most, q)
		}
	}
	for target, want := range map[string]int{
		"/body?ticket=" + ticket: 400, "/body?index=1&ticket=" + ticket: 404, "/body?index=0&of=x&ticket=" + ticket: 400,
		"/body?index=0&ticket=00000000-0000-4000-8000-000000000000": 404, "?bodyBytes=0&ticket=" + ticket: 400,
	} {
		if code := ask("GET", base+target, "").Code; code != want {
			t.Errorf("%s: %d, want %d", target, code, want)
		}
	}
}

// TestMemoryIsTakenBeforeItIsUsed: while other calls hold all memory, no call reads bodies from storage.
func TestMemoryIsTakenBeforeItIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, ask := newBare(t)
		ticket := finished(t, s, ask, `[1]`, `[2]`)
		reads := 0
		s.Storage = readCounter{s.Storage, &reads}
		defer hog(t, s)()
		for _, target := range []string{"?ticket=", "/requests?ticket=", "/timeline?ticket=", "/body?index=0&ticket=", "/search?path=p&x="} {
			if code := ask("GET", base+target+ticket, "").Code; code != http.StatusServiceUnavailable || reads > 0 {
				t.Errorf("%s was answered with %d after %d reads", target, code, reads)
			}
		}
		if code := ask("POST", base+"/retry?ticket="+ticket, "").Code; code != http.StatusConflict {
			t.Errorf("a retry, which needs other memory: %d", code)
		}
	})
}

// TestFormInPieces compares all forms in pieces with the same forms in one piece.
func TestFormInPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		unit := rapid.SampledFrom([]string{"é", "a", "😀", "\x00", "\xff", "\"", "ab\xf0\x9f"}).Draw(t, "unit")
		body := []byte(strings.Repeat(unit, rapid.IntRange(0, 120_000).Draw(t, "times")))
		r := &batch.Result{Status: batch.Succeeded, Code: 200, Body: body, Kind: batch.KindOf(body)}
		whole := batch.Form{Escaped: rapid.Bool().Draw(t, "escaped"), Most: rapid.SampledFrom([]int{0, 1, 100_000}).Draw(t, "most")}
		want := whole.AppendIndexed(nil, 1, "id", r, false, nil)
		var got bytes.Buffer
		pieces := whole
		pieces.Flush = func(dst []byte) []byte { got.Write(dst); return dst[:0] }
		got.Write(pieces.AppendIndexed(nil, 1, "id", r, false, nil))
		if !bytes.Equal(got.Bytes(), want) || !json.Valid(want) {
			t.Fatalf("%d bytes, and %d in one piece", got.Len(), len(want))
		}
	})
}

// readCounter counts the calls that read bodies.
type readCounter struct {
	Storage
	reads *int
}

func (c readCounter) Status(ctx context.Context, key storage.Key, maxBytes int) (*storage.Status, error) {
	if maxBytes > 0 {
		*c.reads++
	}
	return c.Storage.Status(ctx, key, maxBytes)
}

func (c readCounter) Requests(ctx context.Context, id storage.BatchID) ([]batch.Request, batch.Options, error) {
	*c.reads++
	return c.Storage.Requests(ctx, id)
}

func (c readCounter) Results(ctx context.Context, id storage.BatchID, from, maxBytes int) ([]storage.IndexedResult, error) {
	*c.reads++
	return c.Storage.Results(ctx, id, from, maxBytes)
}

func (c readCounter) Find(ctx context.Context, f storage.Filter) (storage.Page, error) {
	*c.reads++
	return c.Storage.Find(ctx, f)
}
