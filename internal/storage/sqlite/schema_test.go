package sqlite

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage/internal/driver"
)

// TestNewerSchema: this version opens a file that a newer one has expanded, and refuses a file from
// which a newer one has removed something that it needs.
func TestNewerSchema(t *testing.T) {
	schema, err := readSchema()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "sheaf.db")
	db := open(t, path)
	x := newBatch(3)
	create(t, db, x)
	db.Close()
	noted := func(least int) string {
		next := schema.Version() + 1
		return fmt.Sprintf("PRAGMA user_version = %d; UPDATE settings SET value = '%d %d' WHERE name = '%s'", next, next, least, driver.SchemaSetting)
	}
	script(t, path, noted(2)+"; ALTER TABLE batches ADD COLUMN later TEXT NOT NULL DEFAULT ''")
	db = open(t, path)
	if s, err := db.Status(t.Context(), key(x), 1<<20); err != nil || s.Status != batch.Queued {
		t.Errorf("got %+v, %v", s, err)
	}
	create(t, db, newBatch(1))
	db.Close()

	script(t, path, noted(999))
	db, err = Open(t.Context(), path, Options{})
	if err == nil {
		db.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "newer version of Sheaf") || !strings.Contains(err.Error(), "before schema 999") {
		t.Errorf("got %v", err)
	}
}
