// Bench measures Sheaf: its throughput beside that of a plain net/http client, how
// long a create takes, how many polls it answers, and what memory and a long queue
// cost. Everything runs on this machine, each part in a process of its own: the
// upstream, the plain client, the service, and this program, which drives them.
//
//	cd bench && go run .
//	go run . -only stores,create -rounds 5 -json
//
// The figures of two runs compare only when nothing else used the machine; the
// ratios are steadier, since both sides of a ratio are measured in turn.
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
	"strings"
	"syscall"
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

// run measures, or is one of the processes that are measured.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 {
		switch args[0] {
		case upstreamCommand:
			return serveUpstream(ctx, args[1:], stdout)
		case plainCommand:
			return runPlain(ctx, args[1:], stdout)
		}
	}
	return measure(ctx, args, stdout, stderr)
}

// bench is what every measurement needs.
type bench struct {
	self     string // this program
	sheaf    string // the service's program
	dir      string // for databases; removed at the end
	rounds   int
	progress io.Writer
}

// themes are what -only can name, in the order in which they are measured.
var themes = []string{"parallel", "stores", "sequential", "create", "polls", "backlog"}

// measure runs the chosen themes and prints the report.
func measure(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	rounds := flags.Int("rounds", 3, "times that each comparison is measured; the median counts")
	only := flags.String("only", strings.Join(themes, ","), "what to measure")
	asJSON := flags.Bool("json", false, "print the report as JSON")
	sheaf := flags.String("sheaf", "", "the service's program (default: built from the directory above)")
	parent := flags.String("dir", "", "where databases are put for the time of the run (default: the system's directory for temporary files)")
	if err := flags.Parse(args); err != nil {
		return err
	}
	chosen := strings.Split(*only, ",")
	for _, name := range chosen {
		if !slices.Contains(themes, name) {
			return fmt.Errorf("-only names %q; there are %s", name, strings.Join(themes, ", "))
		}
	}
	if *rounds < 1 || flags.NArg() > 0 {
		return errors.New("-rounds has to be at least 1, and there are no arguments beside the flags")
	}

	dir, err := os.MkdirTemp(*parent, "sheaf-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b := &bench{sheaf: *sheaf, dir: dir, rounds: *rounds, progress: stderr}
	if err := b.findPrograms(ctx); err != nil {
		return err
	}
	r, err := b.themes(ctx, chosen)
	if err != nil {
		if ctx.Err() != nil {
			return errors.New("interrupted")
		}
		return err
	}
	if *asJSON {
		out := json.NewEncoder(stdout)
		out.SetIndent("", "  ")
		return out.Encode(r)
	}
	return r.print(stdout)
}

// findPrograms finds this program and builds the service unless it is given.
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
		return fmt.Errorf("build sheaf from the directory above (run bench in its own directory, or name a program with -sheaf): %w\n%s", err, out)
	}
	return nil
}

// themes measures what was chosen.
func (b *bench) themes(ctx context.Context, chosen []string) (*report, error) {
	env, err := describe(b.dir)
	if err != nil {
		return nil, err
	}
	r := &report{Environment: env, Rounds: b.rounds}
	for _, s := range scenarios {
		if !slices.Contains(chosen, s.theme) {
			continue
		}
		c, err := b.compare(ctx, s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		r.Throughput = append(r.Throughput, c)
	}
	for _, t := range []struct {
		name    string
		measure func(context.Context) ([]figure, error)
	}{
		{"create", b.createLatency},
		{"polls", b.polls},
		{"backlog", b.backlog},
	} {
		if !slices.Contains(chosen, t.name) {
			continue
		}
		figures, err := t.measure(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.name, err)
		}
		r.Figures = append(r.Figures, figures...)
	}
	if len(r.Throughput) > 0 {
		r.Figures = append(r.Figures, peakOf(r.Throughput))
	}
	r.Environment.End = load()
	return r, nil
}

// say reports progress.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.progress, format+"\n", args...)
}
