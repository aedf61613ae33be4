package engine

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/governor"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/storage"
)

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func answered(code int, header ...string) outbound.Answer {
	h := http.Header{}
	for i := 0; i+1 < len(header); i += 2 {
		h.Add(header[i], header[i+1])
	}
	return outbound.Answer{Outcome: outbound.Answered, Code: code, Header: h}
}

// part returns an incomplete answer.
func part(code int) outbound.Answer {
	a := answered(code)
	a.Incomplete = true
	return a
}

func noAnswer(o outbound.Outcome, code int) outbound.Answer {
	return outbound.Answer{Outcome: o, Code: code, Line: "words"}
}

func TestJudge(t *testing.T) {
	const ok, failed = batch.Succeeded, batch.Failed
	since := epoch.Add(-time.Hour)
	tests := []struct {
		name   string
		method string
		stop   bool
		tries  storage.Tries
		answer outbound.Answer
		want   batch.ResultStatus // the status of a Done mark
		wait   time.Duration      // the pause of a Waiting mark
	}{
		{name: "200", method: "POST", answer: answered(200), want: ok},
		{name: "204", method: "DELETE", answer: answered(204), want: ok},
		{name: "redirect is an answer, not a success", method: "GET", answer: answered(302), want: failed},
		{name: "404 goes on to the next", method: "GET", answer: answered(404), want: failed},
		{name: "404 of a DELETE", method: "DELETE", answer: answered(404), want: failed},
		{name: "404 of a DELETE that ran before", method: "DELETE", tries: storage.Tries{MaybeDone: true}, answer: answered(404), want: ok},
		{name: "410 of a DELETE that ran before", method: "DELETE", tries: storage.Tries{MaybeDone: true}, answer: answered(410), want: ok},
		{name: "404 of a PUT that ran before", method: "PUT", tries: storage.Tries{MaybeDone: true}, answer: answered(404), want: failed},
		{name: "5XX is retried, even for a POST", method: "POST", answer: answered(500), wait: 3 * time.Second},
		{name: "502 of a POST", method: "POST", answer: answered(502), want: failed},
		{name: "504 of a PATCH", method: "PATCH", answer: answered(504), want: failed},
		{name: "503 of a POST", method: "POST", answer: answered(503), wait: 3 * time.Second},
		{name: "502 of a PUT", method: "PUT", answer: answered(502), wait: 3 * time.Second},
		{name: "504 of a GET", method: "GET", answer: answered(504), wait: 3 * time.Second},
		{name: "5XX with stopOnFirstFailure", method: "GET", stop: true, answer: answered(500), want: failed},
		{name: "5XX, last retry", method: "GET", tries: storage.Tries{Retries: 4}, answer: answered(503), wait: 3 * time.Second},
		{name: "5XX, retries used up", method: "GET", tries: storage.Tries{Retries: 5}, answer: answered(503), want: failed},
		{name: "not sent", method: "POST", answer: noAnswer(outbound.NotSent, 502), wait: 3 * time.Second},
		{name: "not sent, with stop", method: "POST", stop: true, answer: noAnswer(outbound.NotSent, 502), want: failed},
		{name: "timeout of a GET", method: "GET", answer: noAnswer(outbound.Doubt, 504), wait: 3 * time.Second},
		{name: "timeout of a PUT", method: "PUT", answer: noAnswer(outbound.Doubt, 504), wait: 3 * time.Second},
		{name: "an incomplete answer to a POST", method: "POST", answer: part(201), want: ok},
		{name: "a part of an answer to a GET", method: "GET", answer: part(200), wait: 3 * time.Second},
		{name: "a part of an answer to a PUT", method: "PUT", answer: part(200), wait: 3 * time.Second},
		{name: "a part of an answer to a GET, retries used up", method: "GET", tries: storage.Tries{Retries: 5}, answer: part(200), want: failed},
		{name: "a part of an answer to a GET, with stop", method: "GET", stop: true, answer: part(200), want: failed},
		{name: "a part of an answer 404", method: "GET", answer: part(404), want: failed},
		{name: "a part of an answer 503 to a POST", method: "POST", answer: part(503), wait: 3 * time.Second},
		{name: "timeout of a POST", method: "POST", answer: noAnswer(outbound.Doubt, 504), want: failed},
		{name: "broken connection of a PATCH", method: "PATCH", answer: noAnswer(outbound.Doubt, 502), want: failed},
		{name: "too large", method: "GET", answer: noAnswer(outbound.TooLarge, 502), want: failed},
		{name: "refused at the last door", method: "GET", answer: noAnswer(outbound.Refused, 502), want: failed},
		{name: "429, seconds", method: "POST", answer: answered(429, "Retry-After", "7"), wait: 7 * time.Second},
		{name: "429 with stop is no failure", method: "POST", stop: true, answer: answered(429, "Retry-After", "7"), wait: 7 * time.Second},
		{name: "429, date", method: "GET", answer: answered(429, "Retry-After", epoch.Add(42*time.Second).Format(http.TimeFormat)), wait: 42 * time.Second},
		{name: "429, third date in the past", method: "GET", tries: storage.Tries{Throttles: 2, ThrottledSince: epoch}, answer: answered(429, "Retry-After", epoch.Add(-time.Hour).Format(http.TimeFormat)), wait: 4 * time.Second},
		{name: "429, decimals of nothing", method: "GET", answer: answered(429, "Retry-After", "0.0"), wait: leastThrottle},
		{name: "429, fourth zero", method: "GET", tries: storage.Tries{Throttles: 3, ThrottledSince: epoch}, answer: answered(429, "Retry-After", "0"), wait: 8 * leastThrottle},
		{name: "429, hundredth zero", method: "GET", tries: storage.Tries{Throttles: 99, ThrottledSince: epoch}, answer: answered(429, "Retry-After", "0"), wait: time.Second},
		{name: "429, zero", method: "GET", answer: answered(429, "Retry-After", "0"), wait: leastThrottle},
		{name: "429 until the limit", method: "GET", answer: answered(429, "Retry-After", "1200"), wait: 20 * time.Minute},
		{name: "429 beyond the limit", method: "GET", answer: answered(429, "Retry-After", "1201"), want: failed},
		{name: "429 beyond the rest of the limit", method: "GET", tries: storage.Tries{Throttles: 1, ThrottledSince: epoch.Add(-time.Minute)}, answer: answered(429, "Retry-After", "1200"), want: failed},
		{name: "429, more seconds than a number holds", method: "GET", answer: answered(429, "Retry-After", "99999999999999999999"), want: failed},
		{name: "403 with Retry-After, with stop", method: "POST", stop: true, answer: answered(403, "Retry-After", "60"), wait: time.Minute},
		{name: "403, none remain", method: "POST", answer: answered(403, "X-RateLimit-Remaining", "0", "X-RateLimit-Reset", "90"), wait: 90 * time.Second},
		{name: "403, none remain, no reset", method: "POST", answer: answered(403, "X-RateLimit-Remaining", "0"), wait: time.Second},
		{name: "403, some remain", method: "POST", answer: answered(403, "X-RateLimit-Remaining", "1", "X-RateLimit-Reset", "90"), want: failed},
		{name: "403", method: "POST", answer: answered(403), want: failed},
		{name: "503 with Retry-After, with stop", method: "POST", stop: true, answer: answered(503, "Retry-After", "60"), wait: time.Minute},
		{name: "503 with Retry-After, retries used up", method: "POST", tries: storage.Tries{Retries: 5}, answer: answered(503, "Retry-After", "60"), wait: time.Minute},
		{name: "503 with Retry-After, limit passed", method: "POST", tries: storage.Tries{Throttles: 9, ThrottledSince: since}, answer: answered(503, "Retry-After", "1"), want: failed},
		{name: "429, without a header", method: "GET", answer: answered(429), wait: time.Second},
		{name: "429, the third without a header", method: "GET", tries: storage.Tries{Throttles: 2, ThrottledSince: epoch}, answer: answered(429), wait: 4 * time.Second},
		{name: "429, the hundredth without a header", method: "GET", tries: storage.Tries{Throttles: 99, ThrottledSince: epoch}, answer: answered(429), wait: 5 * time.Minute},
		{name: "429, past the limit", method: "GET", tries: storage.Tries{Throttles: 9, ThrottledSince: since}, answer: answered(429, "Retry-After", "1"), want: failed},
		{name: "429 does not use retries up", method: "GET", tries: storage.Tries{Retries: 5, Throttles: 3, ThrottledSince: epoch}, answer: answered(429, "Retry-After", "1"), wait: time.Second},
	}
	p := Policy{RetryLimit: 5, RetryInterval: 3 * time.Second, ThrottleLimit: 20 * time.Minute}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := batch.Request{Method: tt.method}
			p := p.of(&batch.Options{StopOnFailure: tt.stop})
			m := p.judge(&r, tt.tries, &tt.answer, governor.Counts, epoch)
			if tt.want != 0 {
				if m.State != storage.Done || m.Result.Status != tt.want || m.Result.Code != tt.answer.Code {
					t.Errorf("got state %v, %v %d; want done, %v", m.State, m.Result.Status, m.Result.Code, tt.want)
				}
				return
			}
			if got := m.NotBefore.Sub(epoch); m.State != storage.Waiting || got != tt.wait {
				t.Errorf("got state %v, wait %v; want waiting, %v", m.State, got, tt.wait)
			}
			if m.Result.Code != tt.answer.Code {
				t.Errorf("the last answer is lost: %+v", m.Result)
			}
		})
	}
}

