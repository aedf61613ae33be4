//go:build postgres

package postgres

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/sheafapi/sheaf/internal/storage"
)

// TestCreatesTakeTurns: of two creates in one queue, the second one waits for the first one's
// commit, even if that commit is slow and the first one already has its id. Otherwise a larger id
// could be seen, and run, before a smaller one, and both creates would count against the same
// quota.
func TestCreatesTakeTurns(t *testing.T) {
	url := migrated.New(t)
	db := open(t, url, Options{})
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context())
	exec := func(sql string) {
		t.Helper()
		if _, err := c.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	waiting := func() (n int) {
		t.Helper()
		if err := c.QueryRow(t.Context(), "SELECT count(*) FROM pg_locks WHERE NOT granted").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	exec(`CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN NEW; END $$`)
	exec(`CREATE TRIGGER hold BEFORE INSERT ON batches FOR EACH ROW WHEN (NEW.group_id = 'slow') EXECUTE FUNCTION hold()`)
	exec(`SELECT pg_advisory_lock(42)`)

	create(t, db, newBatch("s", 1)) // creates the queue, so that the creates below wait only for each other
	first, second := newBatch("s", 1), newBatch("s", 1)
	first.GroupID, first.Quota, second.Quota = "slow", 2, 2
	created := func(b *storage.NewBatch) <-chan error {
		ended := make(chan error, 1)
		go func() {
			_, err := db.Create(t.Context(), b)
			ended <- err
		}()
		return ended
	}
	slow := created(first)
	eventually(t, "the first create is not held up", func() bool { return waiting() == 1 })
	fast := created(second)
	eventually(t, "the second create neither waits nor ends", func() bool { return waiting() == 2 || len(fast) > 0 })
	if len(fast) > 0 {
		t.Fatalf("the second create did not wait: %v", <-fast)
	}
	exec(`SELECT pg_advisory_unlock(42)`)
	if err := <-slow; err != nil {
		t.Error(err)
	}
	var full *storage.QuotaError
	if err := <-fast; !errors.As(err, &full) {
		t.Errorf("the second create, over the quota of 2: %v", err)
	}
}
