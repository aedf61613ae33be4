package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/sheafapi/sheaf/internal/pgtest"
)

// TestUpgradeWithTwoBinaries: a newer version expands the schema while nodes of this version run
// batches. Then both versions run batches, even after a restart. Once the database records that
// something that this version uses has been removed, this version refuses to start.
func TestUpgradeWithTwoBinaries(t *testing.T) {
	parallel(t)
	steps := []string{
		"-- +goose Up\nALTER TABLE batches ADD COLUMN later text NOT NULL DEFAULT '';\n",
		"-- +goose NO TRANSACTION\n-- +goose Up\nCREATE INDEX CONCURRENTLY IF NOT EXISTS batches_later ON batches (store, id) WHERE later <> '';\n",
	}
	expanded := buildLater(t, steps)
	ctx := t.Context()
	ledger := newLedger(t, steady)
	f := newFleet(t, &row{}, ledger, pgtest.NewDatabase(t), 3)
	f.nodes[2].binary = expanded
	f.lost = func(error) {} // a stopped node accepts no calls
	stop := func(n *node) {
		f.strike(n.name, ended)
		n.term(t)
	}
	f.start(f.nodes[0])
	f.start(f.nodes[1])
	older, other, newer := f.nodes[0], f.nodes[1], f.nodes[2]
	f.withLoad(ctx, 6, func(*load) {
		awaitArrivals(ctx, t, ledger.After(20))
		f.start(newer) // brings the schema up to date
		awaitArrivals(ctx, t, ledger.After(20))
		stop(older)
		stop(other)
		awaitArrivals(ctx, t, ledger.After(20)) // from the newer version
		f.start(older)                          // on the newer schema
		stop(newer)
		awaitArrivals(ctx, t, ledger.After(20)) // from the older version
	})
	older.term(t)
	db, err := pgx.Connect(ctx, f.database)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close(ctx)
	if _, err := db.Exec(ctx, "UPDATE settings SET value = convert_to(split_part(convert_from(value, 'UTF8'), ' ', 1) || ' 999', 'UTF8') WHERE name = 'schema'"); err != nil {
		t.Fatal(err)
	}
	f.launch(older)
	older.awaitExit(t)
	if code, log := older.cmd.ProcessState.ExitCode(), older.logText(); code != 1 || !strings.Contains(log, "it was made by a newer version of Sheaf") || !strings.Contains(log, "before schema 999") {
		t.Errorf("the older version on a schema that it can't use: exit code %d\n%s", code, log)
	}
}

// buildLater builds the service as a later version, with additional schema migrations.
func buildLater(t *testing.T, steps []string) string {
	t.Helper()
	dir := t.TempDir()
	folder, err := filepath.Abs("../internal/storage/postgres/migrations")
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	replace := map[string]string{}
	for i, step := range steps {
		name := fmt.Sprintf("%03d_later.sql", len(before)+1+i)
		replace[filepath.Join(folder, name)] = filepath.Join(dir, name)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(step), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	file, program := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "sheaf")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := build("-overlay", file, "-o", program); err != nil {
		t.Fatal(err)
	}
	return program
}
