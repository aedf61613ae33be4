package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// report is all that was simulated.
type report struct {
	Options *options    `json:"options"`
	Batches int         `json:"batches"`
	Days    []dayReport `json:"days"`
	Needed  int         `json:"nodesNeeded"` // 0: more than were simulated
}

// conclude finds out how many nodes are needed.
func (r *report) conclude() {
	for _, d := range r.Days {
		if d.Enough && (r.Needed == 0 || d.Nodes < r.Needed) {
			r.Needed = d.Nodes
		}
	}
}

func className(i, from, to int) string {
	if i == 0 {
		return fmt.Sprintf("the %d largest", to)
	}
	return fmt.Sprintf("%d to %d", from+1, to)
}

const workText = `A day of %d stores: %d sub-requests in %d batches, %.0f %% of them parallel; skew %.2f; seed %d.
Upstream: median %v, 99th percentile %v%s. A node makes %.0f calls/s; the database takes %.0f commits/s
and %.0f rows/s, a lone commit takes %v.
`

// print writes the report for people.
func (r *report) print(w io.Writer) error {
	o := r.Options
	limit := ""
	if o.Limit > 0 {
		limit = fmt.Sprintf(", at most %g calls/s a store", o.Limit)
	}
	fmt.Fprintf(w, workText, o.Stores, o.Requests, r.Batches, 100*o.Parallel, o.Skew, o.Seed,
		o.Latency50, o.Latency99, limit, o.NodeCalls, o.DatabaseCommits, o.DatabaseRows, o.CommitTime)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	r.printWaits(t)
	r.printLoads(t)
	r.printLosses(t)
	if err := t.Flush(); err != nil {
		return err
	}
	return r.printVerdict(w)
}

func (r *report) printWaits(t *tabwriter.Writer) {
	fmt.Fprint(t, "\nWaiting times of batches, by the size of their stores: p50 / p95 / p99 / longest, since the create.\n")
	fmt.Fprint(t, "The last column leaves out the wait for the store's own earlier batches.\n\n")
	t.Flush()
	fmt.Fprintln(t, "nodes\tstores\tbatches\tsub-requests\tto the first request\tto the batch's end\tto the first, not for itself")
	for _, d := range r.Days {
		for _, c := range d.Classes {
			fmt.Fprintf(t, "%d\t%s\t%d\t%d\t%s\t%s\t%s\n", d.Nodes, c.Name, c.Batches, c.Requests, c.First, c.End, c.Others)
		}
	}
	t.Flush()
}

func (r *report) printLoads(t *tabwriter.Writer) {
	fmt.Fprint(t, "\nHow busy: over the day / in the busiest hour / in the busiest minute.\n\n")
	t.Flush()
	fmt.Fprintln(t, "nodes\tbusiest node\tdatabase\tcommits\tmost calls under way\trefused\tended after the day")
	for _, d := range r.Days {
		fmt.Fprintf(t, "%d\t%s\t%s\t%d\t%d\t%d\t%d\n", d.Nodes, d.Node, d.Database, d.Commits, d.Peak, d.Refused, d.Late+d.Open)
	}
	t.Flush()
}

func (r *report) printLosses(t *tabwriter.Writer) {
	fmt.Fprintf(t, "\nOne node is lost at %s and stays away. Affected: began or ended over %v later\nthan without the loss.\n\n", clock(r.Options.LostAt), noticeable)
	t.Flush()
	fmt.Fprintln(t, "nodes\tloss\ttaken over\tstores on it\tstores affected\tbatches\tin doubt\tcreates repeated\textra wait, p50 / p95 / p99 / longest\tover after\tbusiest node then")
	for _, d := range r.Days {
		for _, l := range d.Losses {
			fmt.Fprintf(t, "%d\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%s\t%s\t%s\n", d.Nodes, l.Kind, short(l.Takeover),
				l.Owned, l.Affected, l.Batches, l.Doubt, l.Repeats, l.Extra, short(l.Settled), l.Node)
		}
	}
	t.Flush()
}

func (r *report) printVerdict(w io.Writer) error {
	criterion := fmt.Sprintf("one can be lost at that moment, all batches end, and neither a node nor the database is busy for more than %.0f %% of any minute",
		100*r.Options.MostLoaded)
	if r.Needed == 0 {
		_, err := fmt.Fprintf(w, "\nNeeded: more nodes than were simulated (or a faster database). Enough means: %s.\n", criterion)
		return err
	}
	_, err := fmt.Fprintf(w, "\nNeeded: %d nodes. Then %s.\n", r.Needed, criterion)
	return err
}

// String returns the summary as the tables show it.
func (s summary) String() string {
	return fmt.Sprintf("%s / %s / %s / %s", short(s.P50), short(s.P95), short(s.P99), short(s.Longest))
}

func (l load) String() string {
	return fmt.Sprintf("%.1f / %.1f / %.1f %%", 100*l.Day, 100*l.Hour, 100*l.Minute)
}

// short returns a time with two or three digits that count.
func short(d time.Duration) string {
	switch {
	case d < 100*time.Microsecond:
		return "0"
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.1fms", float64(d)/float64(time.Millisecond))
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0fs", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0fmin", d.Minutes())
	default:
		return fmt.Sprintf("%.1fh", d.Hours())
	}
}

// clock returns a time since midnight as a clock shows it.
func clock(d time.Duration) string {
	return fmt.Sprintf("%02d:%02d:%02d", int(d.Hours()), int(d.Minutes())%60, int(d.Seconds())%60)
}
