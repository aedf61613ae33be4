package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"
	"time"

	"github.com/sheafapi/sheaf/storage/postgres"
)

// churn is how large the tables are while batches come and are purged.
type churn struct {
	Requests int     `json:"requestsPerWave"`
	Kept     int     `json:"wavesKept"`
	Waves    []sizes `json:"waves"`
	Packed   sizes   `json:"packed"` // the same data at the end, written anew by VACUUM FULL
}

// sizes are those of all tables after a wave, in bytes.
type sizes struct {
	Batches int   `json:"batches"`
	Heap    int64 `json:"heap"`
	Index   int64 `json:"indexes"`
	Toast   int64 `json:"toast"`
}

func (s sizes) total() int64 { return s.Heap + s.Index + s.Toast }

// Of a wave, and how many of them are kept.
const (
	waveStores  = 20
	waveBatches = 2 // a store
	wavesKept   = 5
)

// The bounds of the wait for autovacuum after a wave.
const (
	vacuumPatience = 20 * time.Second
	vacuumPoll     = 500 * time.Millisecond
)

// purge measures whether purging bloats: a service runs waves of batches, and after each
// wave those of the oldest one kept are purged. A wave stands for a day; so autovacuum,
// which looks every minute, looks every second here, and gets the time that it needs.
func (b *bench) purge(ctx context.Context, r *report) error {
	const often, usual = "ALTER SYSTEM SET autovacuum_naptime = '1s'", "ALTER SYSTEM RESET autovacuum_naptime"
	const reload = "SELECT pg_reload_conf()"
	db, err := b.newDatabase(ctx, "purge")
	if err != nil {
		return err
	}
	if err := db.exec(ctx, often, reload); err != nil {
		return err
	}
	defer db.exec(context.WithoutCancel(ctx), usual, reload)
	r.Churn, err = b.churn(ctx, db)
	return err
}

func (b *bench) churn(ctx context.Context, db database) (*churn, error) {
	upstream := startBell()
	defer upstream.stop()
	svc, err := b.startService(ctx, upstream.template, db)
	if err != nil {
		return nil, err
	}
	defer svc.kill()
	store, err := postgres.Open(ctx, db.url, postgres.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	defer store.Close()

	wave := scenario{stores: waveStores, batches: waveBatches, requests: b.waveRequests, parallel: true}
	c := &churn{Requests: wave.calls(), Kept: wavesKept}
	var ends []time.Time
	for n := range b.waves {
		if _, err := svc.run(ctx, wave); err != nil {
			return nil, fmt.Errorf("wave %d: %w", n+1, err)
		}
		ends = append(ends, time.Now())
		if n >= wavesKept {
			for more := true; more; {
				if more, err = store.Purge(ctx, time.Since(ends[n-wavesKept])); err != nil {
					return nil, err
				}
			}
		}
		if err := db.awaitVacuum(ctx); err != nil {
			return nil, err
		}
		s, err := db.sizes(ctx)
		if err != nil {
			return nil, err
		}
		if want := min(n+1, wavesKept) * waveStores * waveBatches; s.Batches != want {
			return nil, fmt.Errorf("wave %d: %d batches are there, want %d", n+1, s.Batches, want)
		}
		c.Waves = append(c.Waves, s)
		b.say("wave %d: %.1f MB", n+1, float64(s.total())/1e6)
	}
	svc.kill()
	if err := db.exec(ctx, "VACUUM FULL"); err != nil {
		return nil, err
	}
	c.Packed, err = db.sizes(ctx)
	return c, err
}

// awaitVacuum waits until autovacuum has nothing left to do, but not for ever.
func (d database) awaitVacuum(ctx context.Context) error {
	if err := pause(ctx, statisticsDelay); err != nil {
		return err
	}
	for start := time.Now(); time.Since(start) < vacuumPatience; {
		var dirty int
		err := d.query(ctx, `SELECT count(*) FROM pg_stat_user_tables WHERE n_dead_tup > 100 + 0.05 * n_live_tup`, &dirty)
		if err != nil || dirty == 0 {
			return err
		}
		if err := pause(ctx, vacuumPoll); err != nil {
			return err
		}
	}
	return nil
}

func (d database) sizes(ctx context.Context) (s sizes, err error) {
	err = d.query(ctx, `SELECT (SELECT count(*) FROM batches),
		sum(pg_table_size(c.oid) - coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0))::bigint,
		sum(pg_indexes_size(c.oid))::bigint, sum(coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0))::bigint
		FROM pg_stat_user_tables AS t JOIN pg_class AS c ON c.oid = t.relid`, &s.Batches, &s.Heap, &s.Index, &s.Toast)
	return s, err
}

// growth returns how much larger the tables are after the last wave than after the first
// one at which as much was removed as came; nil with too few waves.
func (c *churn) growth() *float64 {
	if len(c.Waves) <= c.Kept+1 {
		return nil
	}
	return value(float64(c.Waves[len(c.Waves)-1].total()) / float64(c.Waves[c.Kept].total()))
}

// figures judges the churn.
func (c *churn) figures() []figure {
	last := c.Waves[len(c.Waves)-1]
	live := c.Requests * min(c.Kept, len(c.Waves))
	return []figure{
		{Name: fmt.Sprintf("tables after wave %d : after wave %d, the first with a purge", len(c.Waves), c.Kept+1), Value: c.growth(), Unit: "times", Goal: 1.25},
		{Name: "tables after the last wave : the same data packed", Value: value(float64(last.total()) / float64(c.Packed.total())), Unit: "times"},
		{Name: "tables after the last wave, per 1,000 sub-requests kept", Value: value(float64(last.total()) / float64(live)), Unit: "kB"},
	}
}

const churnText = `
Purging: each wave is %s sub-requests, run by a service; the last %d waves are kept. After each, autovacuum had its time.
`

// printChurn writes the sizes wave by wave.
func printChurn(w io.Writer, c *churn) error {
	fmt.Fprintf(w, churnText, thousands(c.Requests), c.Kept)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "wave\tbatches\ttables\theap\tindexes\ttoast\t: packed")
	line := func(name string, s sizes, times string) {
		fmt.Fprintf(t, "%s\t%d\t%.1f MB\t%.1f MB\t%.1f MB\t%.1f MB\t%s\n", name, s.Batches,
			float64(s.total())/1e6, float64(s.Heap)/1e6, float64(s.Index)/1e6, float64(s.Toast)/1e6, times)
	}
	for i, s := range c.Waves {
		times := ""
		if i+1 >= c.Kept {
			times = fmt.Sprintf("%.2f times", float64(s.total())/float64(c.Packed.total()))
		}
		line(fmt.Sprint(i+1), s, times)
	}
	line("packed", c.Packed, "")
	return t.Flush()
}
