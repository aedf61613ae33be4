package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sheafapi/sheaf/bench/internal/table"
)

// queriesFile has the statements and their names. The path is relative to bench.
var queriesFile = filepath.Join("..", "internal", "storage", "postgres", "queries.sql")

// hotTables matches the tables that a long queue or history fills. The plans of statements that
// use none of them aren't interesting.
var hotTables = regexp.MustCompile(`\b(queues|owners|batches|requests|marks)\b`)

// writePlans lets a service do everything that it often does, over the full tables, and writes
// the plans with which PostgreSQL executed its statements. They come from auto_explain, with the
// service's own settings and arguments.
func (b *bench) writePlans(ctx context.Context, db database, upstream *bell) error {
	text, err := os.ReadFile(queriesFile)
	if err != nil {
		return err
	}
	const on = `DO $$ BEGIN
		EXECUTE format('ALTER DATABASE %I SET session_preload_libraries = auto_explain', current_database());
		EXECUTE format('ALTER DATABASE %I SET auto_explain.log_min_duration = 0', current_database());
		EXECUTE format('ALTER DATABASE %I SET auto_explain.log_analyze = on', current_database());
		EXECUTE format('ALTER DATABASE %I SET auto_explain.log_buffers = on', current_database());
		EXECUTE format('ALTER DATABASE %I SET auto_explain.log_parameter_max_length = 0', current_database());
	END $$`
	// Some of the history is due for purging.
	const expire = `UPDATE batches SET ended_at = ended_at - 8 * 24 * 3600000 WHERE id IN (SELECT id FROM batches WHERE ended_at > 1 ORDER BY id LIMIT 1000)`
	if err := db.exec(ctx, expire, "VACUUM (ANALYZE)", on); err != nil {
		return err
	}
	start := len(b.cluster.Log())
	b.say("writing the plans to %s", b.plans)
	if err := b.exercise(ctx, db, upstream); err != nil {
		return err
	}
	statements := parsePlans(b.cluster.Log()[start:], parseQueries(string(text)))
	return os.WriteFile(b.plans, []byte(b.planText(statements)), 0o644)
}

// exercise lets a service create, run, read, search, cancel, delete and purge batches.
func (b *bench) exercise(ctx context.Context, db database, upstream *bell) error {
	svc, err := b.startService(ctx, upstream.template, db, "--request-timeout", "1h")
	if err != nil {
		return err
	}
	defer svc.kill()
	const idle, held, group = "idle-1", heldPrefix + "1", "plans"
	body := batchBody(backlogRequests)
	for i := range 10 {
		for _, parallel := range []bool{false, true} {
			t, err := svc.create(ctx, idle, parallel, body)
			if err != nil {
				return err
			}
			if err := svc.await(ctx, t); err != nil {
				return err
			}
			if _, err := svc.status(ctx, t, true); err != nil {
				return err
			}
		}
		key := fmt.Sprintf("groupId=%s&deduplicationKey=00000000-0000-4000-8000-%012d", group, i)
		var first, second struct{ Ticket string }
		for _, into := range []any{&first, &second} { // the second call repeats the first
			if err := svc.into(ctx, http.MethodPost, batchPath(held, key), body, into); err != nil {
				return err
			}
		}
		single, err := svc.create(ctx, held, false, body)
		if err != nil {
			return err
		}
		for _, call := range []struct{ method, path string }{
			{http.MethodGet, batchPath(idle, "status=COMPLETED&limit=100")},
			{http.MethodGet, batchPath(held, "status=QUEUED&limit=100")},
			{http.MethodGet, batchPath(held, "status=IN_PROGRESS&limit=100")},
			{http.MethodPost, strings.Replace(batchPath(held, "groupId="+group), "batch?", "batch/cancel-group?", 1)},
			{http.MethodPost, strings.Replace(batchPath(held, "ticketId="+single.id), "batch?", "batch/cancel-group?", 1)},
			{http.MethodDelete, batchPath(held, "ticketId="+single.id)},
		} {
			if _, err := svc.ok(ctx, call.method, call.path, nil); err != nil {
				return err
			}
		}
	}
	return pause(ctx, 2500*time.Millisecond) // long enough for the service's once-a-second jobs to run too
}

