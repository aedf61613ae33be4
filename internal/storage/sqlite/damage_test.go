package sqlite

import (
	"path/filepath"
	"testing"

	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/storagetest"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// TestDamage: a damaged row affects only its own batch.
func TestDamage(t *testing.T) {
	ways := map[string]string{
		"form":             `UPDATE requests SET packed = CAST(x'7f' || substr(packed, 2) AS BLOB) WHERE batch = ?1`,
		"requests":         `UPDATE requests SET packed = substr(packed, 1, 9) WHERE batch = ?1`,
		"no requests":      `DELETE FROM requests WHERE batch = ?1`,
		"fewer requests":   `UPDATE batches SET total = 9 WHERE id = ?1`,
		"options":          `UPDATE batches SET options = '{"c":101}' WHERE id = ?1`,
		"state of a mark":  `UPDATE marks SET state = 9 WHERE id = ?1 * 512`,
		"index of a mark":  `UPDATE marks SET id = ?1 * 512 + 400 WHERE id = ?1 * 512`,
		"status of a mark": `UPDATE marks SET status = 77 WHERE id = ?1 * 512`,
		"results":          `UPDATE marks SET headers = x'ff' WHERE id = ?1 * 512`,
	}
	names := []string{}
	for name := range ways {
		names = append(names, name)
	}
	storagetest.RunDamage(t, names, func(t *testing.T) (storage.Storage, func(string, storage.BatchID)) {
		path := filepath.Join(t.TempDir(), "sheaf.db")
		db := open(t, path)
		return db, func(way string, id storage.BatchID) {
			c, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := sqlitex.Execute(c, ways[way], &sqlitex.ExecOptions{Args: []any{int64(id)}}); err != nil || c.Changes() == 0 {
				t.Fatal(err, c.Changes())
			}
		}
	})
}
