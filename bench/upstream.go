package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

const upstreamCommand = "upstream"

// upstreamAnswer is the body of every answer.
const upstreamAnswer = `{"id":1234567,"updateCount":1,"status":"created"}`

// serveUpstream is the API that both sides call. It answers every request with 201 after a pause, or
// never answers. It prints its address and ends when its parent ends.
func serveUpstream(ctx context.Context, args []string, stdout io.Writer) error {
	flags := flag.NewFlagSet(upstreamCommand, flag.ContinueOnError)
	latency := flags.Duration("latency", 0, "pause before each answer")
	size := flags.Int("answer", 0, "bytes of each answer's body (0: a short body)")
	silent := flags.Bool("silent", false, "never answer")
	if err := flags.Parse(args); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	answer := []byte(upstreamAnswer)
	if *size > 0 {
		answer = fmt.Appendf(nil, `{"text":%q}`, strings.Repeat("x", max(*size-len(`{"text":""}`), 0)))
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		if *silent {
			<-r.Context().Done()
			return
		}
		if *latency > 0 {
			time.Sleep(*latency)
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Content-Length", strconv.Itoa(len(answer)))
		w.WriteHeader(http.StatusCreated)
		w.Write(answer)
	})}
	fmt.Fprintln(stdout, listener.Addr())
	go func() {
		awaitParent(ctx)
		server.Close()
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// awaitParent returns when ctx or the parent process ends. It notices the latter because the
// parent holds the other end of stdin.
func awaitParent(ctx context.Context) {
	gone := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(gone)
	}()
	select {
	case <-gone:
	case <-ctx.Done():
	}
}
