package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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
		Short: "Add a new secret to FILE, so that the old and the new one both sign",
		Long: `Add a new secret to FILE, as its first line. After the next SIGHUP of the services, both secrets
sign callbacks. Give receivers the new one, then remove the old one with --finish.`,
		Example: `  sheaf webhooks rotate-secret hooks.secret
  sheaf webhooks rotate-secret hooks.secret --finish`,
		Args: oneFile("sheaf webhooks rotate-secret"),
		RunE: func(_ *cobra.Command, args []string) error {
			err := webhook.RotateSecret(args[0], finish)
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("there is no file %s; create one with: sheaf webhooks new-secret", args[0])
			}
			return err
		},
	}
	rotate.Flags().BoolVar(&finish, "finish", false, "remove the older secret instead")
	c.AddCommand(&cobra.Command{
		Use:     "new-secret FILE",
		Short:   "Create FILE with a secret, for sheaf serve --webhook-secret-file FILE",
		Example: `  sheaf webhooks new-secret hooks.secret`,
		Args:    oneFile("sheaf webhooks new-secret"),
		RunE: func(_ *cobra.Command, args []string) error {
			err := webhook.CreateSecret(args[0])
			if errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("%s already exists and was not changed", args[0])
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
		Long: `Print the secret that signs callbacks to the callbackUrl of a store's batches. It is derived from
the secret in the file, so that no store can sign for another one. During a rotation there are two,
the new one first. Callbacks to --webhook-url are signed with the secret in the file itself.`,
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
				return usagef("--%s is required: the file that sheaf serve uses", fileFlag)
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
	var ticket string
	c := r.command(environ, hasJSON, &cobra.Command{
		Use:     "list --store STORE",
		Short:   "List the callbacks of your batches, newest first",
		Example: `  sheaf webhooks list --store 1003`,
		Args:    atMost(0),
	}, func(ctx context.Context, service *client.Client, c *cobra.Command, _ []string) error {
		found := []client.Delivery{}
		for d, err := range service.Deliveries(ctx, ticket) {
			if err != nil {
				return err
			}
			found = append(found, d)
		}
		if r.asJSON {
			return writeJSON(c.OutOrStdout(), map[string]any{"items": found})
		}
		w := newTable(c.OutOrStdout())
		fmt.Fprintln(w, "TICKET\tSTATUS\tATTEMPTS\tENDED\tURL\tPROBLEM")
		for _, d := range found {
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\n", d.Ticket, d.Status, d.Attempts, d.CreatedAt.Format(time.RFC3339), d.URL, d.LastProblem)
		}
		return w.Flush()
	})
	c.Flags().StringVar(&ticket, "ticket", "", "only callbacks of this batch")
	return c
}

func newWebhooksResend(environ []string) *cobra.Command {
	var r remote
	return r.command(environ, ofTicket, &cobra.Command{
		Use:     "resend TICKET --store STORE",
		Short:   "Send the callback of a batch again",
		Example: `  sheaf webhooks resend 0b4a3f7e-3a46-4b9c-b9b0-9f1d5f0e7c11 --store 1003`,
	}, func(ctx context.Context, service *client.Client, _ *cobra.Command, args []string) error {
		return service.Redeliver(ctx, args[0])
	})
}
