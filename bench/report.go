package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"text/tabwriter"
	"time"
)

// report is all that was measured.
type report struct {
	Environment environment  `json:"environment"`
	Rounds      int          `json:"rounds"`
	Throughput  []comparison `json:"throughput,omitempty"`
	Figures     []figure     `json:"figures,omitempty"`
	Scaling     []scaling    `json:"nodes,omitempty"`
	Churn       *churn       `json:"purge,omitempty"`
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
	Ratio         float64   `json:"ratio"`       // of the medians
	Lowest        float64   `json:"lowestRatio"` // of a single round; far from Ratio on a machine that was not quiet
	Highest       float64   `json:"highestRatio"`
	Goal          float64   `json:"goal"`
	Met           bool      `json:"met"`
	Peak          int64     `json:"peakMemoryBytes"` // of the service; -1: not measured
	Cost          *cost     `json:"cost,omitempty"`  // nil on SQLite
}

// conclude computes the medians and judges their ratio. There is at least one round.
func (c *comparison) conclude() {
	c.PlainMedian, c.ServiceMedian = median(c.Plain), median(c.Service)
	c.Ratio = c.ServiceMedian / c.PlainMedian
	ratios := make([]float64, len(c.Plain))
	for i := range ratios {
		ratios[i] = c.Service[i] / c.Plain[i]
	}
	c.Lowest, c.Highest = slices.Min(ratios), slices.Max(ratios)
	c.Met = c.Ratio >= c.Goal
}

// figure is one measured value.
type figure struct {
	Name  string   `json:"name"`
	Value *float64 `json:"value"` // nil: not measured on this system
	Unit  string   `json:"unit"`
	Goal  float64  `json:"goal,omitempty"` // the most that it should be; 0: no goal
}

func value(v float64) *float64 { return &v }

// megabytes returns bytes as a figure's value in units of 10⁶.
func megabytes(bytes int64) *float64 {
	if bytes < 0 {
		return nil
	}
	return value(float64(bytes) / 1e6)
}

// peakOf returns the most memory that the service took in any scenario.
func peakOf(comparisons []comparison) figure {
	peak := int64(-1)
	for _, c := range comparisons {
		peak = max(peak, c.Peak)
	}
	return figure{Name: "peak memory of the service in these runs", Value: megabytes(peak), Unit: "MB", Goal: 200}
}

// The texts of the report that say what was measured.
const (
	throughputText = `
Throughput: the same 250-byte POSTs to the same loopback upstream. Medians of %d rounds, in turn.
plain:   a tuned net/http client in its own process; from its first call to its last answer.
service: sheaf serve, default settings but for the log's level; from the first create until every batch
         was seen COMPLETED and every answer was read once. Creating, queueing, fsync, storing and
         reading are included; encoding the creates and decoding the answers are not.
`
	figuresText = "\nSingle figures, one run each:\n"
)

// print writes the report for people.
func (r *report) print(w io.Writer) error {
	fmt.Fprintln(w, r.Environment)
	for _, part := range []struct {
		there bool
		print func() error
	}{
		{len(r.Throughput) > 0, func() error { return r.printThroughput(w) }},
		{len(r.costs()) > 0, func() error { return printCosts(w, r.costs()) }},
		{len(r.Scaling) > 0, func() error { return printScaling(w, r.Rounds, r.Scaling) }},
		{r.Churn != nil, func() error { return printChurn(w, r.Churn) }},
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
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "scenario\tupstream\tplain calls/s\tservice calls/s\tratio\tby round\tgoal\t\tpeak memory")
	for _, c := range r.Throughput {
		fmt.Fprintf(t, "%s\t%s\t%.0f\t%.0f\t%.2f\t%.2f–%.2f\t≥ %.2f\t%s\t%s\n",
			c.Scenario, c.Upstream, c.PlainMedian, c.ServiceMedian, c.Ratio, c.Lowest, c.Highest, c.Goal, verdict(c.Met), memoryText(c.Peak))
	}
	return t.Flush()
}

// costs returns what the scenarios cost, where that was measured.
func (r *report) costs() []costed {
	var costs []costed
	for _, c := range r.Throughput {
		if c.Cost != nil {
			costs = append(costs, costed{c.Scenario + ", " + c.Upstream, c.Cost})
		}
	}
	return costs
}

func (r *report) printFigures(w io.Writer) error {
	fmt.Fprint(w, figuresText)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, f := range r.Figures {
		fmt.Fprintf(t, "%s\t%s\t%s\n", f.Name, f.text(), f.judgement())
	}
	return t.Flush()
}

// text returns the value with its unit.
func (f figure) text() string {
	switch {
	case f.Value == nil:
		return "not measured"
	case *f.Value >= 100:
		return fmt.Sprintf("%.0f %s", *f.Value, f.Unit)
	}
	return fmt.Sprintf("%.2f %s", *f.Value, f.Unit)
}

// judgement returns the goal and whether it was met; empty without a goal.
func (f figure) judgement() string {
	switch goal := "goal ≤ " + strconv.FormatFloat(f.Goal, 'f', -1, 64) + " " + f.Unit; {
	case f.Goal == 0:
		return ""
	case f.Value == nil:
		return goal
	default:
		return goal + ", " + verdict(*f.Value <= f.Goal)
	}
}

func verdict(met bool) string {
	if met {
		return "met"
	}
	return "MISSED"
}

// milliseconds returns a latency the way the tables name it.
func milliseconds(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }
