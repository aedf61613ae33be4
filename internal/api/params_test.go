package api

import (
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
)

func TestBoolean(t *testing.T) {
	for value, want := range map[string]bool{
		"true": true, "TRUE": true, "True": true, "1": true, "yes": true, "Yes": true, "on": true, "ON": true,
		"false": false, "FALSE": false, "0": false, "no": false, "NO": false, "off": false, "Off": false,
	} {
		for _, byDefault := range []bool{true, false} {
			p := params{values: url.Values{"b": {value}}}
			if got := p.boolean("b", byDefault); got != want || p.err != nil {
				t.Errorf("%q: %v, %v", value, got, p.err)
			}
		}
	}
	for _, value := range []string{"", " ", "2", "t", "y", "true ", "null", "10"} {
		p := params{values: url.Values{"b": {value}, "c": {"x"}}}
		p.boolean("b", true)
		p.boolean("c", true)
		if p.err == nil || !strings.Contains(p.err.Error(), "Parameter b ") {
			t.Errorf("%q: %v, want an error that names the first wrong parameter", value, p.err)
		}
	}
	for _, byDefault := range []bool{true, false} {
		var p params
		if got := p.boolean("b", byDefault); got != byDefault || p.err != nil {
			t.Errorf("absent: %v, %v", got, p.err)
		}
	}
}

// TestWrongParameters: the error for an invalid parameter names it, and nothing is stored or
// stopped.
func TestWrongParameters(t *testing.T) {
	w := newWorld(t, nil)
	const uuids = "deduplicationKey=123e4567-e89b-42d3-a456-426614174000&deduplicationKey=123e4567-e89b-42d3-a456-426614174001"
	for _, tt := range []struct{ method, target, names string }{
		{"POST", "?allowParallelMode=maybe", "allowParallelMode"},
		{"POST", "?allowParallelMode", "allowParallelMode"},
		{"POST", "?stopOnFirstFailure=", "stopOnFirstFailure"},
		{"POST", "?stopOnFirstFailure=true&stopOnFirstFailure=false", "stopOnFirstFailure"},
		{"POST", "?deduplicationKey=", "deduplicationKey"},
		{"POST", "?deduplicationKey=123", "deduplicationKey"},
		{"POST", "?deduplicationKey=123e4567e89b42d3a456426614174000", "deduplicationKey"},
		{"POST", "?deduplicationKey={123e4567-e89b-42d3-a456-426614174000}", "deduplicationKey"},
		{"POST", "?deduplicationKey=urn:uuid:123e4567-e89b-42d3-a456-426614174000", "deduplicationKey"},
		{"POST", "?deduplicationKey=123e4567-e89b-42d3-a456-42661417400g", "deduplicationKey"},
		{"POST", "?deduplicationKey=00000000-0000-0000-0000-000000000000", "deduplicationKey"},
		{"POST", "?" + uuids, "deduplicationKey"},
		{"POST", "?groupId=" + strings.Repeat("g", 257), "groupId"},
		{"POST", "?groupId=%FF", "groupId"},
		{"POST", "?groupId=a&groupId=b", "groupId"},
		{"POST", "?concurrency=0", "concurrency must be a number from 1 to 100"},
		{"POST", "?allowParallelMode=true&concurrency=101", "concurrency"},
		{"POST", "?concurrency=2", "concurrency can be more than 1 only with allowParallelMode=true"},
		{"POST", "?concurrency=1&concurrency=2", "concurrency"},
		{"POST", "?retries=-1", "retries must be a number from 0 to 50"},
		{"POST", "?retries=51", "retries"},
		{"POST", "?retries=", "retries"},
		{"POST", "?retries=1&retryBackoff=3s", "retryBackoff must be fixed:PAUSE"},
		{"POST", "?retryBackoff=fixed:3s", "retryBackoff has no effect"},
		{"POST", "?successStatus=", "successStatus"},
		{"POST", "?successStatus=ok", "successStatus must be status codes"},
		{"POST", "?successStatus=200,429", "successStatus can't have 429"},
		{"POST", "?failWhen=", "failWhen must be JSON pointers"},
		{"POST", "?failWhen=%2Fa%FF", "failWhen"},
		{"POST", "?failWhen=/a&failWhen=/b", "failWhen"},
		{"POST", "?failWhen=/" + strings.Repeat("a", 256), "failWhen"},
		{"GET", "?ticket=a&failWhen=/errors", "failWhen"},
		{"POST", "/retry?ticket=a&retries=1", "retries"},
		{"POST", "?a=%zz", "query"},
		{"GET", "?ticketId=&status=QUEUED", "ticketId"},
		{"GET", "?ticket=a&ticket=b", "ticket"},
		{"GET", "?ticket=a&escapedJson=maybe", "escapedJson"},
		{"GET", "?ticket=a&responses=", "responses"},
		{"GET", "?status=", "status"},
		{"GET", "?status=queued", "status"},
		{"GET", "?status=FAILED", "status"},
		{"GET", "?status=QUEUED&status=COMPLETED", "status"},
		{"GET", "?status=QUEUED&limit=0", "limit"},
		{"GET", "?status=QUEUED&limit=101", "limit"},
		{"GET", "?status=QUEUED&limit=", "limit"},
		{"GET", "?status=QUEUED&limit=ten", "limit"},
		{"GET", "?status=QUEUED&limit=1&limit=2", "limit"},
		{"GET", "?status=QUEUED&offset=-1", "offset"},
		{"GET", "?status=QUEUED&offset=10001", "offset must be at most 10000. To read on, call GET /api/v3/{storeId}/batch/search"},
		{"GET", "?offset=2147483647", "offset must be at most 10000"},
		{"GET", "/webhooks?offset=10001", "set after"},
		{"GET", "/webhooks?after=0", "after"},
		{"GET", "?status=QUEUED&offset=99999999999999999999", "offset"},
		{"GET", "?status=QUEUED&x=%", "query"},
		{"GET", "?ticket=a&after=-2", "after"},
		{"GET", "?ticket=a&after=500", "after"},
		{"GET", "?ticket=a&limit=0", "limit"},
		{"GET", "?ticket=a&only=failed", "only"},
		{"GET", "?ticket=a&only=", "only"},
		{"GET", "?ticket=a&details=2", "details"},
		{"GET", "?ticket=a&wait=61", "wait"},
		{"GET", "?ticket=a&wait=soon", "wait"},
		// Parameters of other calls, or of the other mode of this call.
		{"GET", "?wait=abc&only=XX", "only doesn't belong to a search"},
		{"GET", "?status=QUEUED&escapedJson=true", "escapedJson"},
		{"GET", "?after=3", "after"},
		{"GET", "?ticket=a&status=QUEUED", "status doesn't belong to the status of a batch"},
		{"GET", "?ticket=a&offset=1", "offset"},
		{"GET", "?status=QUEUED&groupId=g", "groupId"},
		{"POST", "?ticket=a", "ticket"},
		{"POST", "?limit=1", "limit"},
		{"POST", "/pause?groupId=g", "groupId"},
		{"POST", "/cancel-matching?ticketId=a", "ticketId"},
		{"POST", "/retry-matching?limit=1", "limit"},
		{"POST", "/cancel-group?groupId=g&dryRun=true", "dryRun"},
		{"DELETE", "?ticket=a&groupId=g", "groupId"},
		{"GET", "/search?offset=1", "offset"},
		{"GET", "/queue?ticket=a", "ticket"},
		{"GET", "/timeline?ticket=a&details=true", "details"},
		{"POST", "/retry-matching?dryRun=true&callbackUrl=https://example.com", "callbackUrl"},
		{"POST", "/retry-matching?callbackUrl=https://example.com", "callbackUrl"},
		{"POST", "?dryRun=true&callbackUrl=nonsense", "callbackUrl"},
		{"POST", "/cancel-group", "groupId"},
		{"POST", "/cancel-group?groupId=", "groupId"},
		{"POST", "/cancel-group?ticketId=&groupId=g", "ticketId"},
		{"POST", "/cancel-group?groupId=g&escapedJson=", "escapedJson"},
		{"POST", "/cancel-group?groupId=%FE", "groupId"},
		{"DELETE", "", "ticketId"},
		{"DELETE", "?ticket=", "ticket"},
		{"DELETE", "?ticketId=a&ticketId=b", "ticketId"},
	} {
		var body io.Reader
		if tt.method == "POST" && (tt.target == "" || tt.target[0] == '?') {
			body = strings.NewReader(`[{"method":"GET","path":"a"}]`)
		}
		r := w.request(tt.method, base+tt.target, body)
		a := w.send(r)
		if a.status != 400 || a.code(t) != "WRONG_PARAMETER" || !strings.Contains(a.body, tt.names) {
			t.Errorf("%s %s: %d %s", tt.method, tt.target, a.status, a.body)
		}
	}
	if a := w.do("GET", base+"?status=QUEUED"); a.body != `{"items":[]}` {
		t.Errorf("a refused create stored a batch: %s", a.body)
	}
}

