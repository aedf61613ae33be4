package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	sheafclient "github.com/sheafapi/sheaf/client"
)

// submitBatch is the number of requests that sheaf submit puts into a batch.
const submitBatch = 500

// submitTemplate turns a row into a request.
const submitTemplate = `{"method":"PUT","path":"/products/{{id}}","body":{"name":{{name}},"price":{{price:number}}}}`

// submit measures the time that sheaf submit adds to the service's time for the same batches, and
// the memory that it needs for a long file.
func (b *bench) submit(ctx context.Context) ([]figure, error) {
	rows, many, latency := 4000, 100_000, "5ms"
	if b.small {
		rows, many, latency = 1000, 2000, "0"
	}
	w, err := b.setUp(ctx, "submit", "-latency", latency)
	if err != nil {
		return nil, err
	}
	defer w.end()
	var ratios []float64
	var peak int64
	for round := range b.rounds {
		plain, err := b.createAndWait(ctx, w.service.nodes[0], storeName(2*round), rows)
		if err != nil {
			return nil, err
		}
		took, _, err := b.runSubmit(ctx, w.service.nodes[0], storeName(2*round+1), rows)
		if err != nil {
			return nil, err
		}
		ratios = append(ratios, took.Seconds()/plain.Seconds())
		b.say("%d rows: %v, and the same batches without sheaf submit %v", rows, took, plain)
	}
	took, peak, err := b.runSubmit(ctx, w.service.nodes[0], storeName(2*b.rounds), many, "--parallel")
	if err != nil {
		return nil, err
	}
	b.say("%d rows in parallel: %v, %d MB", many, took, peak/1e6)
	return []figure{
		{Name: fmt.Sprintf("sheaf submit: time for %d rows in order, relative to creating and awaiting the same batches", rows), Value: value(median(ratios)), Goal: 1.05},
		{Name: fmt.Sprintf("sheaf submit: memory at the peak, with %d rows", many), Value: megabytes(peak), Unit: "MB", Goal: 80},
	}, nil
}

// runSubmit submits a table with sheaf submit. It returns how long that took and the peak memory in
// bytes.
func (b *bench) runSubmit(ctx context.Context, server, store string, rows int, flags ...string) (took time.Duration, peak int64, err error) {
	file := filepath.Join(b.dir, store+".csv")
	var table bytes.Buffer
	table.WriteString("id,name,price\n")
	for i := range rows {
		fmt.Fprintf(&table, "%d,Mug %d,%d.50\n", i, i, i)
	}
	if err := os.WriteFile(file, table.Bytes(), 0o600); err != nil {
		return 0, 0, err
	}
	c := exec.CommandContext(ctx, b.sheaf, append([]string{"submit", file, "--server", server, "--store", store, "--template", submitTemplate, "--quiet"}, flags...)...)
	c.Env = append(os.Environ(), "SHEAF_TOKEN="+token)
	began := time.Now()
	if out, err := c.CombinedOutput(); err != nil {
		return 0, 0, fmt.Errorf("sheaf submit: %w\n%s", err, out)
	}
	took = time.Since(began)
	if usage, ok := c.ProcessState.SysUsage().(*syscall.Rusage); ok {
		peak = usage.Maxrss << 10 // Linux reports KiB
	}
	return took, peak, nil
}

// createAndWait creates the same batches from bodies that it has encoded before, and waits for all of
// them. It returns how long that took, without the encoding.
func (b *bench) createAndWait(ctx context.Context, server, store string, rows int) (time.Duration, error) {
	var batches [][]byte
	for first := 0; first < rows; first += submitBatch {
		var requests []sheafclient.Request
		for i := first; i < min(first+submitBatch, rows); i++ {
			body := fmt.Appendf(nil, `{"name":"Mug %d","price":%d.50}`, i, i)
			requests = append(requests, sheafclient.Request{Method: "PUT", Path: fmt.Sprintf("/products/%d", i), Body: json.RawMessage(body)})
		}
		text, err := json.Marshal(requests)
		if err != nil {
			return 0, err
		}
		batches = append(batches, text)
	}
	c, err := sheafclient.New(sheafclient.Options{Server: server, Store: store, Token: token})
	if err != nil {
		return 0, err
	}
	began := time.Now()
	var tickets []string
	for _, text := range batches {
		ticket, err := c.CreateJSON(ctx, text, sheafclient.CreateOptions{ContinueOnFailure: true})
		if err != nil {
			return 0, err
		}
		tickets = append(tickets, ticket)
	}
	for _, ticket := range tickets {
		done, err := c.Wait(ctx, ticket, nil)
		if err != nil {
			return 0, err
		}
		if done.CompletedRequests == 0 {
			return 0, errors.New("no request of a batch was carried out")
		}
	}
	return time.Since(began), nil
}
