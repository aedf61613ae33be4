package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

// healthTimeout bounds how long a health check waits.
const healthTimeout = 5 * time.Second

func newHealthcheck(environ []string) *cobra.Command {
	return &cobra.Command{
		Use:   "healthcheck [URL]",
		Short: "Check whether a service on this machine is alive",
		Long: `Ask a service whether it is alive and exit with 0 if it answers 200, else with 1. Made for containers
without a shell. Without a URL, the command asks /healthz at the address in ` + variable("metrics-listen") + `, or
else at the address in ` + variable("listen") + `.`,
		Example: "  sheaf healthcheck http://127.0.0.1:9090/readyz",
		Args:    atMost(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				return checkHealth(c.Context(), args[0])
			}
			vars := variables(environ)
			address := first(vars[variable("metrics-listen")], vars[variable("listen")], "127.0.0.1:8080")
			host, port, err := net.SplitHostPort(address)
			if err != nil {
				return usagef("%q is not a host and a port: pass a URL, such as http://127.0.0.1:9090/healthz", address)
			}
			if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
				host = "127.0.0.1"
			}
			return checkHealth(c.Context(), "http://"+net.JoinHostPort(host, port)+healthPath)
		},
	}
}

// checkHealth returns nil if a URL answers 200.
func checkHealth(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return usagef("%w", err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return fmt.Errorf("the service does not answer: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %d", url, resp.StatusCode)
	}
	return nil
}
