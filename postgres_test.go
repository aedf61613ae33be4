//go:build postgres

package sheaf

import (
	"os"
	"testing"

	"github.com/sheafapi/sheaf/internal/pgtest"
)

func TestMain(m *testing.M) {
	newPostgres = pgtest.NewDatabase
	os.Exit(pgtest.Main(m))
}
