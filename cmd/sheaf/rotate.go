package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/sheafapi/sheaf/internal/auth"
	"github.com/sheafapi/sheaf/internal/secret"
	"github.com/spf13/cobra"
)

func newKeysRotate() *cobra.Command {
	var file, step string
	c := &cobra.Command{
		Use:   "rotate-secret KEYFILE",
		Short: "Rotate the secret key that credentials are encrypted with",
		Long: `Rotate the secret key that credentials are encrypted with. Nothing stops for it, and no
batch loses its credential. KEYFILE is that of sheaf serve --secret-key-file: its first line
encrypts, and each decrypts what it has encrypted.

A service alone:
  1. sheaf keys rotate-secret KEYFILE                 restart it
  2. sheaf keys rotate-secret KEYFILE --step finish   when the batches from before 1 have
                                                      ended: restart it
Several over one database; copy KEYFILE to all of them after each step:
  1. sheaf keys rotate-secret KEYFILE --step prepare    restart all, one by one
  2. sheaf keys rotate-secret KEYFILE --step activate   restart all, one by one
  3. sheaf keys rotate-secret KEYFILE --step finish     when the batches from before 2 have
                                                        ended: restart all

A service that finds batches that need a key which is gone does not start, and says so; what
the last step drops is in KEYFILE.old until you remove it.

With --file, the credentials in that file of issued keys are encrypted with the first line
again. Give it with every step, and copy that file too.`,
		Example: `  sheaf keys rotate-secret sheaf.key --file keys.json`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("sheaf keys rotate-secret takes the name of the secret key's file")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			switch secret.Step(step) {
			case secret.Begin, secret.Prepare, secret.Activate, secret.Finish:
			default:
				return usagef("--step is %q and has to be %s, %s or %s", step, secret.Prepare, secret.Activate, secret.Finish)
			}
			if file != "" { // before the key changes: it must be readable
				if _, err := auth.ReadIssued(file); err != nil {
					return err
				}
			}
			// Before the last step, so that nothing in the file needs what is dropped.
			if file != "" && secret.Step(step) == secret.Finish {
				if err := reseal(c, file, args[0]); err != nil {
					return err
				}
			}
			key, err := secret.Rotate(args[0], secret.Step(step))
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("there is no secret key file %s: sheaf secret new makes one", args[0])
			}
			if err != nil {
				return fmt.Errorf("secret key: %w", err)
			}
			fmt.Fprintf(c.OutOrStdout(), "%s holds %d keys; %s encrypts\n", args[0], key.Count(), key.ID())
			if file != "" && secret.Step(step) != secret.Finish {
				return reseal(c, file, args[0])
			}
			return nil
		},
	}
	c.Flags().StringVar(&file, "file", "", "a file of issued keys, whose credentials are encrypted again")
	c.Flags().StringVar(&step, "step", "", "prepare, activate or finish (default: prepare and activate at once, for a service alone)")
	return c
}

// reseal encrypts the credentials in a file of issued keys with the key that encrypts now.
func reseal(c *cobra.Command, file, keyFile string) error {
	key, err := secret.Read(keyFile)
	if err != nil {
		return fmt.Errorf("secret key: %w", err)
	}
	n, err := auth.Reseal(file, key)
	if err == nil {
		fmt.Fprintf(c.OutOrStdout(), "%s: %d credentials encrypted again\n", file, n)
	}
	return err
}
