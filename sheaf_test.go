package sheaf

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/secret"
	"github.com/sheafapi/sheaf/internal/storage"
)

func options(dir string) Options {
	return Options{
		Upstream: Upstream{URL: "http://127.0.0.1:9/api/v3/{storeId}"},
		Database: Database{URL: "sqlite:" + filepath.Join(dir, "sheaf.db")},
		Logger:   slog.New(slog.DiscardHandler),
	}
}

func TestOptionsRefused(t *testing.T) {
	for want, change := range map[string]func(*Options){
		"an upstream is required":      func(o *Options) { o.Upstream.URL = "" },
		"upstream:":                    func(o *Options) { o.Upstream.URL = "ftp://host/{storeId}" },
		"at least 1h":                  func(o *Options) { o.Database.Retention = time.Minute },
		"a duration can't be negative": func(o *Options) { o.Retries.Interval = -1 },
		"a limit can't be negative":    func(o *Options) { o.Limits.MaxBody = -1 },
		`match is "orders"`:            func(o *Options) { o.Upstream.Limits = []RouteLimit{{Match: "orders", Concurrency: 1}} },
		`match is "TRACE /a"`:          func(o *Options) { o.Upstream.Limits = []RouteLimit{{Match: "TRACE /a", Concurrency: 1}} },
		`match is "GET /a?b=c"`:        func(o *Options) { o.Upstream.Limits = []RouteLimit{{Match: "GET /a?b=c", Concurrency: 1}} },
		"needs a rate or a":            func(o *Options) { o.Upstream.Limits = []RouteLimit{{Match: "GET /a"}} },
		"1 in 24h":                     func(o *Options) { o.Upstream.Limits = []RouteLimit{{Match: "GET /a", Rate: Rate{1, 25 * time.Hour}}} },
		"negative concurrency":         func(o *Options) { o.Upstream.Limits = []RouteLimit{{Match: "GET /a", Concurrency: -1}} },
		"unknown scope":                func(o *Options) { o.Upstream.Limits = []RouteLimit{{Match: "GET /a", Concurrency: 1, Per: 9}} },
		"at most 100 are possible":     func(o *Options) { o.Upstream.Limits = make([]RouteLimit, 101) },
		"twice for the same scope": func(o *Options) {
			o.Upstream.Limits = []RouteLimit{{Match: "GET /a", Concurrency: 1}, {Match: "GET /a", Rate: Rate{1, time.Second}}}
		},
		"Success must be status codes": func(o *Options) { o.Upstream.Success = "ok" },
		"FailWhen must be JSON":        func(o *Options) { o.Upstream.FailWhen = []string{"errors"} },
		"must be sqlite:FILE":          func(o *Options) { o.Database.URL = "mysql://" },
		"no such file or directory":    func(o *Options) { o.Database.URL = "sqlite:" + filepath.Join("no", "folder", "x.db") },
	} {
		o := options(t.TempDir())
		change(&o)
		s, err := New(o)
		if err == nil {
			s.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want an error with %q", err, want)
		}
	}
}

// TestSealedFor: a credential can't be moved to another batch or store inside the database.
func TestSealedFor(t *testing.T) {
	key := secret.New()
	ticket, other := uuid.New(), uuid.New()
	sealed, err := sealer{key}.seal(ticket, "1", "token")
	if err != nil || bytes.Contains(sealed, []byte("token")) {
		t.Fatalf("%q, %v", sealed, err)
	}
	for _, tt := range []struct {
		ticket uuid.UUID
		store  string
		ok     bool
	}{{ticket, "1", true}, {other, "1", false}, {ticket, "2", false}} {
		token, err := sealer{key}.unseal(&storage.Claim{Ticket: tt.ticket, Store: tt.store, Credential: sealed})
		if (err == nil) != tt.ok || tt.ok && token != "token" {
			t.Errorf("%+v: %q, %v", tt, token, err)
		}
	}
}

// TestSecretKey: the key of an SQLite database is created once, is required later, and can be
// abandoned.
func TestSecretKey(t *testing.T) {
	dir := t.TempDir()
	o := options(dir)
	key := filepath.Join(dir, "sheaf.db.key")
	start := func(want string) {
		t.Helper()
		s, err := New(o)
		if err == nil {
			err = s.Close()
		}
		switch {
		case want == "" && err != nil:
			t.Fatal(err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Fatalf("got %v, want an error with %q", err, want)
		}
	}
	start("")
	first, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	start("")
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	start("is missing")
	if _, err := os.Stat(key); err == nil {
		t.Fatal("a refused start created a key")
	}
	o.Database.AbandonCredentials = true
	start("")
	o.Database.AbandonCredentials = false
	start("")
	if err := os.WriteFile(key, first, 0o600); err != nil {
		t.Fatal(err)
	}
	start("is not the key of the database")
	o.Database.AbandonCredentials = true
	start("")
	o.Database.AbandonCredentials = false
	start("")
}
