package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/sheafapi/sheaf/bench/internal/table"
	"github.com/sheafapi/sheaf/internal/storage/postgres"
)

// churn holds the size of the tables while batches are created and purged.
type churn struct {
	Requests int       `json:"requestsPerWave"`
	Kept     int       `json:"wavesKept"`
	Waves    []wave    `json:"waves"`
	Purges   []float64 `json:"purgedPerSecond"` // sub-requests, by wave
	Packed   wave      `json:"packed"`          // the same data at the end, rewritten by VACUUM FULL
}

// wave describes the tables after a wave and its purge. Sizes are in bytes and include indexes and
// dead rows.
type wave struct {
	Batches  int   `json:"batches"`
	Heap     int64 `json:"heap"`
	Index    int64 `json:"indexes"`
	Toast    int64 `json:"toast"`
	Dead     int   `json:"deadRows"` // right after the purge
	DeadLeft int   `json:"deadRowsLeftByAutovacuum"`
}

func (w wave) total() int64 { return w.Heap + w.Index + w.Toast }

// The size of a wave.
const (
	waveStores  = 20
	waveBatches = 2 // a store
)

// vacuumPatience limits the wait for autovacuum. Sometimes autovacuum leaves dead rows until the next
// wave, because it doesn't count rows that are deleted while it processes their table.
const vacuumPatience = 15 * time.Second

// purge measures whether purging causes bloat. A service runs waves of batches, and after each wave,
// the oldest wave is purged. A wave represents a day. So autovacuum, which by default runs every
// minute, runs every second here, and the measurement waits for it.
func (b *bench) purge(ctx context.Context, r *report) error {
	const often, usual = "ALTER SYSTEM SET autovacuum_naptime = '1s'", "ALTER SYSTEM RESET autovacuum_naptime"
	const reload = "SELECT pg_reload_conf()"
	db, err := b.newDatabase(ctx, "purge")
	if err != nil {
		return err
	}
	if err := db.exec(ctx, often, reload, "CREATE EXTENSION pgstattuple"); err != nil {
		return err
	}
	defer db.exec(context.WithoutCancel(ctx), usual, reload)
	upstream := startBell()
	defer upstream.stop()
	r.Churn, err = b.churn(ctx, db, upstream)
	return err
}

func (b *bench) churn(ctx context.Context, db database, upstream *bell) (*churn, error) {
	work := scenario{stores: waveStores, batches: waveBatches, requests: b.waveRequests, parallel: true}
	c := &churn{Requests: work.calls(), Kept: b.kept}
	var ends []time.Time
	for n := range b.waves {
		if err := b.runWave(ctx, db, upstream, work); err != nil {
			return nil, fmt.Errorf("wave %d: %w", n+1, err)
		}
		ends = append(ends, time.Now())
		if n >= b.kept {
			took, err := db.purge(ctx, ends[n-b.kept])
			if err != nil {
				return nil, err
			}
			c.Purges = append(c.Purges, rate(c.Requests, took))
		}
		w, err := db.afterWave(ctx)
		if err != nil {
			return nil, fmt.Errorf("wave %d: %w", n+1, err)
		}
		if want := min(n+1, b.kept) * waveStores * waveBatches; w.Batches != want {
			return nil, fmt.Errorf("wave %d: %d batches are there, want %d", n+1, w.Batches, want)
		}
		c.Waves = append(c.Waves, w)
		b.say("wave %d: %.1f MB, %d dead rows after it, %d after autovacuum", n+1, float64(w.total())/1e6, w.Dead, w.DeadLeft)
	}
	if err := db.exec(ctx, "VACUUM FULL"); err != nil {
		return nil, err
	}
	var err error
	c.Packed, err = db.look(ctx)
	return c, err
}

// runWave runs a wave on a service and then kills the service. This makes the changes visible to
// autovacuum at once, which would otherwise see them up to 10 s later.
func (b *bench) runWave(ctx context.Context, db database, upstream *bell, work scenario) error {
	svc, err := b.startService(ctx, upstream.template, db)
	if err != nil {
		return err
	}
	_, err = svc.run(ctx, work)
	svc.kill()
	return err
}

