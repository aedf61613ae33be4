package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"
)

const riverCommand = "river"

// riverCall is the job of one call.
type riverCall struct {
	Path string          `json:"path"`
	Nth  int64           `json:"nth"`
	Body json.RawMessage `json:"body"`
}

func (riverCall) Kind() string { return "call" }

// riverWorker makes the call of a job and keeps the answer as the job's output, which is stored when
// the job is completed. River has no cheaper way to store it.
type riverWorker struct {
	river.WorkerDefaults[riverCall]
	upstream string
	client   *http.Client
}

func (w *riverWorker) Work(ctx context.Context, job *river.Job[riverCall]) error {
	a, err := peerCall(ctx, w.client, w.upstream+"/"+job.Args.Path, string(job.Args.Body), job.Args.Nth)
	if err != nil {
		return err
	}
	return river.RecordOutput(ctx, a)
}

// runRiver makes the calls with River, one job per call, over its own database.
func runRiver(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet(riverCommand, flag.ContinueOnError)
	w := peerFlags(flags)
	url := flags.String("database", "", "URL of the database")
	if err := flags.Parse(args); err != nil {
		return err
	}
	config, err := pgxpool.ParseConfig(*url)
	if err != nil {
		return err
	}
	config.MaxConns = 16
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	driver := riverpgxv5.New(pool)
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	if _, err := migrator.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return err
	}
	workers := river.NewWorkers()
	river.AddWorker(workers, &riverWorker{upstream: strings.ReplaceAll(w.upstream, "{storeId}", storeName(0)), client: tunedClient(w.workers)})
	client, err := river.NewClient(driver, &river.Config{
		Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: w.workers}},
		// With its default of 100 ms, River would fetch only ten times a second and reach a third
		// of the speed. This is the minimum that it accepts.
		FetchCooldown:     time.Millisecond,
		FetchPollInterval: 50 * time.Millisecond,
		Workers:           workers,
		Logger:            slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	completed, unsubscribe := client.SubscribeConfig(&river.SubscribeConfig{
		ChanSize: w.warmUp + w.calls + 1000, Kinds: []river.EventKind{river.EventKindJobCompleted, river.EventKindJobFailed},
	})
	defer unsubscribe()
	if err := client.Start(ctx); err != nil {
		return err
	}
	defer client.StopAndCancel(context.WithoutCancel(ctx))
	return w.measure(ctx, stdout, func(ctx context.Context, n int) error { return riverRound(ctx, client, completed, n) })
}

// riverRound makes n calls, from the first insert until every output has been read.
func riverRound(ctx context.Context, client *river.Client[pgx.Tx], completed <-chan *river.Event, n int) error {
	for from := 0; from < n; from += peerChunk {
		var jobs []river.InsertManyParams
		for i := from; i < min(from+peerChunk, n); i++ {
			jobs = append(jobs, river.InsertManyParams{Args: riverCall{Path: requestPath, Nth: int64(i), Body: json.RawMessage(requestBody)}})
		}
		if _, err := client.InsertManyFast(ctx, jobs); err != nil {
			return err
		}
	}
	first := int64(0)
	for range n {
		select {
		case e := <-completed:
			if e.Kind != river.EventKindJobCompleted {
				return fmt.Errorf("job %d failed: %v", e.Job.ID, e.Job.Errors)
			}
			if first == 0 || e.Job.ID < first {
				first = e.Job.ID
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	jobs, err := client.JobList(ctx, river.NewJobListParams().States(rivertype.JobStateCompleted).
		OrderBy(river.JobListOrderByID, river.SortOrderDesc).First(min(n, 10_000)))
	if err != nil {
		return err
	}
	for _, job := range jobs.Jobs {
		if len(job.Output()) == 0 || job.ID < first {
			return fmt.Errorf("job %d has no output", job.ID)
		}
	}
	if len(jobs.Jobs) != n {
		return fmt.Errorf("%d outputs for %d jobs", len(jobs.Jobs), n)
	}
	return nil
}
