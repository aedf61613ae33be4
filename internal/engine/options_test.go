package engine

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/governor"
	"github.com/sheafapi/sheaf/internal/storage"
)

// TestOptions checks the choices that a batch makes instead of the service.
func TestOptions(t *testing.T) {
	scenario(t, "at most as many in flight as the batch allows", func(t *testing.T, w *world) {
		for i := range 5 {
			w.up.script(0, i, step{answered(200), time.Second})
		}
		w.create("s", batch.Options{Parallel: true, Concurrency: 2}, posts(5)...)
		for _, want := range []int{2, 4, 5} {
			synctest.Wait()
			if n := len(strings.Fields(w.sent())); n != want {
				t.Errorf("%d were sent, want %d", n, want)
			}
			w.pass(time.Second)
		}
	})
	scenario(t, "one in flight keeps the order while a request waits", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(503), 0}, step{answered(200), 0})
		a := w.create("s", batch.Options{Parallel: true, Concurrency: 1}, posts(3)...)
		w.pass(4 * time.Second)
		expect(t, "outcome", w.outcome(a), "200 200 200")
		expect(t, "ledger", w.sent(), "0/0 0/0 0/1 0/2")
	})
	scenario(t, "a batch that stops at the first failure retries before that, if it has its own limit", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(503), 0}, step{answered(503), 0}, step{answered(503), 0}, step{answered(200), 0})
		a := w.create("s", batch.Options{StopOnFailure: true, Retries: new(2), Backoff: batch.Backoff{First: 4 * time.Second, Most: 6 * time.Second}}, posts(2)...)
		began := time.Now()
		w.pass(11 * time.Second)
		expect(t, "outcome", w.outcome(a), "503! -")
		for i, want := range []time.Duration{0, 4 * time.Second, 10 * time.Second} {
			if got := w.up.ledger[i].at.Sub(began); got != want {
				t.Errorf("attempt %d came after %v, want %v", i, got, want)
			}
		}
	})
	scenario(t, "no retries", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(503), 0})
		a := w.create("s", batch.Options{Retries: new(0)}, posts(2)...)
		synctest.Wait()
		expect(t, "outcome", w.outcome(a), "503! 200")
	})
	scenario(t, "codes and values that count as failures stop a batch and reach dependents", func(t *testing.T, w *world) {
		failed := answered(200)
		failed.Body = []byte(`{"errors":[{"message":"no"}]}`)
		w.up.script(0, 0, step{answered(404), 0})
		w.up.script(0, 1, step{failed, 0})
		w.up.script(1, 0, step{answered(202), 0})
		a := w.create("s", batch.Options{StopOnFailure: true, Success: batch.Success{Codes: "200,404", FailWhen: []string{"/errors"}}}, posts(3)...)
		b := w.create("s", batch.Options{StopOnFailure: true, Success: batch.Success{Codes: "200"}}, posts(2)...)
		synctest.Wait()
		expect(t, "outcome", w.outcome(a), "404 200! -")
		expect(t, "outcome", w.outcome(b), "202! -")
	})
	scenario(t, "the choices survive a crash", func(t *testing.T, w *world) {
		w.up.script(0, 0, step{answered(503), 0})
		a := w.create("s", batch.Options{StopOnFailure: true, Retries: new(1), Backoff: batch.Backoff{First: time.Minute, Most: time.Minute}}, "PUT")
		w.pass(30 * time.Second)
		w.crash()
		w.start()
		w.pass(time.Minute)
		expect(t, "outcome", w.outcome(a), "503!")
		expect(t, "ledger", w.sent(), "0/0 0/0")
	})
}

// TestJudgeFailWhen checks what a value at one of the pointers of FailWhen means.
func TestJudgeFailWhen(t *testing.T) {
	p := Policy{RetryLimit: 5, RetryInterval: time.Second, ThrottleLimit: time.Minute, Success: batch.Success{FailWhen: []string{"/error"}}}
	own := batch.Options{Success: batch.Success{FailWhen: []string{"/errors", "/data/error"}}}
	for _, tt := range []struct {
		name    string
		o       batch.Options
		method  string
		tries   storage.Tries
		code    int
		cut     bool // the answer is incomplete
		body    string
		want    batch.ResultStatus
		says    string
		inDoubt bool
	}{
		{name: "a match", o: own, method: "POST", code: 200, body: `{"data":{"error":"no"}}`, want: batch.Failed, says: "; the answer has a value at /data/error (failWhen)"},
		{name: "a match is no reason to retry", o: own, method: "GET", code: 200, body: `{"errors":[1]}`, want: batch.Failed, says: "; the answer has a value at /errors (failWhen)"},
		{name: "a match settles a doubt", o: own, method: "POST", tries: storage.Tries{MaybeDone: true, InDoubt: true}, code: 200, body: `{"errors":[1]}`, want: batch.Failed, says: "; the answer has a value at /errors (failWhen)"},
		{name: "no match", o: own, method: "POST", code: 200, body: `{"errors":[],"error":1}`, want: batch.Succeeded},
		{name: "the service's pointer", method: "POST", code: 200, body: `{"error":1}`, want: batch.Failed, says: "; the answer has a value at /error (failWhen)"},
		{name: "after a byte order mark", o: own, method: "POST", code: 200, body: "\ufeff" + `{"errors":[1]}`, want: batch.Failed, says: "; the answer has a value at /errors (failWhen)"},
		{name: "no JSON", o: own, method: "POST", code: 200, body: `{"errors":[1]`, want: batch.Succeeded},
		{name: "no body", o: own, method: "POST", code: 204, want: batch.Succeeded},
		{name: "a failure anyway", o: own, method: "POST", code: 404, body: `{"errors":[1]}`, want: batch.Failed},
		{name: "gone", o: own, method: "DELETE", tries: storage.Tries{MaybeDone: true}, code: 404, body: `{"errors":[1]}`, want: batch.Succeeded},
		{name: "a match in a part", o: own, method: "POST", code: 200, cut: true, body: `{"errors":[1],"data":{`, want: batch.Failed, says: "; the answer has a value at /errors (failWhen)"},
		{name: "a part without a match", o: own, method: "POST", code: 200, cut: true, body: `{"data":{`, want: batch.Failed, says: outcomeUnknown, inDoubt: true},
		{name: "a whole body of uncertain length", o: own, method: "POST", code: 200, cut: true, body: `{"data":{}}`, want: batch.Succeeded},
	} {
		a := answered(tt.code)
		a.Body, a.Incomplete = []byte(tt.body), tt.cut
		p := p.of(&tt.o)
		m := p.judge(&batch.Request{Method: tt.method}, tt.tries, &a, governor.Counts, epoch)
		if m.State != storage.Done || m.Result.Status != tt.want || m.Result.Code != tt.code || m.Result.Line != tt.says || m.InDoubt() != tt.inDoubt {
			t.Errorf("%s: got %+v", tt.name, m)
		}
	}
}
