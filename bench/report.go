package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/sheafapi/sheaf/bench/internal/table"
)

// report holds all results of a run.
type report struct {
	Environment environment  `json:"environment"`
	Small       bool         `json:"small,omitempty"`
	Rounds      int          `json:"rounds"`
	Throughput  []comparison `json:"throughput,omitempty"`
	Figures     []figure     `json:"figures,omitempty"`
	Scaling     []scaling    `json:"nodes,omitempty"`
	Churn       *churn       `json:"purge,omitempty"`
	Peers       []peerResult `json:"peers,omitempty"`
	Growth      *growth      `json:"growth,omitempty"`
}

// comparison is one scenario's outcome.
type comparison struct {
	Scenario      string    `json:"scenario"`
	Upstream      string    `json:"upstream"`
	Calls         int       `json:"calls"`
	Plain         []float64 `json:"plainCallsPerSecond"`   // by round
	Service       []float64 `json:"serviceCallsPerSecond"` // by round
	PlainMedian   float64   `json:"plainMedian"`
	ServiceMedian float64   `json:"serviceMedian"`
	Ratio         float64   `json:"ratio"`       // the median of the rounds' ratios; both sides of a round are measured within seconds
	Lowest        float64   `json:"lowestRatio"` // of a single round; far from Ratio if the machine wasn't quiet
	Highest       float64   `json:"highestRatio"`
	Goal          float64   `json:"goal"`
	Met           bool      `json:"met"`
	Peak          int64     `json:"peakMemoryBytes"` // of the service; -1: not measured
	Cost          *cost     `json:"cost,omitempty"`  // nil on SQLite
}

// conclude computes the medians and checks the ratio. There must be at least one round.
func (c *comparison) conclude() {
	c.PlainMedian, c.ServiceMedian = median(c.Plain), median(c.Service)
	ratios := make([]float64, len(c.Plain))
	for i := range ratios {
		ratios[i] = c.Service[i] / c.Plain[i]
	}
	c.Ratio, c.Lowest, c.Highest = median(ratios), slices.Min(ratios), slices.Max(ratios)
	c.Met = c.Ratio >= c.Goal
}

// figure is one measured value.
type figure struct {
	Name  string   `json:"name"`
	Value *float64 `json:"value"` // nil: not measured on this system
	Unit  string   `json:"unit"`
	Goal  float64  `json:"goal,omitempty"`  // its maximum; 0: none
	Least float64  `json:"least,omitempty"` // its minimum; 0: none
}

func value(v float64) *float64 { return &v }

// megabytes returns bytes as a figure's value in MB (10⁶ bytes), or nil if they aren't known.
func megabytes(bytes int64) *float64 {
	if bytes < 0 {
		return nil
	}
	return value(float64(bytes) / 1e6)
}

// peakOf returns the highest memory of the service in any scenario.
func peakOf(comparisons []comparison) figure {
	peak := int64(-1)
	for _, c := range comparisons {
		peak = max(peak, c.Peak)
	}
	return figure{Name: "peak memory of the service in these runs", Value: megabytes(peak), Unit: "MB", Goal: 120}
}

// Texts of the report that describe the measurements.
const (
	throughputText = `Throughput: the same 250-byte POSTs to the same loopback upstream. Medians of %d rounds, in turn.

- plain: a tuned net/http client in its own process; from its first call to its last answer.
- service: sheaf serve with default settings, except for the log level; from the first create until
  every batch was seen COMPLETED and every answer was read once. Creating, queueing, fsync, storing
  and reading are included; encoding the creates and decoding the answers are not.
- ratio: the median of the rounds' ratios.
`
	figuresText = "Single figures, one run each.\n"
)

// print writes the report as Markdown.
func (r *report) print(w io.Writer) error {
	fmt.Fprintf(w, "%s\n\n", r.Environment)
	if r.Small {
		fmt.Fprint(w, "Run at a small scale: this shows only that the benchmark works. The figures mean nothing.\n\n")
	}
	for _, part := range []struct {
		there bool
		print func() error
	}{
		{len(r.Throughput) > 0, func() error { return r.printThroughput(w) }},
		{len(r.costs()) > 0, func() error { return printCosts(w, r.costs()) }},
		{len(r.Scaling) > 0, func() error { return printScaling(w, r.Rounds, r.Scaling) }},
		{r.Churn != nil, func() error { return printChurn(w, r.Churn) }},
		{r.Growth != nil, func() error { return r.Growth.print(w) }},
		{len(r.Peers) > 0, func() error { return r.printPeers(w) }},
		{len(r.Figures) > 0, func() error { return r.printFigures(w) }},
	} {
		if !part.there {
			continue
		}
		if err := part.print(); err != nil {
			return err
		}
	}
	return nil
}

func (r *report) printThroughput(w io.Writer) error {
	fmt.Fprintf(w, throughputText, r.Rounds)
	t := table.New("scenario", "upstream", "plain, calls/s", "service, calls/s", "ratio", "single rounds", "goal", "", "peak memory")
	for _, c := range r.Throughput {
		t.Add(c.Scenario, c.Upstream, whole(c.PlainMedian), whole(c.ServiceMedian), fmt.Sprintf("%.2f", c.Ratio),
			fmt.Sprintf("%.2f–%.2f", c.Lowest, c.Highest), fmt.Sprintf("≥ %.2f", c.Goal), verdict(c.Met), memoryText(c.Peak))
	}
	return t.Print(w)
}

// costs returns the costs of the scenarios for which they were measured.
func (r *report) costs() []namedCost {
	var costs []namedCost
	for _, c := range r.Throughput {
		if c.Cost != nil {
			costs = append(costs, namedCost{c.Scenario + ", " + c.Upstream, c.Cost})
		}
	}
	return costs
}

func (r *report) printFigures(w io.Writer) error {
	fmt.Fprint(w, figuresText)
	t := table.New("what", "measured", "goal", "")
	for _, f := range r.Figures {
		t.Add(f.Name, f.text(), f.goal(), f.judgment())
	}
	return t.Print(w)
}

// text returns the value with its unit.
func (f figure) text() string {
	switch {
	case f.Value == nil:
		return "not measured"
	case *f.Value >= 100:
		return whole(*f.Value) + " " + f.Unit
	}
	return fmt.Sprintf("%.2f %s", *f.Value, f.Unit)
}

// goal returns the goal with its unit, or the empty string if there is none.
func (f figure) goal() string {
	sign, bound := "≤ ", f.Goal
	if f.Least != 0 {
		sign, bound = "≥ ", f.Least
	}
	if bound == 0 {
		return ""
	}
	return sign + strconv.FormatFloat(bound, 'f', -1, 64) + " " + f.Unit
}

// judgment returns whether the goal was met, or the empty string if there is no goal or no value.
func (f figure) judgment() string {
	switch {
	case f.Value == nil:
		return ""
	case f.Least != 0:
		return verdict(*f.Value >= f.Least)
	case f.Goal != 0:
		return verdict(*f.Value <= f.Goal)
	}
	return ""
}

// whole returns a number rounded to an integer, with commas.
func whole(v float64) string { return table.Thousands(int(math.Round(v))) }

func verdict(met bool) string {
	if met {
		return "met"
	}
	return "MISSED"
}

// milliseconds formats a latency for the tables.
func milliseconds(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }
