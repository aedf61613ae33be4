package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

const (
	historyStep  = 100_000 // batches in one transaction
	historyReach = 6 * 24  // hours over which the ends are spread; the retention is a week
)

// addHistory adds n finished batches with SQL, spread over all queues. They are copies of
// batches that have already ended, with their requests and marks. All columns are copied, except
// those that identify a batch or hold its times.
func (d database) addHistory(ctx context.Context, n int, progress func(done int)) error {
	return d.withConn(ctx, func(c *pgx.Conn) error {
		h := history{c: c}
		if err := h.prepare(ctx); err != nil {
			return fmt.Errorf("prepare the history: %w", err)
		}
		for done := 0; done < n; {
			step := min(historyStep, n-done)
			if err := h.add(ctx, step); err != nil {
				return fmt.Errorf("write the history: %w", err)
			}
			done += step
			progress(done)
		}
		// Leave the tables as they would be after a while: analyzed, vacuumed and checkpointed.
		_, err := c.Exec(ctx, "VACUUM (ANALYZE)", pgx.QueryExecModeSimpleProtocol)
		if err == nil {
			_, err = c.Exec(ctx, "CHECKPOINT")
		}
		return err
	})
}

// history writes finished batches over one connection.
type history struct {
	c       *pgx.Conn
	columns map[string]string // the columns to copy, by table
}

// uncopiedColumns are the columns of each table that are not copied.
var uncopiedColumns = map[string]string{
	"batches":  "id, queue, store, owner, ticket, dedup_key, created_at, started_at, ended_at",
	"requests": "batch",
	"marks":    "batch",
}

// prepare determines which columns and batches to copy, and to which queues.
func (h *history) prepare(ctx context.Context) error {
	h.columns = map[string]string{}
	for table, without := range uncopiedColumns {
		var columns string
		err := h.c.QueryRow(ctx, `SELECT string_agg(quote_ident(column_name), ', ' ORDER BY ordinal_position) FROM information_schema.columns
			WHERE table_schema = current_schema() AND table_name = $1 AND is_generated = 'NEVER' AND NOT column_name = ANY ($2)`,
			table, strings.Split(without, ", ")).Scan(&columns)
		if err != nil {
			return err
		}
		h.columns[table] = columns
	}
	_, err := h.c.Exec(ctx, `CREATE TEMPORARY TABLE models AS
			SELECT id, row_number() OVER (ORDER BY id) - 1 AS nth, count(*) OVER () AS many
			FROM (SELECT id FROM batches WHERE ended_at > 1 ORDER BY id LIMIT 100) AS ended;
		CREATE TEMPORARY TABLE places AS
			SELECT queue, store, owner, row_number() OVER (ORDER BY queue) - 1 AS nth, count(*) OVER () AS many
			FROM (SELECT DISTINCT queue, store, owner FROM batches) AS all_of_them;
		ANALYZE models, places`, pgx.QueryExecModeSimpleProtocol)
	return err
}

// add writes n finished batches in one transaction.
func (h *history) add(ctx context.Context, n int) error {
	return pgx.BeginFunc(ctx, h.c, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, h.statements(n), pgx.QueryExecModeSimpleProtocol)
		return err
	})
}

func (h *history) statements(n int) string {
	copyOf := func(table string) string {
		columns := h.columns[table]
		return fmt.Sprintf("INSERT INTO %[1]s (batch, %[2]s) SELECT added.id, %[2]s FROM added JOIN %[1]s ON %[1]s.batch = added.model;\n", table, columns)
	}
	return fmt.Sprintf(`
		CREATE TEMPORARY TABLE added ON COMMIT DROP AS
			SELECT nextval(pg_get_serial_sequence('batches', 'id')) AS id, models.id AS model, queue, store, owner, random() AS age
			FROM generate_series(1, %[1]d) AS n
			JOIN models ON models.nth = n %% models.many
			JOIN places ON places.nth = n %% places.many;
		ANALYZE added;
		INSERT INTO batches (id, queue, store, owner, ticket, created_at, started_at, ended_at, %[2]s)
			SELECT added.id, added.queue, added.store, added.owner, gen_random_uuid(),
				created_at - back, started_at - back, ended_at - back, %[2]s
			FROM added JOIN batches ON batches.id = added.model, LATERAL (SELECT (added.age * %[3]d * 3600000)::bigint AS back) AS shift;
		`, n, h.columns["batches"], historyReach) +
		copyOf("requests") + copyOf("marks") +
		"UPDATE queues SET held = held + n FROM (SELECT queue, count(*) AS n FROM added GROUP BY queue) AS more WHERE queues.id = more.queue"
}
