package main

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/sheafapi/sheaf/internal/secret"
	"github.com/spf13/cobra"
)

func newSecret() *cobra.Command {
	c := &cobra.Command{
		Use:   "secret",
		Short: "Create the key that credentials are encrypted with",
		Args:  noCommand,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(&cobra.Command{
		Use:   "new [FILE]",
		Short: "Create a secret key and print it, or write it to FILE with mode 0600",
		Long: `Create a secret key: 32 random bytes in base64 on one line.

Without FILE, the key is printed. With FILE, it is written there with mode 0600; an existing file is
not changed. Pass the file to sheaf serve with --secret-key-file.`,
		Example: `  sheaf secret new sheaf.key`,
		Args:    atMost(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				_, err := fmt.Fprintln(c.OutOrStdout(), secret.New().Encode())
				return err
			}
			return createKey(args[0])
		},
	})
	return c
}

// createKey creates a key file. It never replaces one, because what the old key encrypted could no
// longer be read.
func createKey(file string) error {
	if file == "" {
		return usagef("the name of FILE is empty: name a file, or omit FILE to print the key")
	}
	_, err := secret.Create(file)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s already exists and was not changed. Choose another name, or remove the file if no database needs that key", file)
	}
	return err
}
