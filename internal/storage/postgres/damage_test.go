//go:build postgres

package postgres

import (
	"testing"

	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/storagetest"
)

// TestDamage: a damaged row affects only its own batch.
func TestDamage(t *testing.T) {
	ways := map[string]string{
		"form":             `UPDATE requests SET packed = '\x7f'::bytea || substr(packed, 2) WHERE batch = $1`,
		"requests":         `UPDATE requests SET packed = substr(packed, 1, 9) WHERE batch = $1`,
		"no requests":      `DELETE FROM requests WHERE batch = $1`,
		"fewer requests":   `UPDATE batches SET total = 9 WHERE id = $1`,
		"options":          `UPDATE batches SET options = '{"c":101}' WHERE id = $1`,
		"state of a mark":  `UPDATE marks SET state = 9 WHERE batch = $1 AND index = 0`,
		"index of a mark":  `UPDATE marks SET index = 400 WHERE batch = $1 AND index = 0`,
		"tries of a mark":  `UPDATE marks SET tries = '\xff' WHERE batch = $1 AND index = 0`,
		"status of a mark": `UPDATE marks SET status = 77 WHERE batch = $1 AND index = 0`,
		"results":          `UPDATE marks SET headers = '\xff' WHERE batch = $1 AND index = 0`,
	}
	names := []string{}
	for name := range ways {
		names = append(names, name)
	}
	storagetest.RunDamage(t, names, func(t *testing.T) (storage.Storage, func(string, storage.BatchID)) {
		db := open(t, migrated.New(t), Options{})
		return db, func(way string, id storage.BatchID) {
			tag, err := db.pool.Exec(t.Context(), ways[way], int64(id))
			if err != nil || tag.RowsAffected() == 0 {
				t.Fatal(err, tag)
			}
		}
	})
}
