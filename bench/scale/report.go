package main

import (
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/sheafapi/sheaf/bench/internal/table"
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

const workText = `A day of %s stores: %s sub-requests in %s batches, %.0f %% of them parallel; skew %.2f; seed %d.
Upstream: median %v, 99th percentile %v%s. A node makes %s calls/s; the database takes %s commits/s
and %s rows/s, a lone commit takes %v.

`

// print writes the report for people: as Markdown.
func (r *report) print(w io.Writer) error {
	o := r.Options
	limit := ""
	if o.Limit > 0 {
		limit = fmt.Sprintf(", at most %g calls/s a store", o.Limit)
	}
	fmt.Fprintf(w, workText, table.Thousands(o.Stores), table.Thousands(o.Requests), table.Thousands(r.Batches), 100*o.Parallel, o.Skew, o.Seed,
		o.Latency50, o.Latency99, limit, capacity(o.NodeCalls), capacity(o.DatabaseCommits), capacity(o.DatabaseRows), o.CommitTime)
	for _, part := range []func(w io.Writer) error{r.printWaits, r.printLoads, r.printLosses, r.printVerdict} {
		if err := part(w); err != nil {
			return err
		}
	}
	return nil
}

func (r *report) printWaits(w io.Writer) error {
	fmt.Fprint(w, "Waiting times of batches, by the size of their stores: p50 / p95 / p99 / longest, since the create.\n")
	fmt.Fprint(w, "The last column leaves out the wait for the store's own earlier batches.\n")
	t := table.New("nodes", "stores", "batches", "sub-requests", "to the first request", "to the batch's end", "to the first, not for itself")
	for _, d := range r.Days {
		for _, c := range d.Classes {
			t.Add(strconv.Itoa(d.Nodes), c.Name, table.Thousands(c.Batches), table.Thousands(c.Requests), c.First.String(), c.End.String(), c.Others.String())
		}
	}
	return t.Print(w)
}

func (r *report) printLoads(w io.Writer) error {
	fmt.Fprint(w, "How busy: over the day / in the busiest hour / in the busiest minute.\n")
	t := table.New("nodes", "busiest node", "database", "commits", "most calls under way", "refused", "ended after the day")
	for _, d := range r.Days {
		t.Add(strconv.Itoa(d.Nodes), d.Node.String(), d.Database.String(), table.Thousands(d.Commits), table.Thousands(d.Peak),
			table.Thousands(d.Refused), table.Thousands(d.Late+d.Open))
	}
	return t.Print(w)
}

func (r *report) printLosses(w io.Writer) error {
	fmt.Fprintf(w, "One node is lost at %s and stays away. Affected: began or ended over %v later than without the loss.\n",
		clock(r.Options.LostAt), noticeable)
	t := table.New("nodes", "loss", "taken over after", "stores on it", "stores affected", "batches", "in doubt", "creates repeated",
		"extra wait, p50 / p95 / p99 / longest", "over after", "busiest node then")
	for _, d := range r.Days {
		for _, l := range d.Losses {
			t.Add(strconv.Itoa(d.Nodes), l.Kind, short(l.Takeover), table.Thousands(l.Owned), table.Thousands(l.Affected), table.Thousands(l.Batches),
				table.Thousands(l.Doubt), table.Thousands(l.Repeats), l.Extra.String(), short(l.Settled), l.Node.String())
		}
	}
	return t.Print(w)
}

func (r *report) printVerdict(w io.Writer) error {
	criterion := fmt.Sprintf("one can be lost at that moment, all batches end, and neither a node nor the database is busy for more than %.0f %% of any minute",
		100*r.Options.MostLoaded)
	if r.Needed == 0 {
		_, err := fmt.Fprintf(w, "Needed: more nodes than were simulated (or a faster database). Enough means: %s.\n", criterion)
		return err
	}
	_, err := fmt.Fprintf(w, "Needed: %d nodes. Then %s.\n", r.Needed, criterion)
	return err
}

// capacity returns a number a second; 0 stands for no limit.
func capacity(n float64) string {
	if n == 0 {
		return "any number of"
	}
	return table.Thousands(int(n))
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
