package dashboard

import (
	"fmt"
	"net/http"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync"
	"testing"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// peak runs f and returns by how many bytes the heap grew at most while it ran.
func peak(f func()) uint64 {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	read := func() uint64 {
		metrics.Read(sample)
		return sample[0].Value.Uint64()
	}
	runtime.GC()
	before := read()
	most := before
	over, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-over:
				return
			default:
				most = max(most, read())
				runtime.Gosched()
			}
		}
	}()
	f()
	close(over)
	<-stopped
	return most - before
}

// TestManyPagesOfALargeRequest limits the memory that concurrent pages of one large request take.
// Without limits, they took 2.6 GB.
func TestManyPagesOfALargeRequest(t *testing.T) {
	w := newWorld(t)
	body := `{"text":"` + strings.Repeat("é", 4<<20) + `"}`
	answer := strings.Repeat("\x01\n", 2<<20)
	b := w.create(batch.Request{Method: "POST", Path: "/x", Body: []byte(body)})
	w.run(storage.Mark{Index: 0, State: storage.Done, Result: batch.Result{Status: batch.Succeeded, Code: 200, Body: []byte(answer), Kind: batch.TextBody}})
	page := "/ui/stores/1003/batches/" + b.Ticket.String() + "/requests/0"
	const calls = 60
	for path, most := range map[string]uint64{page: 400 << 20, page + "/body": 400 << 20, page + "/answer": 400 << 20} {
		codes := make([]int, calls)
		grown := peak(func() {
			var all sync.WaitGroup
			for i := range calls {
				all.Go(func() {
					out := &discard{header: http.Header{}}
					w.d.ServeHTTP(out, w.request("GET", path, "ann"))
					codes[i] = out.status
				})
			}
			all.Wait()
		})
		if grown > most {
			t.Errorf("%d calls of %s took %d MiB, more than %d", calls, path, grown>>20, most>>20)
		}
		for _, code := range codes {
			if code != http.StatusOK {
				t.Errorf("%s: %d", path, code)
				break
			}
		}
	}
}

// discard is a ResponseWriter that keeps only the status.
type discard struct {
	header http.Header
	status int
}

func (w *discard) Header() http.Header         { return w.header }
func (w *discard) WriteHeader(status int)      { w.status = status }
func (w *discard) Write(p []byte) (int, error) { return len(p), nil }

// TestLongBodiesAreCut checks that a page shows the beginning of a long body and links to the whole body.
func TestLongBodiesAreCut(t *testing.T) {
	w := newWorld(t)
	body := `{"text":"` + strings.Repeat("é", 100_000) + `"}`
	answer := "<" + strings.Repeat("a", 200_000) + ">"
	b := w.create(batch.Request{Method: "POST", Path: "/x", Body: []byte(body)}, batch.Request{Method: "POST", Path: "/y", Body: []byte(`plain text`)})
	w.run(storage.Mark{Index: 0, State: storage.Done, Result: batch.Result{Status: batch.Succeeded, Code: 200, Body: []byte(answer), Kind: batch.TextBody}})
	batchPage := "/ui/stores/1003/batches/" + b.Ticket.String()
	page := w.page(batchPage+"/requests/0", "ann")
	for _, want := range []string{
		fmt.Sprintf(`href="%s/requests/0/body"`, batchPage), fmt.Sprintf(`href="%s/requests/0/answer"`, batchPage), ", truncated</p>", "--data-binary @request-0.txt",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("the page has no %s", want)
		}
	}
	if len(page) > 10*maxShown {
		t.Errorf("the page has %d bytes", len(page))
	}
	for path, want := range map[string]string{"/requests/0/body": body, "/requests/0/answer": answer, "/requests/1/body": "plain text"} {
		a := w.ask("GET", batchPage+path, "ann", nil)
		if a.Code != http.StatusOK || a.Body.String() != want || !strings.HasPrefix(a.Header().Get("Content-Disposition"), "attachment") || a.Header().Get("Content-Type") != "application/octet-stream" {
			t.Errorf("%s: %d, %d bytes, %v", path, a.Code, a.Body.Len(), a.Header())
		}
	}
	if second := w.page(batchPage+"/requests/1", "ann"); !strings.Contains(second, "--data-binary &#39;plain text&#39;") {
		t.Error("a text body is not shown as it is sent")
	}
	if a := w.ask("GET", batchPage+"/requests/1/answer", "ann", nil); a.Code != http.StatusNotFound {
		t.Errorf("an answer that doesn't exist: %d", a.Code)
	}
	if a := w.ask("GET", batchPage+"/requests/0/answer", "bob", nil); a.Code != http.StatusNotFound {
		t.Errorf("another user's answer: %d", a.Code)
	}
}

// TestDeepJSONIsNotIndented checks that deeply nested JSON isn't indented, which would make it a
// thousand times as long.
func TestDeepJSONIsNotIndented(t *testing.T) {
	body := strings.Repeat("[", 9000) + strings.Repeat("]", 9000)
	if n := len(newBodyView([]byte(body), 0).Text); n > 2*maxShown {
		t.Errorf("%d bytes", n)
	}
	if got := newBodyView([]byte(`{"a":[1,{"b":"{[,"}]}`), 0).Text; got != "{\n  \"a\": [\n    1,\n    {\n      \"b\": \"{[,\"\n    }\n  ]\n}" {
		t.Errorf("%s", got)
	}
}
