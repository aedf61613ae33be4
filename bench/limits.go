package main

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/sheafapi/sheaf/internal/storage/postgres"
)

// putMarks writes rows of about 350 bytes, like those of the results of requests.
const putMarks = `INSERT INTO marks (batch, index, state, tries, not_before, status, code, kind, line, body)
	SELECT $1, n, 3, '', 0, 1, 201, 1, 'HTTP/1.1 201 Created', convert_to(repeat('x', 250), 'UTF8') FROM generate_series(1, $2) AS n`

// limits measures the database without the service: the duration of a commit alone, commits per
// second, and rows per second with many rows in each commit.
func (b *bench) limits(ctx context.Context) ([]figure, error) {
	const connections, rows = 8, 256
	db, err := b.newDatabase(ctx, "limits")
	if err != nil {
		return nil, err
	}
	store, err := postgres.Open(ctx, db.url, postgres.Options{Logger: slog.New(slog.DiscardHandler)}) // creates the tables
	if err != nil {
		return nil, err
	}
	store.Close()
	config, err := pgxpool.ParseConfig(db.url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = connections
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	var batch atomic.Int64 // a different one for each commit
	put := func(rows int) func(context.Context, int) error {
		return func(ctx context.Context, _ int) error {
			_, err := pool.Exec(ctx, putMarks, batch.Add(1), rows)
			return err
		}
	}
	one := put(1)
	var lone []time.Duration
	for start := time.Now(); time.Since(start) < b.length; {
		began := time.Now()
		if err := one(ctx, 0); err != nil {
			return nil, err
		}
		lone = append(lone, time.Since(began))
	}
	commits, err := rateOf(ctx, connections, b.length, one)
	if err != nil {
		return nil, err
	}
	groups, err := rateOf(ctx, connections, b.length, put(rows))
	return []figure{
		{Name: "a lone commit of one row, p50", Value: value(inMilliseconds(percentile(lone, 50))), Unit: "ms"},
		{Name: "commits of one row, 8 connections", Value: value(commits), Unit: "/s"},
		{Name: "rows, 256 in a commit, 8 connections", Value: value(groups * rows), Unit: "/s"},
	}, err
}
