package integration

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"
)

// row holds the results of all runs of one fault. Each test has one row, which is a line of the
// table that `make chaos` prints.
type row struct {
	fault   string
	promise time.Duration // the longest time until a store runs again; 0: no promise

	runs, kills                 int
	tickets, lost, twice, stuck int
	took                        []time.Duration // for each fault, until the last affected store ran again
}

// rows has the row of every test, in the order in which the tests began.
var rows []*row

// newRow adds the row of a test. Call it before t.Parallel.
func newRow(fault string, promise time.Duration) *row {
	r := &row{fault: fault, promise: promise}
	rows = append(rows, r)
	return r
}

// faultsPerFleet is the number of faults after which a fleet is audited and replaced.
const faultsPerFleet = 10

// repeat applies a fault a number of times, up to faultsPerFleet on each fleet.
func (r *row) repeat(t *testing.T, times int, strike func(t *testing.T, times int)) {
	for left := times; left > 0 && !t.Failed(); left -= faultsPerFleet {
		t.Run(fmt.Sprintf("%d left", left), func(t *testing.T) { strike(t, min(left, faultsPerFleet)) })
	}
	if len(r.took) > 0 {
		t.Logf("%s: %d times; until the last store ran again: %v (median, maximum)", r.fault, r.runs, spread(r.took))
	}
}

// addTakeover records how long stores waited, and checks the promise.
func (r *row) addTakeover(t *testing.T, took takeover) {
	t.Helper()
	if took.stores == 0 {
		return // no batch was running where the fault struck
	}
	r.took = append(r.took, took.last)
	if r.promise > 0 {
		checkPromise(t, "until the last store ran again", took.last, r.promise)
	}
}

// checkPromise fails a test that took longer than promised, but only in make chaos: on a busy
// machine, durations prove nothing.
func checkPromise(t *testing.T, what string, took, promise time.Duration) {
	t.Helper()
	if *faults > 0 && took > promise {
		t.Errorf("%s: %v, but the promise is %v", what, took, promise)
	}
}

// add adds the audit of a fleet.
func (r *row) add(f *fleet, a *audit) {
	r.tickets += a.tickets
	r.lost += a.lost
	r.twice += a.twice
	for _, hit := range f.faults {
		r.runs++
		if hit.kind == killed || hit.kind == databaseKilled {
			r.kills++
		}
	}
}

// printReport prints the table of docs/reliability.md#many-nodes-over-one-postgresql.
func printReport(w io.Writer) {
	var all row
	fmt.Fprint(w, "\n| fault | runs | kills | tickets | lost | POSTs sent twice | stores stuck | until all stores ran again: median | longest |\n|",
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