// TestJudgeWords checks what the status line says if a request may have been carried out although its answer
// is a failure.
func TestJudgeWords(t *testing.T) {
	maybe := storage.Tries{MaybeDone: true}
	p := Policy{RetryLimit: 5, RetryInterval: time.Second, ThrottleLimit: time.Minute}
	for _, tt := range []struct {
		method string
		tries  storage.Tries
		code   int
		want   string
	}{
		{"POST", storage.Tries{}, 504, outcomeUnknown},
		{"PATCH", storage.Tries{}, 502, outcomeUnknown},
		{"PUT", storage.Tries{}, 504, ""},
		{"POST", storage.Tries{}, 500, ""},
		{"PUT", maybe, 412, earlierMayCount},
		{"DELETE", maybe, 412, earlierMayCount},
		{"POST", maybe, 409, earlierMayCount},
		{"POST", storage.Tries{}, 409, ""},
		{"GET", maybe, 412, ""},
		{"PUT", maybe, 422, ""},
	} {
		for _, stop := range []bool{true, false} {
			a := answered(tt.code)
			a.Line = "The phrase"
			p := p.of(&batch.Options{StopOnFailure: stop})
			m := p.judge(&batch.Request{Method: tt.method}, tt.tries, &a, governor.Counts, epoch)
			if m.Result.Line != "The phrase"+tt.want || m.Result.Code != tt.code {
				t.Errorf("%s %d: got %d %q", tt.method, tt.code, m.Result.Code, m.Result.Line)
			}
		}
	}
}

