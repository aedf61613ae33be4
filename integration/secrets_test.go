package integration

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sheafapi/sheaf/internal/pgtest"
)

// createHeldBatch starts a service on the database, creates a batch whose first request the upstream
// holds, and kills the service. The batch then has a request in flight and one that was never
// sent.
func createHeldBatch(ctx context.Context, t *testing.T, upstream *Ledger, database string) (s *service, ticket string) {
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
	awaitArrivals(ctx, t, point)
	s.kill9(t)
	return s, ticket
}

// TestWithoutItsKey: if the key of a database is missing or different, the service doesn't start
// and says what to do. Only --abandon-credentials abandons the requests that were not sent.
func TestWithoutItsKey(t *testing.T) {
	for name, replace := range map[string]bool{"missing": false, "another": true} {
		t.Run(name, func(t *testing.T) {
			onEach(t, func(t *testing.T, database string) { withoutItsKey(t, database, replace) })
		})
	}
}

func withoutItsKey(t *testing.T, database string, replace bool) {
	parallel(t)
	ctx := t.Context()
	upstream := newHoldingLedger(t)
	s, ticket := createHeldBatch(ctx, t, upstream, database)
	key := s.keyFile()
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	if replace {
		command(t, "secret", "new", key)
	}

	said := runRefused(t, s.args...)
	for _, word := range []string{key, "restore the key file", "--abandon-credentials"} {
		if !strings.Contains(said, word) {
			t.Errorf("the refusal does not mention %q: %s", word, said)
		}
	}
	if n := strings.Count(said, "\n"); n != 1 {
		t.Errorf("the refusal has %d lines: %s", n, said)
	}

	if !replace && isPostgres(database) { // nodes share a key, so no node creates one
		command(t, "secret", "new", key)
	}
	s = s.restart(t, "--abandon-credentials")
	got, err := caller(s.base).awaitEnd(ctx, "1", ticket)
	if err != nil {
		t.Fatal(err)
	}
	if r := got.Responses[0]; r.Status != "FAILED" || r.Code != 502 || !strings.Contains(r.Line, "not known") {
		t.Errorf("the request in flight is %+v, want FAILED, 502, not known", r)
	}
	if r := got.Responses[1]; r.Status != "NOT_EXECUTED" || !strings.Contains(r.Reason, "credential") {
		t.Errorf("the request that was not sent is %+v, want NOT_EXECUTED and a reason", r)
	}
	if n := len(upstream.Arrivals()); n != 1 {
		t.Errorf("%d requests arrived, want 1", n)
	}
	s.term(t)
	again := &service{args: s.args[:len(s.args)-1], base: s.base} // without --abandon-credentials: once is enough
	again.restart(t).term(t)
}

// keyFile returns the path of the service's secret key.
func (s *service) keyFile() string {
	if i := slices.Index(s.args, "--secret-key-file"); i >= 0 {
		return s.args[i+1]
	}
	database := s.args[slices.Index(s.args, "--database")+1]
	return strings.TrimPrefix(database, "sqlite:") + ".key"
}

// command runs a command of the binary and expects success.
func command(t *testing.T, args ...string) {
	t.Helper()
	p := launch(t, args...)
	if state := p.awaitExit(t); !state.Success() {
		t.Fatalf("sheaf %s: %v\n%s", strings.Join(args, " "), state, p.logText())
	}
}

// TestNothingLeaks: neither the logs, at their most detailed level, nor the database's files contain
// a token. The log and the audit log contain no body and no query string either.
func TestNothingLeaks(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		dir := t.TempDir()
		nothingLeaks(t, filepath.Join(dir, "sheaf.db"), dir)
	})
	t.Run("postgres", func(t *testing.T) {
		dir, err := os.MkdirTemp("", "sheaf-postgres-") // only root can enter t.TempDir
		if err != nil {
			t.Fatal(err)
		}
		_, database := newPostgres(t, pgtest.Options{Dir: dir})
		nothingLeaks(t, database, dir)
	})
}

// nothingLeaks checks the log, and all files in the database's folder.
func nothingLeaks(t *testing.T, database, dir string) {
	parallel(t)
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
	audit := filepath.Join(t.TempDir(), "audit.log")
	s := start(t, upstream.URL, database, "--log-format", "json,debug", "--audit-log", audit, "--outage-limit", "0")
	c := caller(s.base)
	c.token = token
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
			awaitArrivals(ctx, t, point)
			checkFiles(t, dir, token) // while the credential is in use
			s.kill9(t)
			s = s.restart(t)
		}
		if _, err := c.awaitEnd(ctx, "1", ticket); err != nil {
			t.Fatal(err)
		}
		checkLog(t, s, token, body, query)
	}
	// A create that is refused must not be quoted in the log either.
	err := c.do(ctx, "POST", "1", nil, []byte(`[{"method":"`+body+`","path":"x?q=`+query+`"}]`), nil)
	if _, refused := errors.AsType[*refusal](err); !refused {
		t.Errorf("a wrong method: %v, want a refusal", err)
	}
	s.term(t)
	checkLog(t, s, token, body, query)
	checkFiles(t, dir, token)
	audited, err := os.ReadFile(audit)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(audited), `"action":"create"`); n != 4 {
		t.Errorf("the audit log has %d creates, want 4", n)
	}
	for _, word := range []string{token, body, query} {
		if strings.Contains(string(audited), word) {
			t.Errorf("the audit log contains %q: %s", word, audited)
		}
	}
}

// checkLog checks that the log isn't empty and contains none of the words.
func checkLog(t *testing.T, s *service, words ...string) {
	t.Helper()
	text := s.logText()
	if text == "" {
		t.Error("the log is empty")
	}
	for _, word := range words {
		if i := strings.Index(text, word); i >= 0 {
			t.Errorf("the log contains %q: …%s…", word, text[max(0, i-200):min(len(text), i+100)])
		}
	}
}

// checkFiles checks that no file in the database's folder contains the word.
func checkFiles(t *testing.T, dir, word string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(file string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return ignoreRemoved(err)
		}
		content, err := os.ReadFile(file)
		if bytes.Contains(content, []byte(word)) {
			t.Errorf("%s contains the token in plain text", file)
		}
		files++
		return ignoreRemoved(err)
	})
	if err != nil || files < 2 {
		t.Fatalf("%d files of the database: %v", files, err)
	}
}

// ignoreRemoved returns err, or nil if it says that the file has been removed in the meantime.
func ignoreRemoved(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
