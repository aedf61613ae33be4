package integration

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// heldBatch starts a service on the database, creates a batch whose first request
// the upstream holds, and kills the service. The batch has a request in flight and one
// that was never sent.
func heldBatch(ctx context.Context, t *testing.T, upstream *Ledger, database string) (s *service, ticket string) {
	t.Helper()
	s = start(t, upstream.URL, database)
	point := upstream.After(1)
	ticket, err := caller(s.base).create(ctx, "1", map[string][]string{"stopOnFirstFailure": {"false"}}, []request{
		{Method: "POST", Path: "hold"},
		{Method: "POST", Path: "later"},
	})
	if err != nil {
		t.Fatal(err)
	}
	arrived(ctx, t, point)
	s.kill9(t)
	return s, ticket
}

// TestWithoutItsKey: a database whose key is missing or another refuses the start and
// says what to do; only --abandon-credentials gives up what was not sent.
func TestWithoutItsKey(t *testing.T) {
	for name, replace := range map[string]bool{"missing": false, "another": true} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			upstream := holding(t)
			database := filepath.Join(t.TempDir(), "sheaf.db")
			s, ticket := heldBatch(ctx, t, upstream, database)
			if err := os.Remove(database + ".key"); err != nil {
				t.Fatal(err)
			}
			if replace {
				command(t, "secret", "new", database+".key")
			}

			said := refuses(t, s.args...)
			for _, word := range []string{database + ".key", "restore the key file", "--abandon-credentials"} {
				if !strings.Contains(said, word) {
					t.Errorf("the refusal does not speak of %q: %s", word, said)
				}
			}
			if n := strings.Count(said, "\n"); n != 1 {
				t.Errorf("the refusal has %d lines: %s", n, said)
			}

			s = s.restart(t, "--abandon-credentials")
			got, err := caller(s.base).ended(ctx, "1", ticket)
			if err != nil {
				t.Fatal(err)
			}
			if r := got.Responses[0]; r.Status != "FAILED" || r.Code != 502 || !strings.Contains(r.Line, "not known") {
				t.Errorf("what was in flight is %+v, want FAILED, 502, not known", r)
			}
			if r := got.Responses[1]; r.Status != "NOT_EXECUTED" || !strings.Contains(r.Reason, "credential") {
				t.Errorf("what was not sent is %+v, want NOT_EXECUTED and a reason", r)
			}
			if n := len(upstream.Arrivals()); n != 1 {
				t.Errorf("%d requests arrived, want 1", n)
			}
			s.term(t)
			again := &service{args: s.args[:len(s.args)-1], base: s.base} // given up once is enough
			again.restart(t).term(t)
		})
	}
}

// command runs a command of the binary and expects success.
func command(t *testing.T, args ...string) {
	t.Helper()
	p := launch(t, args...)
	if state := p.exited(t); !state.Success() {
		t.Fatalf("sheaf %s: %v\n%s", strings.Join(args, " "), state, p.logged())
	}
}

// TestNothingLeaks: neither the log, at its most talkative, nor the files of the
// database show a token; the log shows no body and no query string either.
func TestNothingLeaks(t *testing.T) {
	const (
		token = "token-Zq7vWx93LrTk"
		body  = "body-Jm4nHb81PsQd"
		query = "query-Fy2cGt56KwRz"
	)
	ctx := t.Context()
	upstream := newLedger(t, func(a Arrival) Reply {
		switch {
		case strings.Contains(a.Path, "conflict"):
			return Reply{Status: 409}
		case strings.Contains(a.Path, "broken"):
			return Reply{HangUp: true}
		case strings.Contains(a.Path, "busy") && a.Nth == 1:
			return Reply{Status: 429}
		case strings.Contains(a.Path, "down") && a.Nth == 1:
			return Reply{Status: 503}
		}
		return Reply{}
	})
	database := filepath.Join(t.TempDir(), "sheaf.db")
	s := start(t, upstream.URL, database, "--log-level", "debug")
	c := client{bases: []string{s.base}, token: token}
	var requests []request
	for _, path := range []string{"fine", "conflict", "broken", "busy", "down"} {
		for _, method := range []string{"GET", "PUT", "POST"} {
			r := request{Method: method, Path: path + "?q=" + query}
			if method != "GET" {
				r.Body = []byte(`{"secret":"` + body + `"}`)
			}
			requests = append(requests, r)
		}
	}
	for i := range 3 {
		point := upstream.After(5)
		ticket, err := c.create(ctx, "1", map[string][]string{"stopOnFirstFailure": {"false"}, "note": {query}}, requests)
		if err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			arrived(ctx, t, point)
			mustNotHold(t, database, token) // while the credential is in use
			s.kill9(t)
			s = s.restart(t)
		}
		if _, err := c.ended(ctx, "1", ticket); err != nil {
			t.Fatal(err)
		}
		logs(t, s, token, body, query)
	}
	// A create that is refused must not be quoted in the log either.
	err := c.do(ctx, "POST", "1", nil, []byte(`[{"method":"`+body+`","path":"x?q=`+query+`"}]`), nil)
	if _, refused := errors.AsType[*refusal](err); !refused {
		t.Errorf("a wrong method: %v, want a refusal", err)
	}
	s.term(t)
	logs(t, s, token, body, query)
	mustNotHold(t, database, token)
}

// logs checks that the log speaks, and of none of the words.
func logs(t *testing.T, s *service, words ...string) {
	t.Helper()
	text := s.logged()
	if text == "" {
		t.Error("the log is empty")
	}
	for _, word := range words {
		if i := strings.Index(text, word); i >= 0 {
			t.Errorf("the log has %q: …%s…", word, text[max(0, i-200):min(len(text), i+100)])
		}
	}
}

// mustNotHold checks that no file of the database holds the word.
func mustNotHold(t *testing.T, database, word string) {
	t.Helper()
	files, err := filepath.Glob(database + "*")
	if err != nil || len(files) < 2 {
		t.Fatalf("files of the database: %v, %v", files, err)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(content, []byte(word)) {
			t.Errorf("%s holds the token in clear", filepath.Base(file))
		}
	}
}