func FuzzBearer(f *testing.F) {
	f.Add("Bearer abc")
	f.Add("bearer  a=b")
	f.Add("Basic dTpw")
	f.Fuzz(func(t *testing.T, value string) {
		token, err := bearer(http.Header{"Authorization": {value}})
		if err != nil {
			return
		}
		if token == "" || len(token) > batch.MaxToken || strings.ContainsAny(token, " \t\r\n\x00,\"") || !strings.HasSuffix(strings.TrimRight(value, " \t"), token) {
			t.Errorf("%q gave the token %q", value, token)
		}
	})
}

func FuzzParams(f *testing.F) {
	f.Add("ticket=123e4567-e89b-42d3-a456-426614174000&groupId=a%20b&x=%2")
	f.Add("deduplicationKey=00000000-0000-0000-0000-000000000000;limit=5")
	f.Fuzz(func(t *testing.T, query string) {
		p, err := parseParams(query)
		if err != nil {
			return
		}
		if group := p.group(); len(group) > batch.MaxGroupID || !utf8.ValidString(group) {
			t.Errorf("group %q", group)
		}
		if n := p.integer("limit", 100, 1, 100); n < 1 || n > 100 {
			t.Errorf("limit %d", n)
		}
		if ticket, given := p.ticket(); !given && ticket != uuid.Nil {
			t.Errorf("ticket %v was not given", ticket)
		}
		p.err = nil
		if _, given := p.values["deduplicationKey"]; given {
			if key := p.dedupKey(); p.err == nil && key == uuid.Nil {
				t.Error("a key was given, but none was read")
			}
		}
	})
}
