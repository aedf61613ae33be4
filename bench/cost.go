package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/sheafapi/sheaf/bench/internal/table"
)

// cost is the cost of a million sub-requests for the database and the service.
type cost struct {
	Calls          int     `json:"calls"`       // that were measured, including warm-ups
	Rows           float64 `json:"rowsWritten"` // inserted, updated or deleted
	Commits        float64 `json:"commits"`     // including read-only transactions
	WAL            float64 `json:"walBytes"`
	Tables         float64 `json:"tableBytes"`         // without any purge
	Indexes        float64 `json:"indexBytes"`         // without any purge
	ServiceCPU     float64 `json:"serviceCPUSeconds"`  // of all nodes; negative: not measured
	DatabaseCPU    float64 `json:"databaseCPUSeconds"` // of all of PostgreSQL's processes
	ServiceMemory  int64   `json:"servicePeakBytes"`   // the highest of any node; independent of the number of calls
	DatabaseMemory int64   `json:"databaseBytes"`      // the highest at the end of any round, with shared pages counted once; independent of the number of calls
}

// meter measures the cost of the work between two moments.
type meter struct {
	b        *bench
	database database
	services []*service
	before   usage
	calls    int
	memory   int64
}

// usage is what has been used up to a moment.
type usage struct {
	wal, tables, indexes, rows, commits int64
	service, database                   time.Duration // of CPU; negative: not known
}

// startMeter begins a measurement. On SQLite, there is nothing to measure, and the meter does
// nothing.
func (b *bench) startMeter(ctx context.Context, db database, services ...*service) (*meter, error) {
	m := &meter{b: b, database: db, services: services, memory: -1}
	if db.url == "" {
		return m, nil
	}
	var err error
	m.before, err = m.usage(ctx)
	return m, err
}

// count adds the calls of a round at its end.
func (m *meter) count(calls int) {
	m.calls += calls
	if m.database.url != "" {
		m.memory = max(m.memory, sharedMemory(m.b.cluster.Pid()))
	}
}

// read returns the cost of the calls, or nil on SQLite. It first ends the services, because
// PostgreSQL's statistics are complete only when their connections are closed.
func (m *meter) read(ctx context.Context) (*cost, error) {
	if m.database.url == "" {
		return nil, nil
	}
	service, peak := m.serviceTime(), int64(-1)
	for _, s := range m.services {
		peak = max(peak, s.memory().peak)
		s.kill()
	}
	if err := m.database.awaitAlone(ctx); err != nil {
		return nil, err
	}
	after, err := m.usage(ctx)
	if err != nil {
		return nil, err
	}
	million := 1e6 / float64(m.calls)
	count := func(before, after int64) float64 { return float64(after-before) * million }
	cpu := func(before, after time.Duration) float64 {
		if before < 0 || after < 0 {
			return -1
		}
		return (after - before).Seconds() * million
	}
	return &cost{
		Calls: m.calls,
		Rows:  count(m.before.rows, after.rows), Commits: count(m.before.commits, after.commits),
		WAL: count(m.before.wal, after.wal), Tables: count(m.before.tables, after.tables), Indexes: count(m.before.indexes, after.indexes),
		ServiceCPU: cpu(m.before.service, service), DatabaseCPU: cpu(m.before.database, after.database),
		ServiceMemory: peak, DatabaseMemory: m.memory,
	}, nil
}

// usage reads the statistics of the database and of the processes.
func (m *meter) usage(ctx context.Context) (u usage, err error) {
	err = m.database.query(ctx, `SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint,
		(SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()),
		sum(n_tup_ins + n_tup_upd + n_tup_del)::bigint, sum(pg_table_size(relid))::bigint, sum(pg_indexes_size(relid))::bigint
		FROM pg_stat_user_tables`, &u.wal, &u.commits, &u.rows, &u.tables, &u.indexes)
	u.database, u.service = familyTime(m.b.cluster.Pid()), m.serviceTime()
	return u, err
}

// serviceTime returns the CPU time of all services; negative if it isn't known.
func (m *meter) serviceTime() time.Duration {
	sum := time.Duration(0)
	for _, s := range m.services {
		t := processTime(s.cmd.Process.Pid)
		if t < 0 {
			return t
		}
		sum += t
	}
	return sum
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

const costText = `What a million of these sub-requests cost, including creates, polls and reading the answers.
Memory doesn't depend on their number: it is the highest of any node, and approximately that of PostgreSQL.
`

// namedCost is the cost of a named scenario.
type namedCost struct {
	name string
	*cost
}

// printCosts writes the table of costs.
func printCosts(w io.Writer, costs []namedCost) error {
	fmt.Fprint(w, costText)
	t := table.New("scenario", "rows written", "commits", "WAL", "tables", "indexes",
		"CPU: service", "CPU: PostgreSQL", "memory: a node", "memory: PostgreSQL")
	for _, c := range costs {
		t.Add(c.name, whole(c.Rows), whole(c.Commits), bytesText(c.WAL), bytesText(c.Tables), bytesText(c.Indexes),
			seconds(c.ServiceCPU), seconds(c.DatabaseCPU), memoryText(c.ServiceMemory), memoryText(c.DatabaseMemory))
	}
	return t.Print(w)
}

func seconds(s float64) string {
	if s < 0 {
		return "not measured"
	}
	return whole(s) + " s"
}

func bytesText(bytes float64) string { return whole(bytes/1e6) + " MB" }

func memoryText(bytes int64) string {
	f := figure{Value: megabytes(bytes), Unit: "MB"}
	return f.text()
}
