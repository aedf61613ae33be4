package integration

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

// row is what came of all runs of one fault: a line of the table that `make chaos`
// prints. It belongs to one test.
type row struct {
	fault   string
	promise time.Duration // how soon a store runs again; 0: none

	runs, kills                 int
	tickets, lost, twice, stuck int
	took                        []time.Duration // each time, until the last of the stores that were hit ran again
}

// rows are those of all tests, in the order in which they began.
var rows []*row

// newRow begins the row of a test. To be called before t.Parallel.
func newRow(fault string, promise time.Duration) *row {
	r := &row{fault: fault, promise: promise}
	rows = append(rows, r)
	return r
}

// faultsPerFleet is how often a fleet is hit before all that it did is audited, and
// another one made.
const faultsPerFleet = 10

// repeat has a fault strike a number of times, some on each fleet.
func (r *row) repeat(t *testing.T, times int, strike func(t *testing.T, times int)) {
	for left := times; left > 0 && !t.Failed(); left -= faultsPerFleet {
		t.Run(fmt.Sprintf("%d left", left), func(t *testing.T) { strike(t, min(left, faultsPerFleet)) })
	}
	if len(r.took) > 0 {
		t.Logf("%s: %d times; until the last store ran again: %v (median, most)", r.fault, r.runs, spread(r.took))
	}
}

// ranAgain takes in how long stores waited, and checks the promise.
func (r *row) ranAgain(t *testing.T, took takeover) {
	t.Helper()
	if took.stores == 0 {
		return // whatever was hit had just ended
	}
	r.took = append(r.took, took.last)
	if r.promise > 0 && took.last > r.promise {
		t.Errorf("a store waited for %v, the promise is %v", took.last, r.promise)
	}
}

// add takes in what a fleet did.
func (r *row) add(f *fleet, a *audit) {
	r.tickets += a.tickets
	r.lost += a.lost
	r.twice += a.twice
	for _, hit := range f.faults {
		r.runs++
		if hit.kind == killed || hit.kind == baseKilled {
			r.kills++
		}
	}
}

// printReport prints the table of docs/reliability.md.
func printReport(w io.Writer) {
	var all row
	fmt.Fprint(w, "\n| fault | runs | kills | tickets | lost | POSTs made twice | stores stuck | until all stores ran again: median | longest |\n|",
		strings.Repeat("---|", 9), "\n")
	for _, r := range rows {
		median, most := "", ""
		if len(r.took) > 0 {
			slices.Sort(r.took)
			median, most = seconds(r.took[len(r.took)/2]), seconds(r.took[len(r.took)-1])
		}
		fmt.Fprintf(w, "| %s | %d | %d | %d | %d | %d | %d | %s | %s |\n",
			r.fault, r.runs, r.kills, r.tickets, r.lost, r.twice, r.stuck, median, most)
		all.runs += r.runs
		all.kills += r.kills
		all.tickets += r.tickets
		all.lost += r.lost
		all.twice += r.twice
		all.stuck += r.stuck
	}
	fmt.Fprintf(w, "| all | %d | %d | %d | %d | %d | %d | | |\n", all.runs, all.kills, all.tickets, all.lost, all.twice, all.stuck)
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
