package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

// healthTimeout limits how long a health check waits.
const healthTimeout = 5 * time.Second

func newHealthcheck(environ []string) *cobra.Command {
	return &cobra.Command{
		Use:   "healthcheck [URL]",
		Short: "Check whether a service on this machine is alive",
		Long: `Call a service and exit with 0 if it answers 200, otherwise with 1. The command is for containers
without a shell. By default, it calls /healthz at the address in ` + variable("listen") + `, or at the address of
metrics= in it.`,
		Example: "  sheaf healthcheck http://127.0.0.1:9090/readyz",
		Args:    atMost(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				return checkHealth(c.Context(), args[0])
			}
			vars := variables(environ)
			if err := refuseRemoved(vars); err != nil {
				return err
			}
			s, flags := newSettings()
			if text := vars[variable("listen")]; text != "" {
				if err := flags.Set("listen", text); err != nil {
					return usagef("%s %w; or pass a URL, such as http://127.0.0.1:9090/healthz", variable("listen"), err)
				}
			}
			address := s.listen.api
			if s.listen.metrics != "" && s.listen.metrics != "off" {
				address = s.listen.metrics
			}
			return checkHealth(c.Context(), "http://"+local(address)+healthPath)
		},
	}
}

// local returns an address that reaches a listener from this machine.
func local(address string) string {
	host, port, _ := net.SplitHostPort(address)
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
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
