package sheaf

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

// TestNewLeaksNothing: after a step of New has failed, no goroutine runs, no file or connection is open,
// and the database can be used again.
func TestNewLeaksNothing(t *testing.T) {
	garbage := filepath.Join(t.TempDir(), "garbage")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("garbage ", 1<<10)), 0o600); err != nil {
		t.Fatal(err)
	}
	onEach(t, func(t *testing.T, o Options) {
		start := func(change func(*Options)) error {
			o := o
			o.Upstream.URL, o.Logger = "http://127.0.0.1:9/{storeId}", slog.New(slog.DiscardHandler)
			change(&o)
			s, err := New(o)
			if err == nil {
				err = s.Close()
			}
			return err
		}
		if err := start(func(*Options) {}); err != nil {
			t.Fatal(err)
		}
		for step, change := range map[string]func(*Options){
			"options":     func(o *Options) { o.Retries.Interval = -1 },
			"upstream":    func(o *Options) { o.Upstream.URL = "ftp://host" },
			"database":    func(o *Options) { o.Database.URL = "sqlite:" + garbage },
			"secret key":  func(o *Options) { o.Database.SecretKeyFile = garbage },
			"other key":   func(o *Options) { o.Database.SecretKeyFile = keyFile(t) },
			"keys":        func(o *Options) { o.Auth.KeysFile = garbage },
			"operators":   func(o *Options) { o.Auth.CheckURL, o.Auth.OperatorKeysFile = "http://127.0.0.1:9/{storeId}", garbage },
			"check":       func(o *Options) { o.Auth.CheckURL = "ftp://host/{storeId}" },
			"secret":      func(o *Options) { o.Webhooks.SecretFile = garbage },
			"webhook":     func(o *Options) { o.Webhooks.URL = "https://example.com" },
			"after check": func(o *Options) { o.Auth.CheckURL, o.Webhooks.SecretFile = "http://127.0.0.1:9/{storeId}", garbage },
		} {
			goroutines, files := goleak.IgnoreCurrent(), openFiles()
			if err := start(change); err == nil {
				t.Errorf("%s: New succeeds", step)
			}
			if err := goleak.Find(goroutines); err != nil {
				t.Errorf("%s: %v", step, err)
			}
			for file := range openFiles() {
				if !files[file] {
					t.Errorf("%s: %s is open", step, file)
				}
			}
			if err := start(func(*Options) {}); err != nil {
				t.Errorf("after %s: %v", step, err)
			}
		}
	})
}

// openFiles returns the files and sockets that this process has open, on Linux.
func openFiles() map[string]bool {
	open := map[string]bool{}
	links, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", os.Getpid()))
	for _, link := range links {
		if file, err := os.Readlink(link); err == nil && (filepath.IsAbs(file) || strings.HasPrefix(file, "socket:")) {
			open[file] = true
		}
	}
	return open
}
