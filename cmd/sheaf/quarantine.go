package main

import (
	"context"
	"fmt"
	"time"

	"github.com/sheafapi/sheaf/client"
	"github.com/spf13/cobra"
)

func newQuarantine(environ []string) *cobra.Command {
	c := &cobra.Command{
		Use:   "quarantine",
		Short: "List, release and end quarantined batches",
		Long: `List, release and end quarantined batches. A batch is quarantined if it can't be run: its stored
data can't be read, the database refuses its results, or the nodes that ran it died. Other batches
of its store continue to run.

The token must be a key with the operate right: sheaf keys add --store '*' --right operate.`,
		Args: noCommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newQuarantineList(environ),
		newUnquarantine(environ, "release", "Resume a quarantined batch", (*client.Operator).ReleaseQuarantined,
			`Resume a quarantined batch once the cause is fixed. If the batch still can't be run, it is
quarantined again.`),
		newUnquarantine(environ, "end", "End a quarantined batch", (*client.Operator).EndQuarantined,
			`End a quarantined batch. Recorded results are kept. A request that was in flight is FAILED with a
message that its outcome is unknown. Requests that were never sent are NOT_EXECUTED.`))
	return c
}

func newQuarantineList(environ []string) *cobra.Command {
	var r remote
	return r.operatorCommand(environ, hasJSON, &cobra.Command{
		Use:     "list",
		Short:   "List quarantined batches, oldest first",
		Example: `  sheaf quarantine list --server https://batch.example.com --token-file operator.key`,
		Args:    atMost(0),
	}, func(ctx context.Context, operator *client.Operator, c *cobra.Command, _ []string) error {
		found, err := operator.Quarantine(ctx)
		if err != nil {
			return err
		}
		if r.asJSON {
			return writeJSON(c.OutOrStdout(), map[string]any{"batches": append([]client.Quarantined{}, found...)})
		}
		w := newTable(c.OutOrStdout())
		fmt.Fprintln(w, "TICKET\tSTORE\tQUARANTINED\tREASON")
		for _, b := range found {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", b.Ticket, b.Store, b.QuarantinedAt.Format(time.RFC3339), b.Reason)
		}
		return w.Flush()
	})
}

func newUnquarantine(environ []string, verb, short string, do func(*client.Operator, context.Context, string) error, long string) *cobra.Command {
	var r remote
	return r.operatorCommand(environ, ofTicket, &cobra.Command{
		Use:     verb + " TICKET",
		Short:   short,
		Long:    long + "\n\n" + exitCodes,
		Example: "  sheaf quarantine " + verb + " 0b4a3f7e-3a46-4b9c-b9b0-9f1d5f0e7c11 --token-file operator.key",
	}, func(ctx context.Context, operator *client.Operator, _ *cobra.Command, args []string) error {
		return do(operator, ctx, args[0])
	})
}
