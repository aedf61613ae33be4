package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// audit compares the service's reports with the upstream's ledger.
type audit struct {
	t      *testing.T
	load   *load
	byPath map[string][]Arrival
	late   []int // Seq of arrivals that may be out of order

	tickets     int
	requests    int
	lost        int // tickets whose batch is missing or incomplete
	twice       int // POST and PATCH that arrived again although an earlier attempt may have been carried out
	inDoubt     int // POST and PATCH whose outcome is reported as unknown
	doubtDone   int // those in doubt that the upstream had carried out
	impatient   int // requests that failed although they could have been sent again
	interrupted int // requests of any method whose outcome a dying process left unknown
	notSent     int // POST and PATCH reported as not sent, because there was no connection
	repeated    int // GET, HEAD, PUT and DELETE that arrived again without an earlier refusal
	unreported  int // GET and HEAD that arrived but were reported as NOT_EXECUTED after a crash
}

// auditLoad checks every promise about a load. Each violation fails the test. late lists the Seq of
// arrivals whose order isn't checked.
func auditLoad(ctx context.Context, t *testing.T, l *load, ledger *Ledger, late ...int) *audit {
	t.Helper()
	a := &audit{t: t, load: l, byPath: map[string][]Arrival{}, late: late}
	arrivals := ledger.Arrivals()
	for _, arrival := range arrivals {
		a.byPath[arrival.Path] = append(a.byPath[arrival.Path], arrival)
	}
	a.keys(arrivals)
	a.repetitions()
	for store := range l.stores {
		a.store(ctx, store)
		a.order(store, arrivals)
	}
	t.Logf("%d tickets with %d requests, %d arrivals at the upstream", a.tickets, a.requests, len(arrivals))
	t.Logf("tickets lost: %d; POST and PATCH sent twice: %d", a.lost, a.twice)
	t.Logf("POST and PATCH in doubt: %d, of which the upstream had carried out %d; known not to have been sent: %d",
		a.inDoubt, a.doubtDone, a.notSent)
	t.Logf("requests that a dying process left unknown: %d", a.interrupted)
	t.Logf("GET, HEAD, PUT and DELETE sent again: %d; GET and HEAD sent but reported as NOT_EXECUTED: %d", a.repeated, a.unreported)
	return a
}

// isSafe reports whether a method only reads.
func isSafe(method string) bool { return method == "GET" || method == "HEAD" }

// mustNotRepeat reports whether a request must not be sent again when its outcome is unknown.
func mustNotRepeat(method string) bool { return method == "POST" || method == "PATCH" }

// wasRefused reports whether the upstream refused an arrival, so that sending the request again
// repeats nothing.
func wasRefused(a Arrival) bool {
	return a.Answered && (a.Status == http.StatusTooManyRequests || a.Status == http.StatusServiceUnavailable)
}

// isUnknown reports whether a response says that it isn't known if a POST or PATCH was carried out.
func isUnknown(r result) bool { return strings.Contains(r.Line, "not known") }

// keys checks that each request has its own Idempotency-Key and uses it for all attempts.
func (a *audit) keys(arrivals []Arrival) {
	a.t.Helper()
	paths := map[string]string{}
	for _, arrival := range arrivals {
		if path, known := paths[arrival.Key]; arrival.Key == "" || known && path != arrival.Path {
			a.t.Errorf("Idempotency-Key %q was used for both %s and %s", arrival.Key, path, arrival.Path)
		}
		paths[arrival.Key] = arrival.Path
	}
	if len(paths) != len(a.byPath) {
		a.t.Errorf("%d paths, but %d Idempotency-Keys", len(a.byPath), len(paths))
	}
}

// repetitions checks that no POST or PATCH arrived again after an arrival that may have been carried
// out.
func (a *audit) repetitions() {
	a.t.Helper()
	for path, arrivals := range a.byPath {
		for i, earlier := range arrivals[:len(arrivals)-1] {
			switch {
			case wasRefused(earlier):
			case mustNotRepeat(earlier.Method):
				a.twice++
				a.t.Errorf("%s %s arrived again after %+v, as %+v", earlier.Method, path, earlier, arrivals[i+1])
			default:
				a.repeated++
			}
		}
	}
}

// store checks every ticket of a store.
func (a *audit) store(ctx context.Context, store int) {
	a.t.Helper()
	var handed []string
	for n, b := range a.load.stores[store] {
		handed = append(handed, b.ticket)
		a.tickets++
		a.requests += len(b.requests)
		s, err := a.load.client.status(ctx, storeName(store), b.ticket)
		if err != nil {
			a.lost++
			a.t.Errorf("store %d, batch %d, ticket %s: %v", store, n, b.ticket, err)
			continue
		}
		if s.Status != "COMPLETED" || s.TotalRequests != len(b.requests) || len(s.Responses) != len(b.requests) {
			a.lost++
			a.t.Errorf("store %d, batch %d: %s, %d requests of %d, %d responses",
				store, n, s.Status, s.TotalRequests, len(b.requests), len(s.Responses))
			continue
		}
		a.batch(store, b, s)
	}
	found, err := a.load.client.tickets(ctx, storeName(store))
	if err != nil {
		a.t.Fatal(err)
	}
	if !slices.Equal(found, handed) {
		a.t.Errorf("store %d has %d batches but handed out %d tickets", store, len(found), len(handed))
	}
}