// TestJudgeByteOrderMark checks that a byte order mark before JSON is removed. Other bodies keep theirs.
func TestJudgeByteOrderMark(t *testing.T) {
	p := Policy{}
	for body, want := range map[string]string{"\ufeff{\"id\":7}": "{\"id\":7}", "\ufeffplain": "\ufeffplain", "\ufeff": "\ufeff", "{}": "{}"} {
		a := answered(200)
		a.Body = []byte(body)
		if m := p.judge(&batch.Request{Method: "GET"}, storage.Tries{}, &a, governor.Counts, epoch); string(m.Result.Body) != want {
			t.Errorf("%q: got %q, want %q", body, m.Result.Body, want)
		}
	}
}

func TestJudgeInDoubtRetry(t *testing.T) {
	p := Policy{RetryLimit: 1, RetryInterval: time.Second, RetryInDoubt: true, Success: batch.Success{Codes: "299"}}
	a := noAnswer(outbound.Doubt, 502)
	if m := p.judge(&batch.Request{Method: "POST"}, storage.Tries{}, &a, governor.Counts, epoch); m.State != storage.Waiting {
		t.Errorf("a POST in doubt is not tried again: %+v", m)
	}
}

func TestMaybeDone(t *testing.T) {
	p := Policy{RetryLimit: 5, Success: batch.Success{Codes: "200"}, ThrottleLimit: time.Hour}
	for name, tt := range map[string]struct {
		answer outbound.Answer
		want   bool
	}{
		"5XX":      {answered(500), true},
		"doubt":    {noAnswer(outbound.Doubt, 504), true},
		"not sent": {noAnswer(outbound.NotSent, 502), false},
		"429":      {answered(429), false},
		"limited":  {answered(503, "Retry-After", "1"), true},
	} {
		m := p.judge(&batch.Request{Method: "DELETE"}, storage.Tries{}, &tt.answer, governor.Counts, epoch)
		if m.State != storage.Waiting || m.Tries.MaybeDone != tt.want {
			t.Errorf("%s: got %+v, want waiting and MaybeDone=%v", name, m, tt.want)
		}
	}
}

func TestRecovered(t *testing.T) {
	for _, tt := range []struct {
		method          string
		halted, inDoubt bool
		want            storage.MarkState
	}{
		{"PUT", false, false, storage.Waiting},
		{"DELETE", false, false, storage.Waiting},
		{"POST", false, false, storage.Done},
		{"PATCH", false, false, storage.Done},
		{"POST", false, true, storage.Waiting},
		{"PUT", true, false, storage.Done},
		{"POST", true, true, storage.Done},
	} {
		p := Policy{RetryInDoubt: tt.inDoubt}
		m := p.recovered(&batch.Request{Method: tt.method}, storage.Mark{State: storage.Begun}, tt.halted, epoch)
		if m.State != tt.want || m.Result.Status != batch.Failed || m.Result.Code != 502 {
			t.Errorf("%+v: got %+v", tt, m)
		}
		if !m.Tries.MaybeDone || !m.Tries.InDoubt || m.InDoubt() != (tt.want == storage.Done) {
			t.Errorf("%+v: MaybeDone isn't set for a request that may have run before: %+v", tt, m.Tries)
		}
	}
}

