// Bench measures Sheaf: its throughput compared with a plain net/http client, the time of a create,
// the rate of polls, the memory, and the cost of a long queue. Everything runs on this machine, each
// part in its own process: the upstream, the plain client, the service, and this program, which
// drives them.
//
//	cd bench && go run .
//	go run . -only stores,create -rounds 5 -json
//	go run . -database postgres
//	go run . -database postgres -only backlog -plans FILE
//	go run . -database postgres -small
//	go run . -only parallel,stores,sequential -baseline baseline.json
//
// On PostgreSQL, for which it starts a private server, it also measures the cost of the work for the
// database, the cost of a long history, several nodes on one database, whether purging causes bloat,
// and the server alone. That takes about ten minutes. With -small, everything runs at a small scale
// within half a minute, to check that it works. The report is Markdown.
//
// Compare the figures of two runs only if nothing else used the machine. The ratios are more stable,
// because both sides of a ratio are measured in turn.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sheafapi/sheaf/internal/pgtest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run runs the benchmark, or one of the processes that it starts.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 {
		switch args[0] {
		case upstreamCommand:
			return serveUpstream(ctx, args[1:], stdout)
		case plainCommand:
			return runPlain(ctx, args[1:], stdout)
		case riverCommand:
			return runRiver(ctx, args[1:], stdout)
		case asynqCommand:
			return runAsynq(ctx, args[1:], stdout)
		}
	}
	return measure(ctx, args, stdout, stderr)
}

// bench holds the state and the settings of a run.
type bench struct {
	self     string // this program
	sheaf    string // the service's program
	dir      string // for databases; removed at the end
	progress io.Writer

	cluster     *pgtest.Cluster // nil: on SQLite
	key         string          // the secret key's file, on PostgreSQL
	environment environment

	rounds       int
	small        bool
	queued       int    // batches of the theme backlog
	finished     int    // batches of its history
	plans        string // the file for the plans; empty: none
	plots        string // the directory for the plots; empty: none
	nodeCounts   []int
	waves        int           // of the theme purge
	kept         int           // how many waves are kept
	waveRequests int           // requests in each batch of a wave
	times        int           // how many creates, or claims, are timed
	length       time.Duration // of each measurement of a rate
}

// themes and postgresThemes are the themes that -only can name, in the order in which they are
// measured.
var (
	themes         = []string{"parallel", "stores", "sequential", "create", "polls", "backlog", "growth", "governor", "fairness", "watchers", "submit"}
	postgresThemes = []string{"nodes", "purge", "limits", "peers"}
)

// settings are the flags.
type settings struct {
	bench
	database, only, nodes, parent string
	asJSON                        bool
	baseline                      string // a file; empty: nothing is compared
	renew                         bool
}

// parse reads the flags.
func parse(args []string, stderr io.Writer) (*settings, []string, error) {
	s := &settings{bench: bench{progress: stderr}}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&s.database, "database", onSQLite, "the service's database: sqlite or postgres")
	f.BoolVar(&s.small, "small", false, "run everything at a small scale, to check that it works; overrides the flags for amounts")
	f.IntVar(&s.rounds, "rounds", 3, "rounds of each comparison; the median counts")
	f.StringVar(&s.only, "only", "", "comma-separated themes to measure (default: all)")
	f.BoolVar(&s.asJSON, "json", false, "print the report as JSON")
	f.StringVar(&s.sheaf, "sheaf", "", "path of the sheaf binary (default: build it from the parent directory)")
	f.StringVar(&s.parent, "dir", "", "directory for the databases during the run (default: the system's directory for temporary files)")
	f.IntVar(&s.queued, "queued", 10_000, "queued batches of the theme backlog")
	f.IntVar(&s.finished, "finished", 1_000_000, "finished batches of the theme backlog, on PostgreSQL")
	f.StringVar(&s.plans, "plans", "", "file for PostgreSQL's query plans, written by the theme backlog (default: none)")
	f.StringVar(&s.plots, "plots", "", "directory for the PNG file with the curves of the theme growth (default: none)")
	f.StringVar(&s.nodes, "nodes", "1,2,4", "comma-separated numbers of nodes for the theme nodes")
	f.IntVar(&s.waves, "waves", 20, "waves of the theme purge")
	f.IntVar(&s.waveRequests, "wave-requests", 500, "requests in each of the 40 batches of a wave")
	f.StringVar(&s.baseline, "baseline", "", "file with the ratios of an earlier run; fail if a ratio is more than 15% lower (default: none)")
	f.BoolVar(&s.renew, "renew", false, "write the ratios to the file of -baseline instead")
	s.kept, s.times, s.length = 5, 200, 3*time.Second
	if err := f.Parse(args); err != nil {
		return nil, nil, err
	}
	if f.NArg() > 0 {
		return nil, nil, errors.New("bench takes no arguments, only flags")
	}
	if s.small {
		s.rounds, s.queued, s.finished, s.nodes = 1, 2*backlogStores, 1000, "2"
		s.waves, s.kept, s.waveRequests = 3, 1, 20
		s.times, s.length = 20, 300*time.Millisecond
	}
	chosen, err := s.check()
	return s, chosen, err
}

