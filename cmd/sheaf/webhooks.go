package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sheafapi/sheaf"
	"github.com/sheafapi/sheaf/client"
	"github.com/sheafapi/sheaf/internal/webhook"
	"github.com/spf13/cobra"
)

// tokenVariable is where commands that ask a service take the caller's token from, unless
// a file brings it.
const tokenVariable = "SHEAF_TOKEN"

func newWebhooks(environ []string) *cobra.Command {
	c := &cobra.Command{
		Use:   "webhooks",
		Short: "Make and rotate the secret that signs callbacks; list and repeat them",
		Args:  noCommand,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	var finish bool
	rotate := &cobra.Command{
		Use:   "rotate-secret FILE",
		Short: "Put a new secret before the one in FILE, so that both sign",
		Long: `Put a new secret before the one in FILE, so that both sign what is sent, from the next SIGHUP
of the services on. Give receivers the new one (the first line), and drop the older one with
--finish.`,
		Args: oneFile("sheaf webhooks rotate-secret"),
		RunE: func(_ *cobra.Command, args []string) error {
			err := webhook.RotateSecret(args[0], finish)
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("there is no file %s: sheaf webhooks new-secret makes one", args[0])
			}
			return err
		},
	}
	rotate.Flags().BoolVar(&finish, "finish", false, "drop the older secret instead")
	c.AddCommand(&cobra.Command{
		Use:   "new-secret FILE",
		Short: "Make a secret in FILE with mode 0600, for sheaf serve --webhook-secret-file FILE",
		Args:  oneFile("sheaf webhooks new-secret"),
		RunE: func(_ *cobra.Command, args []string) error {
			err := webhook.CreateSecret(args[0])
			if errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("%s exists already and is left as it is", args[0])
			}
			return err
		},
	}, rotate, newWebhooksList(environ), newWebhooksResend(environ))
	return c
}

func oneFile(command string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 || args[0] == "" {
			return usagef("%s takes the name of one file", command)
		}
		return nil
	}
}

// remote is a service that a command asks.
type remote struct{ server, store, tokenFile string }

func (r *remote) flags(c *cobra.Command) {
	c.Flags().StringVar(&r.server, "server", "http://127.0.0.1:8080", "the service's address")
	c.Flags().StringVar(&r.store, "store", "", "the store; required")
	c.Flags().StringVar(&r.tokenFile, "token-file", "", "a file that holds the token (default: the variable "+tokenVariable+")")
}

// client returns the service as the caller may use it. A call that fails is not repeated:
// whoever typed the command sees why.
func (r *remote) client(environ []string) (*client.Client, error) {
	token := variables(environ)[tokenVariable]
	if r.tokenFile != "" {
		text, err := os.ReadFile(r.tokenFile)
		if err != nil {
			return nil, err
		}
		token = strings.TrimSpace(string(text))
	}
	switch {
	case r.store == "":
		return nil, usagef("--store is required")
	case token == "":
		return nil, usagef("the token is missing: set %s, or name a file with --token-file", tokenVariable)
	}
	c, err := client.New(client.Options{Server: r.server, Store: r.store, Token: token, UserAgent: "sheaf/" + sheaf.Version, RetryFor: -1})
	if err != nil {
		return nil, usageError{err}
	}
	return c, nil
}

func newWebhooksList(environ []string) *cobra.Command {
	var r remote
	var asJSON bool
	var ticket string
	c := &cobra.Command{
		Use:   "list --store STORE",
		Short: "List the callbacks of your batches, newest first",
		Args:  atMost(0),
		RunE: func(c *cobra.Command, _ []string) error {
			service, err := r.client(environ)
			if err != nil {
				return err
			}
			found := []client.Delivery{}
			for d, err := range service.Deliveries(c.Context(), ticket) {
				if err != nil {
					return err
				}
				found = append(found, d)
			}
			if asJSON {
				out := json.NewEncoder(c.OutOrStdout())
				out.SetIndent("", "  ")
				return out.Encode(map[string]any{"items": found})
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "TICKET\tSTATUS\tATTEMPTS\tENDED\tURL\tPROBLEM")
			for _, d := range found {
				fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\n", d.Ticket, d.Status, d.Attempts, d.CreatedAt.Format(time.RFC3339), d.URL, d.LastProblem)
			}
			return w.Flush()
		},
	}
	r.flags(c)
	c.Flags().StringVar(&ticket, "ticket", "", "of one batch only")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func newWebhooksResend(environ []string) *cobra.Command {
	var r remote
	c := &cobra.Command{
		Use:   "resend TICKET --store STORE",
		Short: "Send the callback of a batch again",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("sheaf webhooks resend takes one ticket")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			service, err := r.client(environ)
			if err != nil {
				return err
			}
			return service.Redeliver(c.Context(), args[0])
		},
	}
	r.flags(c)
	return c
}
