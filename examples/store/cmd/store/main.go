// Command store serves the example store API, in memory, until it is interrupted.
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
	"time"

	"github.com/sheafapi/sheaf/examples/store"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "store:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var o store.Options
	listen := flag.String("listen", "127.0.0.1:9000", "`address` to listen on")
	flag.DurationVar(&o.Latency, "latency", 0, "how long a request takes to be carried out, such as 50ms")
	flag.IntVar(&o.RequestsPerSecond, "rate", 0, "how many `requests` a second one store accepts; 0: no limit")
	flag.StringVar(&o.Token, "token", "", "the only `token` that is let in; empty: any is")
	flag.Parse()

	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return fmt.Errorf("%w; choose another address with --listen", err)
	}
	fmt.Printf("The example store listens on http://%s/api/v3/{storeId}/\n", listener.Addr())
	server := &http.Server{Handler: store.New(o), ReadHeaderTimeout: 10 * time.Second}
	context.AfterFunc(ctx, func() { server.Close() })
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
