package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// addSQLiteHistory is database.addHistory for an SQLite file, which no process may have open.
func addSQLiteHistory(ctx context.Context, file string, n int, progress func(done int)) error {
	c, err := sqlite.OpenConn(file, sqlite.OpenReadWrite)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetInterrupt(ctx.Done())
	h := sqliteHistory{c: c, columns: map[string]string{}}
	if err := h.prepare(); err != nil {
		return fmt.Errorf("prepare the history: %w", err)
	}
	for done := 0; done < n; {
		step := min(historyStep, n-done)
		if err := h.add(step); err != nil {
			return fmt.Errorf("write the history: %w", err)
		}
		done += step
		progress(done)
	}
	return h.run("PRAGMA wal_checkpoint(TRUNCATE)")
}

// sqliteHistory writes finished batches over one connection.
type sqliteHistory struct {
	c       *sqlite.Conn
	columns map[string]string // the columns to copy, by table
}

func (h *sqliteHistory) run(statements ...string) error {
	for _, s := range statements {
		if err := sqlitex.ExecuteTransient(h.c, s, nil); err != nil {
			return fmt.Errorf("%w in %s", err, s)
		}
	}
	return nil
}

// prepare determines which columns and batches to copy.
func (h *sqliteHistory) prepare() error {
	for table, without := range map[string]string{
		"batches":  "id, queue, store, owner, ticket, dedup_key, created_at, started_at, ended_at",
		"requests": "batch",
		"marks":    "id",
	} {
		var columns []string
		err := sqlitex.ExecuteTransient(h.c, "SELECT name FROM pragma_table_info('"+table+"')", &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
			if name := s.ColumnText(0); !slices.Contains(strings.Split(without, ", "), name) {
				columns = append(columns, name)
			}
			return nil
		}})
		if err != nil {
			return err
		}
		h.columns[table] = strings.Join(columns, ", ")
	}
	return h.run(
		"PRAGMA synchronous = OFF", // the service sets it again
		"PRAGMA cache_size = -262144",
		`CREATE TEMPORARY TABLE models AS SELECT row_number() OVER (ORDER BY id) - 1 AS nth, id, queue, store, owner FROM batches WHERE state = 3 LIMIT 100`,
		`CREATE TEMPORARY TABLE added (id INTEGER PRIMARY KEY, model INTEGER, place INTEGER)`)
}

// add writes n finished batches in one transaction.
func (h *sqliteHistory) add(n int) error {
	return h.run("BEGIN", "DELETE FROM added",
		fmt.Sprintf(`WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < %d)
			INSERT INTO added SELECT (SELECT max(id) FROM batches) + n, (SELECT id FROM models WHERE nth = n %% (SELECT count(*) FROM models)),
				(SELECT id FROM models WHERE nth = (n / 7) %% (SELECT count(*) FROM models)) FROM n`, n),
		fmt.Sprintf(`INSERT INTO batches (id, queue, store, owner, ticket, created_at, started_at, ended_at, %[1]s)
			SELECT added.id, p.queue, p.store, p.owner, randomblob(16), b.created_at - added.id %% %[2]d, b.started_at - added.id %% %[2]d, b.ended_at - added.id %% %[2]d, %[3]s
			FROM added JOIN batches AS b ON b.id = added.model JOIN batches AS p ON p.id = added.place`,
			h.columns["batches"], historyReach*3600_000, "b."+strings.ReplaceAll(h.columns["batches"], ", ", ", b.")),
		fmt.Sprintf("INSERT INTO requests (batch, %[1]s) SELECT added.id, %[1]s FROM added JOIN requests ON batch = model", h.columns["requests"]),
		fmt.Sprintf("INSERT INTO marks (id, %[1]s) SELECT added.id * 512 + (marks.id & 511), %[1]s FROM added JOIN marks ON marks.id BETWEEN model * 512 AND model * 512 + 511",
			h.columns["marks"]),
		`UPDATE queues SET held = held + (SELECT count(*) FROM added JOIN batches AS p ON p.id = added.place WHERE p.queue = queues.id)`,
		"COMMIT")
}
