// Command embedded is an API with a batch endpoint in the same process. Requests of batches go to the
// program's own http.ServeMux, without a socket. Batches survive crashes of the process.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/sheafapi/sheaf"
	"github.com/sheafapi/sheaf/examples/store"
	"golang.org/x/sync/errgroup"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "`address` to listen on")
	database := flag.String("database", "sqlite:embedded.db", "`URL` of the database for batches")
	latency := flag.Duration("latency", 0, "how long each request takes, such as 50ms")
	flag.Parse()
	if err := run(*listen, *database, *latency); err != nil {
		fmt.Fprintln(os.Stderr, "embedded:", err)
		os.Exit(1)
	}
}

func run(listen, database string, latency time.Duration) (err error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	// The API can be any http.Handler. This one is an example store in memory.
	mux := http.NewServeMux()
	mux.Handle("/api/v3/{storeId}/", store.New(store.Options{Latency: latency}))

	// The batch endpoint sends the requests of batches to the same mux.
	service, err := sheaf.New(sheaf.Options{
		Upstream: sheaf.Upstream{
			URL:     "http://in-process/api/v3/{storeId}", // only the path matters
			Handler: mux,
		},
		Database: sheaf.Database{URL: database},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, service.Close()) }()
	mux.Handle("/api/v3/{storeId}/batch", service)
	mux.Handle("/api/v3/{storeId}/batch/", service)
	mux.Handle("/readyz", service)

	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("%w; choose another address with --listen", err)
	}
	fmt.Printf("The API listens on http://%s/api/v3/{storeId}/ and accepts batches at …/batch\n", listener.Addr())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}

	// When ctx ends, shut both down. Requests in flight finish, and their results are recorded.
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() error { return service.Run(ctx) })
	all.Go(func() error {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	all.Go(func() error {
		<-ctx.Done()
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		return server.Shutdown(limit)
	})
	return all.Wait()
}
