package sheaf

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// dataVersion returns a number that changes with every commit to a file by other connections.
func dataVersion(t *testing.T, c *sqlite.Conn) (version int64) {
	t.Helper()
	err := sqlitex.ExecuteTransient(c, "PRAGMA data_version", &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
		version = s.ColumnInt64(0)
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return version
}

// TestReadyChangesNothing: calls to /readyz cause no commits.
func TestReadyChangesNothing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sheaf.db")
	s, err := New(Options{Upstream: Upstream{URL: "http://127.0.0.1:1/{storeId}"}, Database: Database{URL: "sqlite:" + file}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c, err := sqlite.OpenConn(file, sqlite.OpenReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	before := dataVersion(t, c)
	for range 20 {
		if err := s.storage.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if after := dataVersion(t, c); after != before {
		t.Errorf("the file was changed")
	}
}

// TestReadyHidesDetails: /readyz does not reveal the database's error, but the log contains it.
func TestReadyHidesDetails(t *testing.T) {
	onEach(t, func(t *testing.T, o Options) {
		var log bytes.Buffer
		o.Upstream.URL, o.Logger = "http://127.0.0.1:1/{storeId}", slog.New(slog.NewTextHandler(&log, nil))
		s, _, stop := running(t, o)
		for s.Ready(t.Context()) != nil {
			runtime.Gosched() // until the batches of earlier processes have been found
		}
		stop()
		if err := s.Close(); err != nil { // from now on, every call to the database fails
			t.Fatal(err)
		}
		log.Reset()
		for range 3 {
			err := s.readyz(t.Context())
			if err == nil {
				t.Fatal("it is ready without its database")
			}
			for _, word := range []string{"sheaf-test", "database", "closed", "sqlite", "postgres"} {
				if strings.Contains(err.Error(), word) {
					t.Errorf("%q reveals %q", err, word)
				}
			}
		}
		if n := strings.Count(log.String(), "the database does not work"); n != 1 {
			t.Errorf("it is logged %d times, want 1:\n%s", n, &log)
		}
	})
}

// TestOperatorsAreAudited: without an audit log, the service's log says who signed in or called as
// an operator, what they did and from which address. It contains no token.
func TestOperatorsAreAudited(t *testing.T) {
	var log bytes.Buffer
	s, ask, stop := running(t, Options{
		Upstream: Upstream{URL: "http://127.0.0.1:1/{storeId}"},
		Database: Database{URL: "sqlite:" + filepath.Join(t.TempDir(), "sheaf.db")},
		Logger:   slog.New(slog.NewTextHandler(&log, nil)),
	})
	stop()
	log.Reset()
	ask("GET", "/operator", nil, "")
	ask("GET", "/operator", nil, "") // repeated within a minute
	ask("POST", "/operator/quarantine/end?ticket=0b4a3f7e-3a46-4b9c-b9b0-9f1d5f0e7c11", nil, "")
	ask("GET", "/api/v3/1003/batch?status=QUEUED", nil, "")
	s.Audit(httptest.NewRequest(http.MethodPost, "/ui/sign-in", nil), "sign-in", "1003", "token", 200)
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 3 {
		t.Fatalf("logged:\n%s", &log)
	}
	for i, action := range []string{"operator ", "operator/quarantine/end ", "sign-in "} {
		for _, want := range []string{"msg=audit", "action=" + action, "who=", "address=192.0.2.1", "status="} {
			if !strings.Contains(lines[i], want) {
				t.Errorf("%q is missing in %s", want, lines[i])
			}
		}
		if strings.Contains(lines[i], "token") || strings.Contains(lines[i], `who="" `) {
			t.Errorf("%s", lines[i])
		}
	}
}