// purge removes the batches that ended before end, and returns how long that took.
func (d database) purge(ctx context.Context, end time.Time) (time.Duration, error) {
	store, err := postgres.Open(ctx, d.url, postgres.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return 0, err
	}
	defer store.Close()
	start := time.Now()
	for more := true; more && err == nil; {
		more, err = store.Purge(ctx, time.Since(end))
	}
	return time.Since(start), err
}

// afterWave waits for autovacuum and returns the state of the tables.
func (d database) afterWave(ctx context.Context) (wave, error) {
	before, err := d.look(ctx)
	if err != nil {
		return wave{}, err
	}
	patient, cancel := context.WithTimeout(ctx, vacuumPatience)
	defer cancel()
	// Below this threshold, autovacuum skips a table.
	err = d.await(patient, `SELECT bool_and(dead_tuple_count <= 50 + 0.02 * tuple_count) FROM pg_stat_user_tables, pgstattuple(relid)`)
	if err != nil && (patient.Err() == nil || ctx.Err() != nil) {
		return wave{}, err
	}
	after, err := d.look(ctx)
	after.Dead = before.DeadLeft
	return after, err
}

// look measures the tables.
func (d database) look(ctx context.Context) (w wave, err error) {
	err = d.query(ctx, `SELECT (SELECT count(*) FROM batches), sum(pg_table_size(c.oid) - toast)::bigint, sum(pg_indexes_size(c.oid))::bigint,
		sum(toast)::bigint, sum(dead_tuple_count)::bigint
		FROM pg_stat_user_tables AS t JOIN pg_class AS c ON c.oid = t.relid, pgstattuple(c.oid),
			coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0) AS toast`, &w.Batches, &w.Heap, &w.Index, &w.Toast, &w.DeadLeft)
	return w, err
}

// growth returns the size of the tables after the last wave relative to that after the first wave
// with a purge. It returns nil if there are too few waves.
func (c *churn) growth() *float64 {
	if len(c.Waves) <= c.Kept+1 {
		return nil
	}
	return value(float64(c.Waves[len(c.Waves)-1].total()) / float64(c.Waves[c.Kept].total()))
}

// figures returns the figures of the churn, with their goals.
func (c *churn) figures() []figure {
	last := c.Waves[len(c.Waves)-1]
	live := c.Requests * min(c.Kept, len(c.Waves))
	var purged *float64
	if len(c.Purges) > 0 {
		purged = value(median(c.Purges))
	}
	return []figure{
		{Name: fmt.Sprintf("tables after wave %d : after wave %d, the first with a purge", len(c.Waves), c.Kept+1), Value: c.growth(), Unit: "times", Goal: 1.25},
		{Name: "tables after the last wave : the same data packed", Value: value(float64(last.total()) / float64(c.Packed.total())), Unit: "times"},
		{Name: "tables after the last wave, per 1,000 sub-requests kept", Value: value(float64(last.total()) / float64(live)), Unit: "kB"},
		{Name: "sub-requests purged, one node, median of the waves", Value: purged, Unit: "/s"},
	}
}

const churnText = `Purging: each wave is %s sub-requests, run by a service; the last %d waves are kept. Sizes are measured after autovacuum.
`

// printChurn writes the sizes after each wave.
func printChurn(w io.Writer, c *churn) error {
	fmt.Fprintf(w, churnText, table.Thousands(c.Requests), c.Kept)
	t := table.New("wave", "batches", "all", "heap", "indexes", "toast", ": packed", "dead rows after the purge", "after autovacuum")
	mega := func(bytes int64) string { return fmt.Sprintf("%.1f MB", float64(bytes)/1e6) }
	for i, wave := range append(slices.Clone(c.Waves), c.Packed) {
		name, times := "packed", ""
		if i < len(c.Waves) {
			name = strconv.Itoa(i + 1)
			if i+1 >= c.Kept {
				times = fmt.Sprintf("%.2f times", float64(wave.total())/float64(c.Packed.total()))
			}
		}
		t.Add(name, table.Thousands(wave.Batches), mega(wave.total()), mega(wave.Heap), mega(wave.Index), mega(wave.Toast), times,
			table.Thousands(wave.Dead), table.Thousands(wave.DeadLeft))
	}
	return t.Print(w)
}
