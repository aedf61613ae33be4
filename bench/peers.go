package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sheafapi/sheaf/bench/internal/table"
)

// peerChunk is how many jobs are inserted, or results read, at once: the maximum number of
// requests in a batch.
const peerChunk = 500

// peerScenario is the work of every contestant: as many calls as the scenario parallel has.
var peerScenario = scenarios[0]

// peerWork is the work of a peer's process.
type peerWork struct {
	upstream string
	warmUp   int // calls before the clock starts
	calls    int
	workers  int // calls at the same time
}

// peerFlags adds the flags that all peers have in common.
func peerFlags(flags *flag.FlagSet) *peerWork {
	w := &peerWork{}
	flags.StringVar(&w.upstream, "upstream", "", "template of the upstream's address")
	flags.IntVar(&w.warmUp, "warm-up", 0, "calls before the clock starts")
	flags.IntVar(&w.calls, "calls", 1, "calls")
	flags.IntVar(&w.workers, "workers", 1, "calls at the same time")
	return w
}

// peerAnswer is the part of an answer that a peer stores, as Sheaf does.
type peerAnswer struct {
	Code int             `json:"code"`
	Body json.RawMessage `json:"body"`
}

// peerCall makes one call like the plain client.
func peerCall(ctx context.Context, client *http.Client, url, body string, n int64) (peerAnswer, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return peerAnswer{}, err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Idempotency-Key", fmt.Sprintf("00000000-0000-8000-0000-%012x", n))
	resp, err := client.Do(r)
	if err != nil {
		return peerAnswer{}, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusCreated {
		err = fmt.Errorf("POST %s: %s", url, resp.Status)
	}
	return peerAnswer{resp.StatusCode, answer}, err
}

// peerCost is the time and memory that a number of calls took.
type peerCost struct {
	Nanoseconds int64         `json:"nanoseconds"`
	CPU         time.Duration `json:"cpu"`       // of the whole machine; negative: not known
	Peak        int64         `json:"peakBytes"` // of the process; -1: not known
}

// measure runs the warm-up and then the calls, and prints their cost.
func (w *peerWork) measure(ctx context.Context, stdout io.Writer, round func(ctx context.Context, calls int) error) error {
	if w.warmUp > 0 {
		if err := round(ctx, w.warmUp); err != nil {
			return fmt.Errorf("warm-up: %w", err)
		}
	}
	s, err := timeCall(func() error { return round(ctx, w.calls) })
	if err != nil {
		return err
	}
	s.Peak = memoryOf(os.Getpid()).peak
	return json.NewEncoder(stdout).Encode(s)
}

// timeCall calls f and returns the time that it took.
func timeCall(f func() error) (peerCost, error) {
	cpu, start := machineTime(), time.Now()
	if err := f(); err != nil {
		return peerCost{}, err
	}
	s := peerCost{Nanoseconds: time.Since(start).Nanoseconds(), CPU: -1}
	if after := machineTime(); cpu >= 0 && after >= 0 {
		s.CPU = after - cpu
	}
	return s, nil
}

// contestant is one way to make the calls.
type contestant struct {
	name  string
	lacks string // missing features
	run   func(ctx context.Context) (peerCost, error)
}

// peerResult holds the measurements of a contestant.
type peerResult struct {
	Name  string    `json:"name"`
	Lacks string    `json:"lacks"`
	Rates []float64 `json:"callsPerSecond"` // by round
	Share []float64 `json:"shareOfPlain"`   // by round; relative to the plain client with as many calls at once
	CPU   []float64 `json:"cpuSecondsPer10000"`
	Peak  int64     `json:"peakBytes"` // of its process, without a database server; the highest of all rounds
}

// The contestants that the goal compares.
const (
	sheafOnSQLite = "Sheaf, SQLite"
	riverName     = "River, PostgreSQL"
	asynqName     = "asynq, Redis, fsync every second"
	asynqAlways   = "asynq, Redis, fsync always"
)

// peers compares Sheaf with its alternatives, all in turn.
func (b *bench) peers(ctx context.Context, r *report) error {
	s := peerScenario
	if b.small {
		s = s.warmUp()
	}
	u, err := b.startUpstream(ctx)
	if err != nil {
		return err
	}
	defer u.stop()
	field, end, err := b.contestants(ctx, u, s)
	defer end()
	if err != nil {
		return err
	}
	results := make([]peerResult, len(field))
	for round := range b.rounds {
		for i, c := range field {
			plain, err := b.plain(ctx, u.template, s)
			if err != nil {
				return err
			}
			took, err := c.run(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			p := &results[i]
			p.Name, p.Lacks = c.name, c.lacks
			speed := rate(s.calls(), time.Duration(took.Nanoseconds))
			p.Rates, p.Share = append(p.Rates, speed), append(p.Share, speed/rate(s.calls(), plain))
			p.CPU = append(p.CPU, took.CPU.Seconds()*10_000/float64(s.calls()))
			p.Peak = max(p.Peak, took.Peak)
			b.say("%s, round %d: %.0f calls/s", c.name, round+1, speed)
		}
	}
	r.Peers = results
	r.Figures = append(r.Figures, peerGoal(results))
	return nil
}

// peerGoal compares Sheaf with the fastest of the queues, round by round.
func peerGoal(results []peerResult) figure {
	rates := map[string][]float64{}
	for _, p := range results {
		rates[p.Name] = p.Rates
	}
	var times []float64
	for i, sheaf := range rates[sheafOnSQLite] {
		times = append(times, sheaf/max(rates[riverName][i], rates[asynqName][i], rates[asynqAlways][i]))
	}
	return figure{Name: "Sheaf on SQLite : the fastest of River and asynq, parallel", Value: value(median(times)), Unit: "times", Least: 4}
}

// contestants returns the contestants and starts the services that they need. The caller must call
// end to stop them, even after an error.
func (b *bench) contestants(ctx context.Context, u *upstream, s scenario) (field []contestant, end func(), err error) {
	var stops []func()
	end = func() {
		for _, stop := range stops {
			stop()
		}
	}
	const nothingKept = "order per store across crashes, stop on failure, stored answers, deduplication; everything is lost if the process dies"
	for _, workers := range []int{1, 50, 100} {
		field = append(field, contestant{
			name: fmt.Sprintf("plain client, %d at once", workers), lacks: nothingKept,
			run: func(ctx context.Context) (peerCost, error) { return b.plainPeer(ctx, u, s, workers) },
		})
	}
	postgres, err := b.newDatabase(ctx, "")
	if err != nil {
		return nil, end, err
	}
	sqlite := database{flags: []string{"--database", "sqlite:" + filepath.Join(b.dir, "peers.db")}}
	for _, sheaf := range []struct {
		name string
		db   database
	}{{sheafOnSQLite, sqlite}, {"Sheaf, PostgreSQL", postgres}} {
		svc, err := b.startService(ctx, u.template, sheaf.db)
		if err != nil {
			return nil, end, err
		}
		stops = append(stops, svc.kill)
		field = append(field, contestant{name: sheaf.name, lacks: "", run: func(ctx context.Context) (peerCost, error) {
			if _, err := svc.run(ctx, s.warmUp()); err != nil {
				return peerCost{}, fmt.Errorf("warm-up: %w", err)
			}
			var took time.Duration
			out, err := timeCall(func() (err error) {
				took, err = svc.client.run(ctx, s)
				return err
			})
			out.Nanoseconds, out.Peak = took.Nanoseconds(), svc.memory().peak
			return out, err
		}})
	}
	const queues = "order per store, stop on failure, reporting a POST whose outcome is unknown after a crash (it is sent again)"
	field = append(field, contestant{name: riverName, lacks: queues + "; fairness between stores", run: func(ctx context.Context) (peerCost, error) {
		db, err := b.newDatabase(ctx, "") // a new one each time, because jobs stay in the table
		if err != nil {
			return peerCost{}, err
		}
		return b.peer(ctx, u, s, riverCommand, "-database", db.url)
	}})
	for _, q := range []struct{ name, sync, lost string }{
		{asynqName, "everysec", "; the last second after a power cut"},
		{asynqAlways, "always", ""},
	} {
		field = append(field, contestant{name: q.name, lacks: queues + "; fairness between stores" + q.lost, run: func(ctx context.Context) (peerCost, error) {
			r, err := b.startRedis(ctx, q.sync)
			if err != nil {
				return peerCost{}, err
			}
			defer r.stop()
			return b.peer(ctx, u, s, asynqCommand, "-redis", r.address)
		}})
	}
	return field, end, nil
}

// peer runs a peer in its own process.
func (b *bench) peer(ctx context.Context, u *upstream, s scenario, command string, flags ...string) (out peerCost, err error) {
	args := append([]string{
		command, "-upstream", u.template, "-calls", strconv.Itoa(s.calls()), "-workers", strconv.Itoa(s.workers),
		"-warm-up", strconv.Itoa(s.calls() / 10),
	}, flags...)
	text, err := b.command(ctx, b.self, args...).Output()
	if err != nil {
		return out, withStderr(err)
	}
	return out, json.Unmarshal(text, &out)
}

// plainPeer runs the plain client with a number of calls at once.
func (b *bench) plainPeer(ctx context.Context, u *upstream, s scenario, workers int) (out peerCost, err error) {
	s = scenario{stores: 1, batches: 1, requests: s.calls(), workers: workers}
	cpu := machineTime()
	took, err := b.plain(ctx, u.template, s)
	if err != nil {
		return out, err
	}
	// The CPU time includes the warm-up, which is a tenth of the calls.
	out = peerCost{Nanoseconds: took.Nanoseconds(), CPU: time.Duration(float64(machineTime()-cpu) / 1.1), Peak: -1}
	return out, nil
}

const peersText = `Alternatives to Sheaf: %s calls of 250 bytes, 100 at once unless the name says otherwise, all in turn with the same upstream, timed
from the first enqueued call until every answer has been read once. CPU is that of the whole machine, including the upstream, for 10,000 calls.
Memory is that of the process that makes the calls, without a database server.
`

// printPeers writes the table of contestants.
func (r *report) printPeers(w io.Writer) error {
	fmt.Fprintf(w, peersText, table.Thousands(peerScenario.calls()))
	t := table.New("", "calls/s", "relative to the plain client", "CPU for 10,000", "peak memory", "missing features")
	for _, p := range r.Peers {
		peak := "not measured"
		if p.Peak > 0 {
			peak = memoryText(p.Peak)
		}
		t.Add(p.Name, whole(median(p.Rates)), fmt.Sprintf("%.2f", median(p.Share)), fmt.Sprintf("%.2f s", median(p.CPU)), peak, p.Lacks)
	}
	return t.Print(w)
}