// plan is one execution of a statement.
type plan struct {
	took time.Duration
	text string
}

// statement is a statement of queries.sql and its plans.
type statement struct {
	name, sql string
	plans     []plan
}

// parseQueries splits a file of statements, each of which follows a line "-- name: NAME".
func parseQueries(file string) []statement {
	var out []statement
	for _, part := range strings.Split(file, "-- name: ")[1:] {
		name, sql, _ := strings.Cut(part, "\n")
		out = append(out, statement{name: strings.TrimSpace(name), sql: strings.TrimSuffix(strings.TrimSpace(sql), ";")})
	}
	return out
}

// entry matches the first line of a plan that auto_explain logs. The other lines of the plan
// begin with a tab.
var entry = regexp.MustCompile(`duration: ([0-9.]+) ms  plan:$`)

// parsePlans finds the statements' plans in a server's log.
func parsePlans(log string, statements []statement) []statement {
	lines := strings.Split(log, "\n")
	for i := 0; i < len(lines); i++ {
		match := entry.FindStringSubmatch(lines[i])
		if match == nil {
			continue
		}
		var text []string
		for i+1 < len(lines) && strings.HasPrefix(lines[i+1], "\t") {
			i++
			text = append(text, lines[i][1:])
		}
		took, _ := time.ParseDuration(match[1] + "ms")
		whole := strings.TrimPrefix(strings.Join(text, "\n"), "Query Text: ")
		for n := range statements {
			if rest, ok := strings.CutPrefix(whole, statements[n].sql+"\n"); ok {
				statements[n].plans = append(statements[n].plans, plan{took, rest})
			}
		}
	}
	return statements
}

const planHeader = `# PostgreSQL query plans

This page is written by %sgo run . -database postgres -only backlog -plans FILE%s in bench/. Measured on %s with %s, with %s finished and %s queued batches in the tables.

It has every statement of internal/storage/postgres/queries.sql that ran and that touches batches or their queues, as auto_explain saw it while Sheaf created, ran, read, searched, canceled, deleted and purged batches. For each statement, it shows the execution with the median duration. (Explaining makes it slower.) Costs are the planner's estimates. Buffers are pages of 8 KiB, found in memory (hit) or read from the system.

| statement | executions | median | longest | pages touched (median execution) |
|---|---|---|---|---|
`

// planText returns the content of the file of plans.
func (b *bench) planText(statements []statement) string {
	var summary, body strings.Builder
	for _, s := range statements {
		if len(s.plans) == 0 || !hotTables.MatchString(s.sql) {
			continue
		}
		slices.SortFunc(s.plans, func(a, b plan) int { return cmp.Compare(a.took, b.took) })
		middle, longest := s.plans[(len(s.plans)-1)/2], s.plans[len(s.plans)-1]
		fmt.Fprintf(&summary, "| [%s](#%s) | %d | %.3f ms | %.3f ms | %d |\n", s.name, s.name, len(s.plans),
			inMilliseconds(middle.took), inMilliseconds(longest.took), pagesOf(middle.text))
		fmt.Fprintf(&body, "\n## %s\n\n```sql\n%s\n```\n\n```\n%s\n```\n", s.name, s.sql, middle.text)
	}
	return fmt.Sprintf(planHeader, "`", "`", b.environment.Date, b.environment.Database, table.Thousands(b.finished), table.Thousands(b.queued)) +
		summary.String() + body.String()
}

var buffers = regexp.MustCompile(`Buffers: shared((?: [a-z]+=\d+)+)`)

// pagesOf returns how many pages a plan touched. It reads the count of the plan's root, which
// includes all nodes below it and the parts that write.
func pagesOf(text string) int {
	match := buffers.FindStringSubmatch(text)
	if match == nil {
		return 0
	}
	sum := 0
	for _, part := range strings.Fields(match[1]) {
		var n int
		name, number, _ := strings.Cut(part, "=")
		fmt.Sscan(number, &n)
		if name == "hit" || name == "read" {
			sum += n
		}
	}
	return sum
}
