package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/hibiken/asynq"
)

const asynqCommand = "asynq"

// asynqCall is the payload of the task of one call.
type asynqCall struct {
	Path string          `json:"path"`
	Nth  int64           `json:"nth"`
	Body json.RawMessage `json:"body"`
}

// asynqQueue is the queue of the tasks; asynqRetention is how long their answers are kept.
const (
	asynqQueue     = "default"
	asynqRetention = time.Hour
)

// runAsynq makes the calls with asynq, one task per call, over its own Redis.
func runAsynq(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet(asynqCommand, flag.ContinueOnError)
	w := peerFlags(flags)
	address := flags.String("redis", "", "address of Redis")
	if err := flags.Parse(args); err != nil {
		return err
	}
	redis := asynq.RedisClientOpt{Addr: *address, PoolSize: 2 * w.workers}
	url := strings.ReplaceAll(w.upstream, "{storeId}", storeName(0))
	http := tunedClient(w.workers)
	done := make(chan error, w.warmUp+w.calls)
	server := asynq.NewServer(redis, asynq.Config{Concurrency: w.workers, LogLevel: asynq.FatalLevel, TaskCheckInterval: 10 * time.Millisecond})
	mux := asynq.NewServeMux()
	mux.HandleFunc("call", func(ctx context.Context, task *asynq.Task) (err error) {
		defer func() { done <- err }()
		var c asynqCall
		if err := json.Unmarshal(task.Payload(), &c); err != nil {
			return err
		}
		a, err := peerCall(ctx, http, url+"/"+c.Path, string(c.Body), c.Nth)
		if err != nil {
			return err
		}
		stored, err := json.Marshal(a)
		if err == nil {
			_, err = task.ResultWriter().Write(stored)
		}
		return err
	})
	if err := server.Start(mux); err != nil {
		return err
	}
	defer server.Shutdown()
	client, inspector := asynq.NewClient(redis), asynq.NewInspector(redis)
	defer client.Close()
	defer inspector.Close()
	return w.measure(ctx, stdout, func(ctx context.Context, n int) error {
		// asynq enqueues tasks one by one, so sixteen producers are faster than one.
		const producers = 16
		err := atOnce(ctx, producers, func(ctx context.Context, worker int) error {
			for i := worker; i < n; i += producers {
				payload, err := json.Marshal(asynqCall{Path: requestPath, Nth: int64(i), Body: json.RawMessage(requestBody)})
				if err != nil {
					return err
				}
				if _, err := client.EnqueueContext(ctx, asynq.NewTask("call", payload), asynq.Retention(asynqRetention)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		for range n {
			select {
			case err := <-done:
				if err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return asynqResults(ctx, inspector, n)
	})
}

// asynqResults reads the answers and removes them, so that the next round finds only its
// own. It first waits: the last tasks are completed a moment after their handlers return.
func asynqResults(ctx context.Context, inspector *asynq.Inspector, n int) error {
	for {
		q, err := inspector.GetQueueInfo(asynqQueue)
		if err != nil {
			return err
		}
		if q.Completed == n {
			break
		}
		if err := pause(ctx, time.Millisecond); err != nil {
			return err
		}
	}
	read := 0
	for page := 1; read < n; page++ {
		tasks, err := inspector.ListCompletedTasks(asynqQueue, asynq.PageSize(peerChunk), asynq.Page(page))
		if err != nil {
			return err
		}
		for _, t := range tasks {
			if len(t.Result) == 0 {
				return errors.New("a task has no result")
			}
		}
		if read += len(tasks); len(tasks) == 0 {
			return fmt.Errorf("%d results for %d tasks", read, n)
		}
	}
	_, err := inspector.DeleteAllCompletedTasks(asynqQueue)
	return err
}

// redis is a running Redis that appends to a file.
type redis struct {
	address string
	cmd     *exec.Cmd
}

// startRedis starts a private Redis with the given appendfsync policy: everysec or always.
func (b *bench) startRedis(ctx context.Context, sync string) (*redis, error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, fmt.Errorf("asynq needs Redis: install redis-server (Debian: redis-server): %w", err)
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	_, port, _ := strings.Cut(address, ":")
	r := &redis{address: address}
	dir := filepath.Join(b.dir, "redis-"+sync+"-"+port)
	r.cmd = b.command(ctx, program, "--bind", "127.0.0.1", "--port", port, "--dir", b.dir, "--appenddirname", filepath.Base(dir),
		"--appendonly", "yes", "--appendfsync", sync, "--save", "")
	if err := r.cmd.Start(); err != nil {
		return nil, fmt.Errorf("redis: %w", err)
	}
	inspector := asynq.NewInspector(asynq.RedisClientOpt{Addr: address})
	defer inspector.Close()
	for start := time.Now(); ; {
		if _, err = inspector.Queues(); err == nil {
			return r, nil
		}
		if time.Since(start) > readyLimit {
			r.stop()
			return nil, fmt.Errorf("redis on port %s: %w", strconv.Quote(port), err)
		}
		if err := pause(ctx, readyPause); err != nil {
			r.stop()
			return nil, err
		}
	}
}

func (r *redis) stop() {
	r.cmd.Process.Kill()
	r.cmd.Wait()
}
