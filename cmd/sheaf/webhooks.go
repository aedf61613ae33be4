package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"text/tabwriter"
	"time"

	"github.com/sheafapi/sheaf/client"
	"github.com/sheafapi/sheaf/internal/webhook"
	"github.com/spf13/cobra"
)

func newWebhooks(environ []string) *cobra.Command {
	c := &cobra.Command{
		Use:   "webhooks",
		Short: "Manage callbacks and the secrets that sign them",
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
		Example: `  sheaf webhooks rotate-secret hooks.secret
  sheaf webhooks rotate-secret hooks.secret --finish`,
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
		Use:     "new-secret FILE",
		Short:   "Make a secret in FILE with mode 0600, for sheaf serve --webhook-secret-file FILE",
		Example: `  sheaf webhooks new-secret hooks.secret`,
		Args:    oneFile("sheaf webhooks new-secret"),
		RunE: func(_ *cobra.Command, args []string) error {
			err := webhook.CreateSecret(args[0])
			if errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("%s exists already and is left as it is", args[0])
			}
			return err
		},
	}, rotate, newWebhooksSecret(environ), newWebhooksList(environ), newWebhooksResend(environ))
	return c
}

func newWebhooksSecret(environ []string) *cobra.Command {
	const fileFlag = "webhook-secret-file"
	var file, store string
	c := &cobra.Command{
		Use:   "secret --store STORE",
		Short: "Print the secret that signs the callbacks of one store",
		Long: `Print the secret that signs what is sent to the callbackUrl of a store's batches. It is derived
from the secret in the file, so that no store can sign for another one. During a rotation
there are two, the new one first. What is sent to --webhook-url is signed with the file's
own secret instead.`,
		Example: `  sheaf webhooks secret --store 1003 --webhook-secret-file hooks.secret`,
		Args:    atMost(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				file = args[0]
			}
			switch {
			case store == "":
				return usagef("--store is required")
			case file == "":
				return usagef("--%s is required: the file that sheaf serve is started with", fileFlag)
			}
			signer, err := webhook.ReadSecrets(file)
			if err != nil {
				return err
			}
			for _, secret := range signer.StoreSecrets(store) {
				fmt.Fprintln(c.OutOrStdout(), secret)
			}
			return nil
		},
	}
	c.Flags().StringVar(&store, "store", "", "the store")
	c.Flags().StringVar(&file, fileFlag, variables(environ)[variable(fileFlag)], "the secret file of sheaf serve")
	c.Flags().Lookup(fileFlag).DefValue = ""
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

func newWebhooksList(environ []string) *cobra.Command {
	var r remote
	var asJSON bool
	var ticket string
	c := &cobra.Command{
		Use:     "list --store STORE",
		Short:   "List the callbacks of your batches, newest first",
		Example: `  sheaf webhooks list --store 1003`,
		Args:    atMost(0),
		RunE: interruptible(func(ctx context.Context, c *cobra.Command, _ []string) error {
			service, err := r.client(-1)
			if err != nil {
				return err
			}
			found := []client.Delivery{}
			for d, err := range service.Deliveries(ctx, ticket) {
				if err != nil {
					return err
				}
				found = append(found, d)
			}
			if asJSON {
				return writeJSON(c.OutOrStdout(), map[string]any{"items": found})
			}
			w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "TICKET\tSTATUS\tATTEMPTS\tENDED\tURL\tPROBLEM")
			for _, d := range found {
				fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\n", d.Ticket, d.Status, d.Attempts, d.CreatedAt.Format(time.RFC3339), d.URL, d.LastProblem)
			}
			return w.Flush()
		}),
	}
	r.flags(c, environ)
	c.Flags().StringVar(&ticket, "ticket", "", "of one batch only")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func newWebhooksResend(environ []string) *cobra.Command {
	var r remote
	c := &cobra.Command{
		Use:     "resend TICKET --store STORE",
		Short:   "Send the callback of a batch again",
		Example: `  sheaf webhooks resend 0b4a3f7e-3a46-4b9c-b9b0-9f1d5f0e7c11 --store 1003`,
		RunE: interruptible(func(ctx context.Context, _ *cobra.Command, args []string) error {
			service, err := r.client(-1)
			if err != nil {
				return err
			}
			return service.Redeliver(ctx, args[0])
		}),
	}
	r.ticketFlags(c, environ)
	return c
}
