//go:build postgres

package postgres

import (
	"strings"
	"sync"
	"testing"

	"github.com/sheafapi/sheaf/internal/pgtest"
)

// TestManyStartAtOnce: ten nodes that start at once on an empty database can all work in it.
func TestManyStartAtOnce(t *testing.T) {
	const nodes = 10
	url := pgtest.NewDatabase(t)
	dbs := make([]*DB, nodes)
	var wg sync.WaitGroup
	for i := range nodes {
		wg.Go(func() {
			var err error
			if dbs[i], err = Open(t.Context(), url, Options{timing: &still}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, db := range dbs {
		if db == nil {
			continue
		}
		x := newBatch("s", 1)
		create(t, db, x)
		expect(t, "outcome", outcome(t, dbs[0], x), "QUEUED")
		defer db.Close()
	}
	expect(t, "steps of the schema that were made twice", number(t, url, "SELECT count(*) - count(DISTINCT version_id) FROM sheaf_schema"), 0)
	expect(t, "nodes", number(t, url, "SELECT count(*) FROM nodes"), nodes)
}

// TestMigrate: the schema can be created without a node, any number of times, and while nodes run.
// A node that must not change the schema accepts it.
func TestMigrate(t *testing.T) {
	url := pgtest.NewDatabase(t)
	first, err := Migrate(t.Context(), url)
	if err != nil || first < 1 {
		t.Fatal(first, err)
	}
	expect(t, "nodes", number(t, url, "SELECT count(*) FROM nodes"), 0)
	db := open(t, url, Options{NoMigrations: true})
	x := newBatch("s", 1)
	c := claimed(t, db, x)
	again, err := Migrate(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "the version", again, first)
	if _, err := db.Finish(t.Context(), c, nil, "", false); err != nil {
		t.Fatal(err)
	}
}

// TestMigrateOnImpatientServer: timeouts that the server sets for all clients end neither the
// schema lock nor the wait for it.
func TestMigrateOnImpatientServer(t *testing.T) {
	url := pgtest.NewDatabase(t)
	execute(t, url, `CREATE TABLE sheaf_lock (id integer PRIMARY KEY); INSERT INTO sheaf_lock VALUES (1);
		DO $$ BEGIN
			EXECUTE format('ALTER DATABASE %I SET idle_in_transaction_session_timeout = 1', current_database());
			EXECUTE format('ALTER DATABASE %I SET lock_timeout = 1', current_database());
		END $$`)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if _, err := Migrate(t.Context(), url); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// TestFailedMigration: a step that fails leaves nothing behind, and succeeds once its obstacle is
// gone.
func TestFailedMigration(t *testing.T) {
	url := pgtest.NewDatabase(t)
	execute(t, url, "CREATE TABLE marks (somebody text)") // the last table of the step
	for range 2 {
		if version, err := Migrate(t.Context(), url); err == nil || !strings.Contains(err.Error(), `"marks" already exists`) {
			t.Errorf("got %d, %v", version, err)
		}
		if db, err := Open(t.Context(), url, Options{}); err == nil {
			db.Close()
			t.Error("it was opened")
		}
		expect(t, "tables that were made", number(t, url, "SELECT count(*) FROM pg_class WHERE relname IN ('settings', 'nodes', 'queues', 'batches')"), 0)
	}
	execute(t, url, "DROP TABLE marks")
	create(t, open(t, url, Options{}), newBatch("s", 1))
}

// TestMigrationUnderWay: calls whose statements were prepared before a column changed its type
// still succeed.
func TestMigrationUnderWay(t *testing.T) {
	url := pgtest.NewDatabase(t)
	db := open(t, url, Options{timing: &still})
	x := newBatch("s", 2)
	c := claimed(t, db, x)
	reads := func() {
		var wg sync.WaitGroup
		for range 2 * DefaultConnections { // each connection has its own prepared statement
			wg.Go(func() { expect(t, "outcome", outcome(t, db, x), "QUEUED") })
		}
		wg.Wait()
	}
	reads()
	execute(t, url, "ALTER TABLE batches ALTER total TYPE integer; ALTER TABLE marks ALTER code TYPE bigint")
	reads()
	if _, err := db.Record(t.Context(), c, nil); err != nil {
		t.Error(err)
	}
}
