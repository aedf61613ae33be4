// Command demo shows what Sheaf does, on this machine and in a few seconds. It builds the service and
// starts it in front of the example store. It sends a batch of about sixty requests, some of which fail
// on purpose, and a batch of requests that need each other's answers. Then it kills the service in the
// middle of a third batch, restarts it, and compares the service's results with what arrived at the store.
//
// It exits with 0 if all results are as expected, and leaves no files behind.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sheafapi/sheaf/client"
	"github.com/sheafapi/sheaf/examples/store"
)

const (
	token   = "demo"
	limit   = time.Minute           // for everything after the build
	latency = 50 * time.Millisecond // of the store, slow enough to watch
)

func main() { os.Exit(demo()) }

// demo runs the demo and returns the exit code.
func demo() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	err := run(ctx, newScreen(os.Stdout))
	switch {
	case ctx.Err() != nil:
		fmt.Fprintln(os.Stderr, "\ndemo: interrupted; all processes were stopped and all files removed")
	case err != nil:
		fmt.Fprintln(os.Stderr, "\ndemo:", err)
	default:
		return 0
	}
	return 1
}

// run prepares a temporary directory, plays the acts, and cleans up.
func run(ctx context.Context, s *screen) (err error) {
	dir, err := os.MkdirTemp("", "sheaf-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	s.say("Building the service …")
	binary := filepath.Join(dir, "sheaf")
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/sheafapi/sheaf/cmd/sheaf").CombinedOutput(); err != nil {
		return fmt.Errorf("build the service: %w\n%s", err, out)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the demo took longer than %v", limit))
	defer cancel()

	upstream, err := serveStore(ctx)
	if err != nil {
		return fmt.Errorf("start the example store: %w", err)
	}
	address, err := freeAddress()
	if err != nil {
		return fmt.Errorf("find a free port: %w", err)
	}
	sheaf := &service{
		binary: binary, address: address, upstream: upstream + "/api/v3/{storeId}",
		database: filepath.Join(dir, "sheaf.db"), log: filepath.Join(dir, "sheaf.log"), secret: filepath.Join(dir, "hooks.secret"),
	}
	if out, err := exec.CommandContext(ctx, binary, "webhooks", "new-secret", sheaf.secret).CombinedOutput(); err != nil {
		return fmt.Errorf("create a webhook secret: %w\n%s", err, out)
	}
	if err := sheaf.start(ctx); err != nil {
		return err
	}
	defer sheaf.kill()
	s.say("The example store listens on %s, and Sheaf, in front of it, on http://%s.", upstream, address)

	if err := play(ctx, s, sheaf, upstream); err != nil {
		return sheaf.explain(err)
	}
	s.next()
	return nil
}

// play plays the acts, each in its own store.
func play(ctx context.Context, s *screen, sheaf *service, upstream string) error {
	c := map[string]*client.Client{}
	for _, store := range []string{"catalog", "linked", "crash"} {
		var err error
		if c[store], err = client.New(client.Options{Server: "http://" + sheaf.address, Store: store, Token: token}); err != nil {
			return err
		}
	}
	if err := catalog(ctx, s, c["catalog"]); err != nil {
		return err
	}
	secret, err := exec.CommandContext(ctx, sheaf.binary, "webhooks", "secret", "--store", "linked", sheaf.secret).Output()
	if err != nil {
		return fmt.Errorf("read the store's webhook secret: %w", err)
	}
	if err := linked(ctx, s, c["linked"], strings.TrimSpace(string(secret))); err != nil {
		return err
	}
	return crash(ctx, s, c["crash"], sheaf, upstream+"/api/v3/crash")
}

// serveStore serves the example store until ctx ends, and returns its address.
func serveStore(ctx context.Context) (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: store.New(store.Options{Latency: latency}), ReadHeaderTimeout: limit}
	go func() { _ = server.Serve(listener) }() // ends when the server is closed
	context.AfterFunc(ctx, func() { server.Close() })
	return "http://" + listener.Addr().String(), nil
}

// freeAddress returns a loopback address with a free port.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}
