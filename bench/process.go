package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"time"
)

const (
	// readyLimit is the longest time that a process may take until it is ready.
	readyLimit = time.Minute
	// readyPause is the pause between two checks whether the service is ready. It is also the
	// precision of the measured start times.
	readyPause = 2 * time.Millisecond
)

// command returns a command that is killed when ctx ends.
func (b *bench) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, program, args...)
	c.Dir = b.dir
	return c
}

// withStderr adds a process's stderr to the error with which it ended.
func withStderr(err error) error {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && len(exit.Stderr) > 0 {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(exit.Stderr))
	}
	return err
}

// upstream is a running upstream.
type upstream struct {
	template string // of its address
	cmd      *exec.Cmd
}

// startUpstream starts an upstream with the flags of serveUpstream.
func (b *bench) startUpstream(ctx context.Context, flags ...string) (*upstream, error) {
	cmd := b.command(ctx, b.self, append([]string{upstreamCommand}, flags...)...)
	if _, err := cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("upstream: %w", err)
	}
	u := &upstream{cmd: cmd}
	address, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		u.stop()
		return nil, fmt.Errorf("upstream: its address: %w", err)
	}
	u.template = "http://" + strings.TrimSpace(address) + "/api/v3/{storeId}"
	return u, nil
}

func (u *upstream) stop() {
	u.cmd.Process.Kill()
	u.cmd.Wait()
}

// service is a running sheaf.
type service struct {
	*client
	cmd     *exec.Cmd
	started time.Duration // from its start until it was ready
	stderr  bytes.Buffer  // read it only after ended is closed
	ended   chan struct{}
}

// startService starts the service over a database and waits until it is ready.
func (b *bench) startService(ctx context.Context, upstream string, db database, flags ...string) (*service, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	cmd := b.command(ctx, b.sheaf, slices.Concat([]string{
		"serve", "--listen", address, "--upstream", upstream, "--log-format", "text,error",
	}, db.flags, flags)...)
	s := &service{client: newClient("http://" + address), cmd: cmd, ended: make(chan struct{})}
	cmd.Stderr = &s.stderr
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("service: %w", err)
	}
	go func() {
		cmd.Wait()
		close(s.ended)
	}()
	if err := s.awaitReady(ctx); err != nil {
		s.kill()
		return nil, fmt.Errorf("service: %w\n%s", err, s.stderr.Bytes())
	}
	s.started = time.Since(start)
	return s, nil
}

// awaitReady polls until the service reports that it is ready.
func (s *service) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, readyLimit, fmt.Errorf("not ready after %v", readyLimit))
	defer cancel()
	tick := time.NewTicker(readyPause)
	defer tick.Stop()
	for {
		if code, _, err := s.do(ctx, http.MethodGet, "/readyz", nil); err == nil && code == http.StatusOK {
			return nil
		}
		select {
		case <-tick.C:
		case <-s.ended:
			return errors.New("it ended during startup")
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// kill kills the service. Its database stays.
func (s *service) kill() {
	s.cmd.Process.Kill()
	<-s.ended
	s.http.CloseIdleConnections()
}

func (s *service) memory() memory { return memoryOf(s.cmd.Process.Pid) }

// freeAddress returns an address that is free at the moment.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// world is an upstream and a service in front of it.
type world struct {
	upstream *upstream
	service  *service
	database database
}

func (w *world) end() {
	w.service.kill()
	w.upstream.stop()
}

// setUp starts an upstream and a service in front of it, over a new database.
func (b *bench) setUp(ctx context.Context, name string, upstreamFlags ...string) (*world, error) {
	u, err := b.startUpstream(ctx, upstreamFlags...)
	if err != nil {
		return nil, err
	}
	w := &world{upstream: u}
	if w.database, err = b.newDatabase(ctx, name); err == nil {
		w.service, err = b.startService(ctx, u.template, w.database)
	}
	if err != nil {
		u.stop()
		return nil, err
	}
	return w, nil
}
