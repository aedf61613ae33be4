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
		Long: `Rotate the secret key that credentials are encrypted with. The service keeps running, and no batch
loses its credential. KEYFILE is the file of sheaf serve --secret-key-file. The key in its first
line encrypts; every key in it decrypts what it has encrypted.

One service:
  1. sheaf keys rotate-secret KEYFILE                 then restart it
  2. sheaf keys rotate-secret KEYFILE --step finish   once all batches from before step 1 have
                                                      ended; then restart it
Several services with one database. After each step, copy KEYFILE to all of them:
  1. sheaf keys rotate-secret KEYFILE --step prepare    then restart all, one by one
  2. sheaf keys rotate-secret KEYFILE --step activate   then restart all, one by one
  3. sheaf keys rotate-secret KEYFILE --step finish     once all batches from before step 2 have
                                                        ended; then restart all

A service doesn't start if batches need a key that KEYFILE no longer has. The last step moves the
old key to KEYFILE.old. Remove that file when you don't need it.

With --file, the credentials of the issued keys in that file are encrypted again with the first key.
Use it with every step, and copy that file too.`,
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
				return usagef("--step is %q but must be %s, %s or %s", step, secret.Prepare, secret.Activate, secret.Finish)
			}
			if file != "" { // report an unreadable file before the key changes
				if _, err := auth.ReadIssued(file); err != nil {
					return err
				}
			}
			// This comes before the last step, so that nothing in the file needs the old key any more.
			if file != "" && secret.Step(step) == secret.Finish {
				if err := reseal(c, file, args[0]); err != nil {
					return err
				}
			}
			key, err := secret.Rotate(args[0], secret.Step(step))
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("there is no secret key file %s; create one with: sheaf secret new", args[0])
			}
			if err != nil {
				return fmt.Errorf("secret key: %w", err)
			}
			fmt.Fprintf(c.OutOrStdout(), "%s has %d keys; new credentials are encrypted with %s\n", args[0], key.Count(), key.ID())
			if file != "" && secret.Step(step) != secret.Finish {
				return reseal(c, file, args[0])
			}
			return nil
		},
	}
	c.Flags().StringVar(&file, "file", "", "keys file whose credentials to encrypt again")
	c.Flags().StringVar(&step, "step", "", "prepare, activate or finish (default: prepare and activate)")
	return c
}

// reseal encrypts the credentials in a keys file with the current key.
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
