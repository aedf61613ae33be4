package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// service is the sheaf command in its own process.
type service struct {
	binary, address, upstream, database, log string
	secret                                   string // the file with the webhook secret

	process *exec.Cmd
	ended   chan struct{} // closed when the process has ended
}

// start starts the process and waits until it is ready.
func (s *service) start(ctx context.Context) error {
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	s.process = exec.Command(s.binary, "serve", "--listen", s.address, "--upstream", s.upstream, "--database", "sqlite:"+s.database,
		"--webhook-secret-file", s.secret, "--webhook-allow", "127.0.0.0/8")
	// The user's own settings must not reach the service.
	s.process.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "SHEAF_") })
	s.process.Stdout, s.process.Stderr = log, log
	if err := s.process.Start(); err != nil {
		return fmt.Errorf("start the service: %w", err)
	}
	s.ended = make(chan struct{})
	go func(process *exec.Cmd, ended chan struct{}) {
		_ = process.Wait() // its ProcessState says how it ended
		close(ended)
	}(s.process, s.ended)
	if err := s.awaitReady(ctx); err != nil {
		s.kill()
		return s.explain(err)
	}
	return nil
}

func (s *service) awaitReady(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if answer, err := http.Get("http://" + s.address + "/readyz"); err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-tick.C:
		case <-s.ended:
			return fmt.Errorf("the service ended before it was ready (%v)", s.process.ProcessState)
		case <-ctx.Done():
			return fmt.Errorf("the service did not become ready: %w", context.Cause(ctx))
		}
	}
}

// kill kills the process as kill -9 does, and waits until it has ended.
func (s *service) kill() {
	_ = s.process.Process.Kill() // fails only if the process has already ended
	<-s.ended
}

// explain adds the end of the service's log to an error.
func (s *service) explain(err error) error {
	const lines = 15
	logged, readErr := os.ReadFile(s.log)
	if readErr != nil || len(logged) == 0 {
		return err
	}
	all := bytes.Split(bytes.TrimSpace(logged), []byte("\n"))
	last := bytes.Join(all[max(0, len(all)-lines):], []byte("\n"))
	return fmt.Errorf("%w\nThe end of the service's log:\n%s", err, last)
}