// check checks the flags and returns the chosen themes.
func (s *settings) check() ([]string, error) {
	known := themes
	switch s.database {
	case onSQLite:
	case onPostgres:
		known = slices.Concat(themes, postgresThemes)
	default:
		return nil, fmt.Errorf("-database is %q but must be %s or %s", s.database, onSQLite, onPostgres)
	}
	chosen := known
	if s.only != "" {
		chosen = strings.Split(s.only, ",")
	}
	for _, name := range chosen {
		if !slices.Contains(known, name) {
			return nil, fmt.Errorf("-only names %q; the themes on %s are %s", name, s.database, strings.Join(known, ", "))
		}
	}
	for text := range strings.SplitSeq(s.nodes, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("-nodes must be comma-separated numbers, but %q isn't one", text)
		}
		s.nodeCounts = append(s.nodeCounts, n)
	}
	switch {
	case s.rounds < 1 || s.waves < 1 || s.waveRequests < 1 || s.waveRequests > 500:
		return nil, errors.New("-rounds and -waves must be at least 1, and -wave-requests 1 to 500")
	case s.queued < 2*backlogStores || s.finished < 1: // one runs, and one waits
		return nil, fmt.Errorf("-queued must be at least %d, and -finished at least 1", 2*backlogStores)
	case s.renew && s.baseline == "":
		return nil, errors.New("-renew needs -baseline FILE")
	case s.plans != "" && s.database != onPostgres:
		return nil, errors.New("-plans needs -database postgres")
	}
	var err error
	if s.plans != "" {
		s.plans, err = filepath.Abs(s.plans)
	}
	return chosen, err
}

// measure runs the chosen themes and prints the report.
func measure(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	s, chosen, err := parse(args, stderr)
	if err != nil {
		return err
	}
	b := &s.bench
	if b.dir, err = os.MkdirTemp(s.parent, "sheaf-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if err := b.findPrograms(ctx); err != nil {
		return err
	}
	if s.database == onPostgres {
		if err := b.startCluster(ctx); err != nil {
			return err
		}
		defer b.stopCluster()
	}
	r, err := b.themes(ctx, chosen)
	if err != nil {
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		return err
	}
	if s.asJSON {
		out := json.NewEncoder(stdout)
		out.SetIndent("", "  ")
		return out.Encode(r)
	}
	if err := r.print(stdout); err != nil || s.baseline == "" {
		return err
	}
	base, err := readBaseline(s.baseline)
	switch {
	case err != nil:
		return err
	case s.renew:
		return base.renew(s.baseline, s.database, r.Throughput)
	}
	return base.check(stdout, s.database, r.Throughput)
}

// findPrograms finds this program, and builds the service unless -sheaf names it.
func (b *bench) findPrograms(ctx context.Context) (err error) {
	if b.self, err = os.Executable(); err != nil || b.sheaf != "" {
		return err
	}
	b.say("building sheaf")
	b.sheaf = filepath.Join(b.dir, "sheaf")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", b.sheaf, "./cmd/sheaf")
	build.Dir = ".."
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build sheaf from the parent directory (run bench in its own directory, or name a binary with -sheaf): %w\n%s", err, out)
	}
	return nil
}

// themes measures the chosen themes.
func (b *bench) themes(ctx context.Context, chosen []string) (r *report, err error) {
	if b.environment, err = describe(b.dir); err != nil {
		return nil, err
	}
	if b.environment.Database, err = b.describeDatabase(ctx); err != nil {
		return nil, err
	}
	r = &report{Small: b.small, Rounds: b.rounds}
	for _, s := range scenarios {
		if !slices.Contains(chosen, s.theme) {
			continue
		}
		if b.small {
			s = s.warmUp()
		}
		c, err := b.compare(ctx, s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		r.Throughput = append(r.Throughput, c)
	}
	for _, t := range []struct {
		name    string
		measure func(ctx context.Context, r *report) error
	}{
		{"create", single(b.createLatency)},
		{"polls", single(b.polls)},
		{"backlog", single(b.backlog)},
		{"growth", b.growth},
		{"governor", single(b.governor)},
		{"fairness", single(b.fairness)},
		{"watchers", single(b.watchers)},
		{"submit", single(b.submit)},
		{"nodes", b.nodes},
		{"purge", b.purge},
		{"limits", single(b.limits)},
		{"peers", b.peers},
	} {
		if !slices.Contains(chosen, t.name) {
			continue
		}
		if err := t.measure(ctx, r); err != nil {
			return nil, fmt.Errorf("%s: %w", t.name, err)
		}
	}
	if len(r.Throughput) > 0 {
		r.Figures = append(r.Figures, peakOf(r.Throughput))
	}
	if r.Growth != nil {
		r.Figures = append(r.Figures, r.Growth.figures()...)
	}
	if r.Churn != nil {
		r.Figures = append(r.Figures, r.Churn.figures()...)
	}
	r.Environment = b.environment
	r.Environment.End = load()
	return r, nil
}

// single adapts a measurement so that it adds its figures to the report.
func single(measure func(context.Context) ([]figure, error)) func(context.Context, *report) error {
	return func(ctx context.Context, r *report) error {
		figures, err := measure(ctx)
		r.Figures = append(r.Figures, figures...)
		return err
	}
}

// say reports progress.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.progress, format+"\n", args...)
}
