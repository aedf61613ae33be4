package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strings"
	"text/tabwriter"
	"time"

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

// call makes one call and returns the body of an answer 200.
func (r *remote) call(ctx context.Context, environ []string, method, path string, query url.Values) ([]byte, error) {
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
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, method, strings.TrimSuffix(r.server, "/")+"/api/v3/"+url.PathEscape(r.store)+path+"?"+query.Encode(), nil)
	if err != nil {
		return nil, usagef("--server is %q and has to be an address such as http://127.0.0.1:8080", r.server)
	}
	q.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(q)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", r.server, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		var refusal struct{ ErrorMessage, ErrorCode string }
		if json.Unmarshal(body, &refusal) == nil && refusal.ErrorMessage != "" {
			return nil, fmt.Errorf("%s: %s", refusal.ErrorCode, refusal.ErrorMessage)
		}
		return nil, fmt.Errorf("%s answered %s", r.server, resp.Status)
	}
	return body, nil
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
			query := url.Values{}
			if ticket != "" {
				query.Set("ticket", ticket)
			}
			body, err := r.call(c.Context(), environ, http.MethodGet, "/batch/webhooks", query)
			if err != nil {
				return err
			}
			if asJSON {
				var out bytes.Buffer
				if err := json.Indent(&out, body, "", "  "); err != nil {
					return err
				}
				_, err = fmt.Fprintln(c.OutOrStdout(), out.String())
				return err
			}
			var found struct {
				Items []struct {
					Ticket, URL, Status, LastProblem string
					CreatedAt                        time.Time
					Attempts                         int
				}
			}
			if err := json.Unmarshal(body, &found); err != nil {
				return err
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "TICKET\tSTATUS\tATTEMPTS\tENDED\tURL\tPROBLEM")
			for _, d := range found.Items {
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
			_, err := r.call(c.Context(), environ, http.MethodPost, "/batch/webhooks/resend", url.Values{"ticket": {args[0]}})
			return err
		},
	}
	r.flags(c)
	return c
}