// batch checks the responses of one batch.
func (a *audit) batch(store int, b loadBatch, s *status) {
	a.t.Helper()
	ran, failed := 0, false
	for i, r := range s.Responses {
		if r.Status != "NOT_EXECUTED" {
			ran++
			if failed && b.stop && !b.parallel {
				a.t.Errorf("store %d, %s: %s after a failure that stops the batch", store, r.ID, r.Status)
			}
		}
		failed = failed || r.Status == "FAILED"
		if r.Status == "FAILED" && !isUnknown(r) && !(b.stop && slices.ContainsFunc(s.Responses, isUnknown)) { // otherwise the batch ended it
			a.impatient++
			a.t.Logf("impatient: store %d, %s %s is %d %q", store, b.requests[i].Method, r.ID, r.Code, r.Line)
		}
		if r.ID != b.requests[i].ID {
			a.t.Errorf("store %d: response %d has the id %s, want %s", store, i, r.ID, b.requests[i].ID)
		}
		if err := a.result(b.requests[i], a.byPath[path(store, b.requests[i])], r); err != nil {
			a.t.Errorf("store %d, batch of %s, %s %s is %s %d %q: %v; the ledger has %+v", store, b.ticket,
				b.requests[i].Method, r.ID, r.Status, r.Code, r.Line, err, a.byPath[path(store, b.requests[i])])
		}
		if r.Status == "NOT_EXECUTED" && !failed && !slices.ContainsFunc(s.Responses, func(r result) bool { return r.Status == "FAILED" }) {
			a.t.Errorf("store %d, %s: not executed although nothing failed", store, r.ID)
		}
	}
	if ran != s.CompletedRequests {
		a.t.Errorf("store %d, ticket %s: completedRequests is %d, %d ran", store, b.ticket, s.CompletedRequests, ran)
	}
}

// path returns the path of a store's request in the ledger.
func path(store int, r request) string { return "/api/" + storeName(store) + "/" + r.Path }

// result checks one response against the arrivals of its request.
func (a *audit) result(r request, arrivals []Arrival, got result) error {
	executed := 0
	for _, arrival := range arrivals {
		if arrival.Executed {
			executed++
		}
	}
	switch got.Status {
	case "COMPLETED":
		if mustNotRepeat(r.Method) && executed != 1 {
			return fmt.Errorf("carried out %d times", executed)
		}
		return checkAnswer(r, arrivals, got)
	case "NOT_EXECUTED":
		if len(arrivals) > 0 && !isSafe(r.Method) {
			return fmt.Errorf("it arrived")
		}
		if len(arrivals) > 0 {
			a.unreported++
		}
		return nil
	case "FAILED":
		if strings.Contains(got.Line, "the service was interrupted") {
			a.interrupted++
		}
		if a.load.gated && got.Code == http.StatusServiceUnavailable && len(got.Body) == 0 {
			if executed > 0 {
				return fmt.Errorf("it was carried out")
			}
			return nil
		}
		notSent := strings.Contains(got.Line, "connection could not be made") || strings.Contains(got.Line, "the request was not sent")
		if got.Code != http.StatusBadGateway && (got.Code != http.StatusGatewayTimeout || !notSent && !isUnknown(got)) {
			return checkAnswer(r, arrivals, got)
		}
		if !mustNotRepeat(r.Method) {
			return nil
		}
		if notSent {
			a.notSent++
			if executed > 0 {
				return fmt.Errorf("it was carried out")
			}
			return nil
		}
		a.inDoubt++
		a.doubtDone += executed
		if executed > 1 || !strings.Contains(got.Line, "not known") {
			return fmt.Errorf("carried out %d times; the line must say that the outcome is not known", executed)
		}
		return nil
	}
	return fmt.Errorf("unknown status")
}

// checkAnswer checks that the response is an answer from the ledger, or the part of one that the
// upstream sent before it hung up.
func checkAnswer(r request, arrivals []Arrival, got result) error {
	if strings.Contains(got.Line, "; the answer is incomplete: the connection broke") {
		if slices.ContainsFunc(arrivals, func(a Arrival) bool { return !a.Answered && a.Status == got.Code }) {
			return nil
		}
		return fmt.Errorf("no answer was cut off")
	}
	var body struct {
		Arrival int `json:"arrival"`
	}
	if r.Method != "HEAD" {
		if err := json.Unmarshal(got.Body, &body); err != nil {
			return fmt.Errorf("body %s: %w", got.Body, err)
		}
	}
	for _, arrival := range arrivals {
		if (arrival.Seq == body.Arrival || r.Method == "HEAD") && arrival.Answered && arrival.Status == got.Code {
			return nil
		}
	}
	return fmt.Errorf("the upstream gave no such answer")
}

// order checks the order in which a store's requests arrived.
func (a *audit) order(store int, arrivals []Arrival) {
	a.t.Helper()
	prefix := "/api/" + storeName(store) + "/items/"
	batch, last := 0, -1
	for _, arrival := range arrivals {
		name, ours := strings.CutPrefix(arrival.Path, prefix)
		if !ours || slices.Contains(a.late, arrival.Seq) {
			continue
		}
		var b, i int
		if _, err := fmt.Sscanf(name, "%d/%d", &b, &i); err != nil {
			a.t.Fatal(err)
		}
		switch {
		case b < batch:
			a.t.Errorf("store %d: batch %d got a request after batch %d had begun: %+v", store, b, batch, arrival)
			continue
		case b > batch:
			batch, last = b, -1
		}
		parallel := b < len(a.load.stores[store]) && a.load.stores[store][b].parallel
		if i < last && !parallel && (arrival.Nth == 1 || !isSafe(arrival.Method)) {
			a.t.Errorf("store %d, batch %d: request %d arrived after request %d: %+v", store, b, i, last, arrival)
		}
		last = max(last, i)
	}
}