// TestJudgeInDoubt checks that a request is in doubt until an answer shows whether it was carried out.
func TestJudgeInDoubt(t *testing.T) {
	unknown, maybe := storage.Tries{MaybeDone: true, InDoubt: true}, storage.Tries{MaybeDone: true}
	p := Policy{RetryLimit: 0, ThrottleLimit: 0}
	for name, tt := range map[string]struct {
		methods string
		tries   storage.Tries
		answer  outbound.Answer
		want    bool
	}{
		"no complete answer":              {"POST PATCH", storage.Tries{}, noAnswer(outbound.Doubt, 504), true},
		"a broken connection":             {"POST PATCH", storage.Tries{}, noAnswer(outbound.Doubt, 502), true},
		"an answer that is too large":     {"POST PATCH", storage.Tries{}, noAnswer(outbound.TooLarge, 502), true},
		"a gateway's answer":              {"POST PATCH", storage.Tries{}, answered(504), true},
		"a bad gateway's answer":          {"POST PATCH", storage.Tries{}, answered(502), true},
		"a conflict after an attempt":     {"POST PATCH PUT DELETE", maybe, answered(409), true},
		"a precondition after an attempt": {"POST PATCH PUT DELETE", maybe, answered(412), true},
		"not sent after doubt":            {"POST PATCH", unknown, noAnswer(outbound.NotSent, 502), true},
		"refused after doubt":             {"POST PATCH", unknown, noAnswer(outbound.Refused, 502), true},
		"throttled after doubt":           {"POST PATCH", unknown, answered(429), true},
		"unavailable after doubt":         {"POST PATCH", unknown, answered(503), true},

		"no answer to a request that does no harm": {"GET HEAD PUT DELETE", storage.Tries{}, noAnswer(outbound.Doubt, 504), false},
		"a gateway's answer to a PUT":              {"GET PUT DELETE", storage.Tries{}, answered(504), false},
		"a conflict at the first attempt":          {"POST PUT", storage.Tries{}, answered(409), false},
		"a conflict of a read":                     {"GET", maybe, answered(412), false},
		"not sent":                                 {"POST", storage.Tries{}, noAnswer(outbound.NotSent, 502), false},
		"not sent, timed out":                      {"POST", storage.Tries{}, noAnswer(outbound.NotSent, 504), false},
		"refused":                                  {"POST", storage.Tries{}, noAnswer(outbound.Refused, 502), false},
		"the API's own failure":                    {"POST PATCH", storage.Tries{}, answered(500), false},
		"unavailable":                              {"POST", storage.Tries{}, answered(503), false},
		"throttled":                                {"POST", storage.Tries{}, answered(429), false},
		"an answer that settles the doubt":         {"POST", unknown, answered(422), false},
		"a success that settles the doubt":         {"POST", unknown, answered(201), false},
		"an answer 404 to a repeated DELETE":       {"DELETE", unknown, answered(404), false},
	} {
		for method := range strings.FieldsSeq(tt.methods) {
			m := p.judge(&batch.Request{Method: method}, tt.tries, &tt.answer, governor.Counts, epoch)
			if m.State != storage.Done || m.InDoubt() != tt.want {
				t.Errorf("%s, %s: got %+v, want in doubt: %v", name, method, m, tt.want)
			}
		}
	}
}

// TestInDoubtWhileItWaits checks that a request stays in doubt between attempts with --in-doubt retry.
func TestInDoubtWhileItWaits(t *testing.T) {
	p := Policy{RetryLimit: 5, RetryInDoubt: true, Success: batch.Success{Codes: "299"}}
	lost, notSent := noAnswer(outbound.Doubt, 504), noAnswer(outbound.NotSent, 502)
	m := p.judge(&batch.Request{Method: "POST"}, storage.Tries{}, &lost, governor.Counts, epoch)
	m = p.judge(&batch.Request{Method: "POST"}, m.Tries, &notSent, governor.Counts, epoch)
	if m.State != storage.Waiting || m.InDoubt() || !m.Tries.InDoubt {
		t.Errorf("got %+v, want waiting, with the doubt of the first attempt", m)
	}
}
