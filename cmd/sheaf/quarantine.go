package main

import (
	"context"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/sheafapi/sheaf/client"
	"github.com/spf13/cobra"
)

func newQuarantine(environ []string) *cobra.Command {
	c := &cobra.Command{
		Use:   "quarantine",
		Short: "List, release and end batches that were set aside",
		Long: `List, release and end batches that were set aside because they can't be run: what is stored of
them can't be read, the database does not take their results, or the nodes that ran them died.
The other batches of their stores run meanwhile.

The token has to be a key with the right to operate: sheaf keys add --store '*' --right operate.`,
		Args: noCommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newQuarantineList(environ),
		newUnquarantine(environ, "release", "Run a batch again that was set aside", (*client.Operator).ReleaseQuarantined,
			`Run a batch again that was set aside, from where it stood, once its cause is gone. If it still
can't be run, it is set aside again.`),
		newUnquarantine(environ, "end", "End a batch that was set aside", (*client.Operator).EndQuarantined,
			`End a batch that was set aside. What was recorded stays. A request that was in flight is FAILED
with a message that its outcome is unknown; what was never sent is NOT_EXECUTED.`))
	return c
}

// operatorFlags are the flags of commands for operators.
func (r *remote) operatorFlags(c *cobra.Command, environ []string) {
	r.environ = environ
	c.Flags().StringVar(&r.server, "server", "", "the service's address (default "+defaultServer+") ["+serverVariable+"]")
	c.Flags().StringVar(&r.tokenFile, "token-file", "", "a file that holds the token ["+tokenVariable+": the token itself]")
	c.Flags().StringVar(&r.context, "context", "", "what sheaf login has stored under this name (default: the current one) ["+contextVariable+"]")
}

// operator returns a client for operators.
func (r *remote) operator() (*client.Operator, error) {
	o, err := r.resolveFor(false)
	if err != nil {
		return nil, err
	}
	o.RetryFor, r.server = -1, o.Server
	operator, err := client.NewOperator(o)
	if err != nil {
		return nil, usageError{err}
	}
	return operator, nil
}

func newQuarantineList(environ []string) *cobra.Command {
	var r remote
	var asJSON bool
	c := &cobra.Command{
		Use:     "list",
		Short:   "List the batches that were set aside, oldest first",
		Example: `  sheaf quarantine list --server https://batch.example.com --token-file operator.key`,
		Args:    atMost(0),
		RunE: interruptible(func(ctx context.Context, c *cobra.Command, _ []string) error {
			operator, err := r.operator()
			if err != nil {
				return err
			}
			found, err := operator.Quarantine(ctx)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(c.OutOrStdout(), map[string]any{"batches": append([]client.Quarantined{}, found...)})
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "TICKET\tSTORE\tSET ASIDE\tREASON")
			for _, b := range found {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", b.Ticket, b.Store, b.QuarantinedAt.Format(time.RFC3339), b.Reason)
			}
			return w.Flush()
		}),
	}
	r.operatorFlags(c, environ)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func newUnquarantine(environ []string, verb, short string, do func(*client.Operator, context.Context, string) error, long string) *cobra.Command {
	var r remote
	c := &cobra.Command{
		Use:     verb + " TICKET",
		Short:   short,
		Long:    long + "\n\n" + exitCodes,
		Example: "  sheaf quarantine " + verb + " 0b4a3f7e-3a46-4b9c-b9b0-9f1d5f0e7c11 --token-file operator.key",
		RunE: interruptible(func(ctx context.Context, c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("%s takes one ticket; see %s --help", c.CommandPath(), c.CommandPath())
			}
			operator, err := r.operator()
			if err != nil {
				return err
			}
			return do(operator, ctx, args[0])
		}),
	}
	r.operatorFlags(c, environ)
	return c
}
