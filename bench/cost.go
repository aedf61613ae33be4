package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// statisticsDelay is how long PostgreSQL may take until its statistics tell what was done.
const statisticsDelay = 1500 * time.Millisecond

// cost is what sub-requests cost the database and the service.
type cost struct {
	Calls          int     `json:"calls"`                      // that were measured, the warm-ups included
	WAL            float64 `json:"walBytesPer1000"`            // calls
	Tables         float64 `json:"tableBytesPer1000"`          // indexes included, as long as nothing is purged
	Rows           float64 `json:"rowsWrittenPer1000"`         // inserted, changed or removed
	Commits        float64 `json:"commitsPer1000"`             // reading transactions included
	ServiceCPU     float64 `json:"serviceCPUSecondsPer10000"`  // of all nodes; negative: not measured
	DatabaseCPU    float64 `json:"databaseCPUSecondsPer10000"` // of all of PostgreSQL's processes
	ServiceMemory  int64   `json:"servicePeakMemoryBytes"`     // of the node that took most
	DatabaseMemory int64   `json:"databaseMemoryBytes"`        // the most at the end of any round; shared pages counted once
}

// meter measures what the work between two moments costs.
type meter struct {
	b        *bench
	database database
	services []*service
	before   usage
	calls    int
	memory   int64
}

// usage is what was used until a moment.
type usage struct {
	wal, tables, rows, commits int64
	service, database          time.Duration // of CPU; negative: not known
}

// startMeter begins a measurement. On SQLite there is nothing to measure, and the meter
// does nothing.
func (b *bench) startMeter(ctx context.Context, db database, services ...*service) (*meter, error) {
	m := &meter{b: b, database: db, services: services, memory: -1}
	if db.url == "" {
		return m, nil
	}
	var err error
	m.before, err = m.usage(ctx)
	return m, err
}

// count counts calls, at the end of a round.
func (m *meter) count(calls int) {
	m.calls += calls
	if m.database.url != "" {
		m.memory = max(m.memory, sharedMemory(m.b.cluster.Pid()))
	}
}

// read returns what the calls have cost; nil on SQLite.
func (m *meter) read(ctx context.Context) (*cost, error) {
	if m.database.url == "" {
		return nil, nil
	}
	if err := pause(ctx, statisticsDelay); err != nil {
		return nil, err
	}
	after, err := m.usage(ctx)
	if err != nil {
		return nil, err
	}
	per1000 := func(before, after int64) float64 { return float64(after-before) * 1000 / float64(m.calls) }
	cpu := func(before, after time.Duration) float64 {
		if before < 0 || after < 0 {
			return -1
		}
		return (after - before).Seconds() * 10_000 / float64(m.calls)
	}
	c := &cost{
		Calls: m.calls,
		WAL:   per1000(m.before.wal, after.wal), Tables: per1000(m.before.tables, after.tables),
		Rows: per1000(m.before.rows, after.rows), Commits: per1000(m.before.commits, after.commits),
		ServiceCPU: cpu(m.before.service, after.service), DatabaseCPU: cpu(m.before.database, after.database),
		ServiceMemory: -1, DatabaseMemory: m.memory,
	}
	for _, s := range m.services {
		c.ServiceMemory = max(c.ServiceMemory, s.memory().peak)
	}
	return c, nil
}

// usage looks at the database and at the processes.
func (m *meter) usage(ctx context.Context) (u usage, err error) {
	err = m.database.query(ctx, `SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint,
		(SELECT coalesce(sum(pg_total_relation_size(relid)), 0)::bigint FROM pg_stat_user_tables),
		tup_inserted + tup_updated + tup_deleted, xact_commit
		FROM pg_stat_database WHERE datname = current_database()`, &u.wal, &u.tables, &u.rows, &u.commits)
	u.database = familyTime(m.b.cluster.Pid())
	for _, s := range m.services {
		t := processTime(s.cmd.Process.Pid)
		if t < 0 || u.service < 0 {
			u.service = -1
			continue
		}
		u.service += t
	}
	return u, err
}

// pause waits.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

const costText = `
What these sub-requests cost, everything included (creates, polls, the reading of the answers):
`

// costed is a cost with what it is the cost of.
type costed struct {
	name string
	*cost
}

// printCosts writes the table of costs.
func printCosts(w io.Writer, costs []costed) error {
	fmt.Fprint(w, costText)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "\tper 1,000: rows\tcommits\tWAL\ttables\tCPU per 10,000: service\tPostgreSQL\tmemory: service, peak\tPostgreSQL, about")
	for _, c := range costs {
		fmt.Fprintf(t, "%s\t%.0f\t%.0f\t%.0f kB\t%.0f kB\t%s\t%s\t%s\t%s\n", c.name, c.Rows, c.Commits, c.WAL/1e3, c.Tables/1e3,
			seconds(c.ServiceCPU), seconds(c.DatabaseCPU), memoryText(c.ServiceMemory), memoryText(c.DatabaseMemory))
	}
	return t.Flush()
}

func seconds(s float64) string {
	if s < 0 {
		return "not measured"
	}
	return fmt.Sprintf("%.2f s", s)
}

func memoryText(bytes int64) string {
	f := figure{Value: megabytes(bytes), Unit: "MB"}
	return f.text()
}
