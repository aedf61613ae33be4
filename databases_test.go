package sheaf

import (
	"path/filepath"
	"testing"
)

// newPostgres creates a PostgreSQL database and returns its URL. It is nil without the build tag
// postgres, which the command make test sets.
var newPostgres func(testing.TB) string

// onEach runs a test with the options for a new database of each kind.
func onEach(t *testing.T, test func(*testing.T, Options)) {
	t.Run("sqlite", func(t *testing.T) {
		test(t, Options{Database: Database{URL: "sqlite:" + filepath.Join(t.TempDir(), "sheaf-test.db")}})
	})
	if newPostgres != nil {
		t.Run("postgres", func(t *testing.T) {
			test(t, Options{Database: Database{URL: newPostgres(t), SecretKeyFile: keyFile(t)}})
		})
	}
}
