package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// mostNodes is how many nodes a store's set of lines has bits for.
const mostNodes = 64

// options are what is simulated.
type options struct {
	Seed  uint64 `json:"seed"`
	Nodes []int  `json:"nodes"` // a day for each

	// The day's work.
	Stores     int           `json:"stores"`
	Requests   int           `json:"requests"`
	Skew       float64       `json:"skew"`
	Parallel   float64       `json:"parallelShare"`
	Job        float64       `json:"batchesPerJob"`
	Cron       float64       `json:"onTheHourShare"`
	Latency50  time.Duration `json:"latency50"`
	Latency99  time.Duration `json:"latency99"`
	Limit      float64       `json:"limitPerStore"`
	LostAt     time.Duration `json:"lostAt"` // since midnight
	MostLoaded float64       `json:"mostLoaded"`

	// The service, with its own settings' names.
	StoresAtOnce int `json:"storesAtOnce"`
	MaxOutbound  int `json:"maxOutbound"`
	MaxQueued    int `json:"maxQueued"`
	Connections  int `json:"databaseConnections"`

	// What was measured.
	NodeCalls       float64       `json:"nodeCallsPerSecond"`
	CommitTime      time.Duration `json:"commitTime"`
	DatabaseCommits float64       `json:"databaseCommitsPerSecond"`
	DatabaseRows    float64       `json:"databaseRowsPerSecond"`
	Kill            time.Duration `json:"takeoverAfterKill"`
	Cut             time.Duration `json:"takeoverAfterCut"`

	latencies distribution // in place of the two percentiles; for tests
}

// parse reads the flags.
func parse(args []string, stderr io.Writer) (o *options, asJSON bool, err error) {
	o = &options{}
	f := flag.NewFlagSet("scale", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.Uint64Var(&o.Seed, "seed", 1, "of the day: the same day for the same seed")
	nodes := f.String("nodes", "1,2,3,4", "how many nodes: a simulated day for each")
	f.IntVar(&o.Stores, "stores", 10_000, "stores")
	f.IntVar(&o.Requests, "requests", 10_000_000, "sub-requests of the day")
	f.Float64Var(&o.Skew, "skew", 0.9, "the k-th largest store has a share of 1/k^skew")
	f.Float64Var(&o.Parallel, "parallel", 0.3, "share of batches that run in parallel")
	f.Float64Var(&o.Job, "job", 3, "batches that a store creates in one go, on average")
	f.Float64Var(&o.Cron, "on-the-hour", 0.2, "share of these that begin in the first minute of an hour")
	f.DurationVar(&o.Latency50, "latency", 50*time.Millisecond, "of the upstream, median")
	f.DurationVar(&o.Latency99, "latency-p99", 500*time.Millisecond, "of the upstream, 99th percentile")
	f.Float64Var(&o.Limit, "limit", 0, "calls a second that a store's upstream takes; 0: any number")
	f.DurationVar(&o.LostAt, "lost-at", time.Duration(busiestHour())*time.Hour+cronWindow/2, "when a node is lost, since midnight")
	f.Float64Var(&o.MostLoaded, "most-loaded", 0.7, "how busy a node or the database may be in any minute for a number of nodes to be enough")
	f.IntVar(&o.StoresAtOnce, "stores-at-once", 4096, "as of sheaf serve")
	f.IntVar(&o.MaxOutbound, "max-outbound", 1024, "as of sheaf serve")
	f.IntVar(&o.MaxQueued, "max-queued", 10_000, "as of sheaf serve; 0: no limit")
	f.IntVar(&o.Connections, "database-connections", 8, "as of sheaf serve")
	f.Float64Var(&o.NodeCalls, "node-calls", 8_000, "calls a second that a node's processor makes, creating, recording and reading included; 0: any number")
	f.DurationVar(&o.CommitTime, "commit-time", 900*time.Microsecond, "a lone commit, from the node and back")
	f.Float64Var(&o.DatabaseCommits, "database-commits", 4_000, "commits a second of the database; 0: any number")
	f.Float64Var(&o.DatabaseRows, "database-rows", 50_000, "rows a second that it writes; 0: any number")
	f.DurationVar(&o.Kill, "kill", 2*time.Second, "until others run the stores of a node that was killed")
	f.DurationVar(&o.Cut, "cut", 13*time.Second, "until others run the stores of a node that was cut off")
	f.BoolVar(&asJSON, "json", false, "print the report as JSON")
	if err := f.Parse(args); err != nil {
		return nil, false, err
	}
	if f.NArg() > 0 {
		return nil, false, errors.New("there are no arguments beside the flags")
	}
	if o.Nodes, err = parseNodes(*nodes); err != nil {
		return nil, false, err
	}
	return o, asJSON, o.check()
}

func parseNodes(list string) ([]int, error) {
	var nodes []int
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || n < 1 || n > mostNodes {
			return nil, fmt.Errorf("-nodes has to be numbers from 1 to %d with commas between, and %q is none", mostNodes, text)
		}
		nodes = append(nodes, n)
	}
	return nodes, nil
}

func (o *options) check() error {
	switch {
	case o.Stores < 1 || o.Requests < 1:
		return errors.New("there has to be at least one store and one request")
	case o.Parallel < 0 || o.Parallel > 1 || o.Cron < 0 || o.Cron > 1:
		return errors.New("a share is a number from 0 to 1")
	case o.Latency50 <= 0 || o.Latency99 < o.Latency50:
		return errors.New("-latency has to be more than 0, and -latency-p99 at least as much")
	case o.LostAt < 0 || o.LostAt > 24*time.Hour:
		return errors.New("-lost-at has to lie within the day")
	case o.StoresAtOnce < 1 || o.MaxOutbound < 1 || o.Connections < 2:
		return errors.New("a node needs at least one place for a store, one for a call and two connections")
	case o.Limit < 0 || o.NodeCalls < 0 || o.DatabaseCommits < 0 || o.DatabaseRows < 0 || o.MaxQueued < 0 || o.Skew < 0:
		return errors.New("a number can't be negative")
	}
	return nil
}

// latency returns how long the upstream takes.
func (o *options) latency() distribution {
	if o.latencies != nil {
		return o.latencies
	}
	return logNormal(o.Latency50, o.Latency99)
}
