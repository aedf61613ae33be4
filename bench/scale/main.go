// Scale simulates a day of many stores on some nodes over one database, in virtual time:
// how long batches wait, how busy nodes and database are, what the loss of a node in the
// busiest hour does, and how many nodes are needed.
//
//	cd bench && go run ./scale
//	go run ./scale -nodes 2,4 -requests 100000000 -node-calls 6000 -json
//
// It takes a quarter of a minute; ten times the requests take ten times that. The report is Markdown.
//
// What is modelled, by the rules of internal/engine and internal/storage/postgres:
//
//   - A store's batches run one after the other, on one node at a time. A create reaches
//     the nodes in turn; that node runs the store if nobody does, or puts it into its
//     line and offers it to the others. The one that runs a store takes its next batch
//     with the commit that ends the one before.
//   - A node has -stores-at-once places. A store that has one for 2 s hands it over at its
//     next request if others wait in that node's line.
//   - A node has -max-outbound places for calls. A batch's first call waits for one in
//     line; further ones of a parallel batch, at most 100 at once, take what is free of
//     three quarters of them.
//   - The intent of each request is durable before it leaves, together with the answers so
//     far. Two recorders of a node commit these, each whatever waits of at most 256 stores.
//     Creates, claims and the ends of batches are transactions of their own. All share
//     -database-connections less one. The database does them one after the other, at
//     -database-commits and -database-rows a second; the rest of -commit-time (network,
//     disk) passes side by side.
//   - A node's processor gets to one call after the other, at -node-calls a second.
//   - A lost node commits nothing more. Its stores are free after -kill or -cut, and the
//     others share them. What was under way is in doubt and not sent again. Clients
//     repeat creates that got no answer after 1 s; the balancer notices after 2 s.
//
// Where the defaults of what is measured are from (bench is this module's other program,
// on PostgreSQL, all of it on 2 CPUs):
//
//   - -node-calls: 50 stores, one by one, at 0 ms gave 10,000 calls/s on CPUs that the node
//     shared with PostgreSQL, the upstream and the driver. A fifth less.
//   - -commit-time: one store, one by one, at 0 ms took 0.6 ms a call, 0.13 of it the call
//     itself. With 0.4 ms for a network between node and database.
//   - -database-commits: theme limits, commits of one row over 8 connections.
//     It gave 4,500 to 7,200 on a busy machine.
//   - -database-rows: the table of costs. Parallel batches took PostgreSQL 34 to 41 s of CPU
//     per million sub-requests, which are two million rows: 50,000 to 60,000 a second on one
//     CPU. Rows by themselves (theme limits) are several times as cheap.
//   - -kill and -cut: docs/architecture.md, "Who runs what"; docs/scaling.md has them measured.
//
// Every request has an event of its own, so queueing is not approximated. What is not
// modelled:
//
//   - Failures, retries and 429: every answer is a success. With -limit a store's calls
//     leave no faster than that; that is a pause here, not an answer 429.
//   - Requests that only read, which need no intent: all are taken for POSTs, the dearest.
//   - Polls, searches, webhooks and purging; but -node-calls is measured with one
//     create and one reading of every batch.
//   - Memory: what the requests of running batches may take together is not bounded.
//   - A database that is slow for a while: checkpoints, autovacuum, a failover.
//   - The lost node's return.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "scale:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout, stderr io.Writer) error {
	o, asJSON, err := parse(args, stderr)
	if err != nil {
		return err
	}
	start := time.Now()
	r := simulate(o)
	fmt.Fprintf(stderr, "simulated in %v\n", time.Since(start).Round(100*time.Millisecond))
	if asJSON {
		out := json.NewEncoder(stdout)
		out.SetIndent("", "  ")
		return out.Encode(r)
	}
	return r.print(stdout)
}

// simulate runs every day, as many at once as there are processors.
func simulate(o *options) *report {
	batches := o.workload()
	r := &report{Options: o, Batches: len(batches), Days: make([]dayReport, len(o.Nodes))}
	places := make(chan struct{}, runtime.GOMAXPROCS(0))
	var days sync.WaitGroup
	for i, nodes := range o.Nodes {
		days.Go(func() { r.Days[i] = simulateDay(o, nodes, batches, places) })
	}
	days.Wait()
	r.conclude()
	return r
}

// simulateDay runs one day without a loss and one for each kind of loss. Each takes
// one of the places.
func simulateDay(o *options, nodes int, batches []batch, places chan struct{}) dayReport {
	at := moment(o.LostAt)
	runOne := func(l *loss) *sim {
		places <- struct{}{}
		defer func() { <-places }()
		s := newSim(o, nodes, slices.Clone(batches))
		if l != nil {
			s.plan(0, *l)
		}
		s.run()
		return s
	}
	s := runOne(nil)
	d := dayReport{
		Nodes: nodes, Classes: s.classes(), Node: s.busiest(), Database: s.database.load(),
		Commits: s.commitCount, Peak: s.peak(), Open: s.open,
	}
	for i := range s.batches {
		switch b := &s.batches[i]; {
		case b.refused:
			d.Refused++
		case b.end > day:
			d.Late++
		}
	}
	d.Enough = nodes > 1 && d.Open == 0 && max(d.Node.Minute, d.Database.Minute) <= o.MostLoaded
	if nodes == 1 {
		return d // nobody is left to take over
	}
	for _, l := range []lossReport{{Kind: "kill -9", Takeover: o.Kill}, {Kind: "cut off", Takeover: o.Cut}} {
		with := runOne(&loss{at: at, after: moment(l.Takeover)})
		l.Owned, l.Doubt, l.Repeats = len(with.outcome.owned), with.outcome.doubt, with.outcome.repeats
		l.Node, l.Unended = with.busiest(), with.open
		l.compare(with.batches, s.batches, at)
		d.Losses = append(d.Losses, l)
		d.Enough = d.Enough && l.Unended == 0 && max(l.Node.Minute, with.database.load().Minute) <= o.MostLoaded
	}
	return d
}
