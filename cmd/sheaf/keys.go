package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/sheafapi/sheaf/internal/auth"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/secret"
	"github.com/spf13/cobra"
)

// credentialVariable names the variable from which keys add takes the upstream's credential. If it is
// unset, the credential is read from stdin.
const credentialVariable = "SHEAF_UPSTREAM_TOKEN" //nolint:gosec // a name, not a credential

func newKeys(environ []string) *cobra.Command {
	c := &cobra.Command{
		Use:   "keys",
		Short: "Issue keys to callers, for sheaf serve --auth keys=FILE; rotate the secret key",
		Long: `Issue keys to callers, for sheaf serve --auth keys=FILE.

The file has a hash of each key, its rights and stores, and the credential that the upstream gets in
its place. Credentials are encrypted with the secret key, and callers never see them. A running
sheaf serve reads the file again on SIGHUP.`,
		Args: noCommand,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newKeysAdd(environ), newKeysList(), newKeysRevoke(), newKeysRotate())
	return c
}

// fileFlag adds the flag that names the keys file.
func fileFlag(c *cobra.Command, file *string) {
	c.Flags().StringVar(file, "file", "keys.json", "the keys file")
}

func newKeysAdd(environ []string) *cobra.Command {
	var file, sealFile, name string
	var stores, rights []string
	var expires time.Duration
	c := &cobra.Command{
		Use:   "add --name NAME --store STORE --secret-key-file FILE",
		Short: "Issue a key and print it, once",
		Long: `Issue a key and print it. The key is not stored: if it is lost, issue another one.

The credential that the upstream gets in its place is read from ` + credentialVariable + ` or stdin,
because other users could see it on the command line. The operate right gives access to the whole
service. It needs --store '*', and no credential if it is the only right.`,
		Example: `  sheaf keys add --name importer --store 12345 --secret-key-file sheaf.key <upstream-token
  sheaf keys add --name reports --store '*' --right read --secret-key-file sheaf.key <upstream-token
  sheaf keys add --name night-shift --store '*' --right operate --secret-key-file sheaf.key`,
		Args: atMost(0),
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case name == "" || len(stores) == 0 || sealFile == "":
				return usagef("--name, --store and --secret-key-file are required")
			case expires < 0:
				return usagef("--expires is %v but must be more than 0", expires)
			}
			for _, s := range stores {
				if s != "*" && !batch.ValidStoreID(s) {
					return usagef("--store is %q but must be a store id, or * for all", s)
				}
			}
			for _, r := range rights {
				if !slices.Contains(auth.Rights, r) {
					return usagef("--right is %q but must be one of %s", r, strings.Join(auth.Rights, ", "))
				}
			}
			seal, err := secret.Read(sealFile)
			if err != nil {
				return fmt.Errorf("secret key: %w", err)
			}
			var credential string
			if !slices.Equal(rights, []string{auth.Operate}) { // such a key is never used to call the upstream
				if credential, err = readCredential(environ, c.InOrStdin()); err != nil {
					return err
				}
			}
			var until *time.Time
			if expires > 0 {
				at := time.Now().Add(expires).UTC().Truncate(time.Second)
				until = &at
			}
			key, issued := auth.Issue(seal, auth.Grant{Name: name, Stores: stores, Rights: rights, Credential: credential, Expires: until})
			err = auth.ChangeIssued(file, func(keys []auth.Issued) ([]auth.Issued, error) {
				if slices.ContainsFunc(keys, func(k auth.Issued) bool { return k.Name == name }) {
					return nil, fmt.Errorf("%s already has a key named %q. Choose another name, or revoke that key first", file, name)
				}
				return append(keys, issued), nil
			})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), key)
			return err
		},
	}
	fileFlag(c, &file)
	c.Flags().StringVar(&name, "name", "", "the key's name, which must be unique")
	c.Flags().StringSliceVar(&stores, "store", nil, "stores where the key may be used, separated by commas; * for all")
	c.Flags().StringSliceVar(&rights, "right", auth.CallerRights, strings.Join(auth.Rights, ", "))
	c.Flags().DurationVar(&expires, "expires", 0, "time until the key expires; 0: never")
	c.Flags().StringVar(&sealFile, "secret-key-file", "", "the service's secret key, which encrypts the credential")
	return c
}

// readCredential reads the upstream's credential.
func readCredential(environ []string, stdin io.Reader) (string, error) {
	if v := variables(environ)[credentialVariable]; v != "" {
		return v, nil
	}
	text, err := io.ReadAll(io.LimitReader(stdin, batch.MaxToken+2))
	if err != nil {
		return "", fmt.Errorf("read the upstream's credential from stdin: %w", err)
	}
	credential := strings.TrimSpace(string(text))
	switch {
	case credential == "":
		return "", usagef("the upstream's credential is missing: set %s, or write it to stdin", credentialVariable)
	case len(credential) > batch.MaxToken || strings.ContainsFunc(credential, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
		return "", usagef("the upstream's credential must be at most %d visible ASCII characters without spaces", batch.MaxToken)
	}
	return credential, nil
}

// keyItem is a key in the output of keys list --json.
type keyItem struct {
	ID      string     `json:"id"`
	Name    string     `json:"name"`
	Stores  []string   `json:"stores"`
	Rights  []string   `json:"rights"`
	Created time.Time  `json:"created"`
	Expires *time.Time `json:"expires"`
}

func newKeysList() *cobra.Command {
	var file string
	var asJSON bool
	c := &cobra.Command{
		Use:     "list",
		Short:   "List the issued keys",
		Example: `  sheaf keys list --file /etc/sheaf/keys.json`,
		Args:    atMost(0),
		RunE: func(c *cobra.Command, _ []string) error {
			keys, err := auth.ReadIssued(file)
			if errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("there is no file %s: name another with --file, or create it with sheaf keys add", file)
			}
			if err != nil {
				return err
			}
			if asJSON {
				out := make([]keyItem, len(keys))
				for i, k := range keys {
					out[i] = keyItem{k.ID, k.Name, k.Stores, k.Rights, k.Created, k.Expires}
				}
				return writeJSON(c.OutOrStdout(), out)
			}
			w := newTable(c.OutOrStdout())
			fmt.Fprintln(w, "ID\tNAME\tSTORES\tRIGHTS\tCREATED\tEXPIRES")
			for _, k := range keys {
				expires := "never"
				if k.Expires != nil {
					expires = k.Expires.UTC().Format(time.RFC3339)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", k.ID, k.Name, strings.Join(k.Stores, ","), strings.Join(k.Rights, ","), k.Created.Format(time.RFC3339), expires)
			}
			return w.Flush()
		},
	}
	fileFlag(c, &file)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func newKeysRevoke() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "revoke NAME|ID",
		Short: "Revoke a key",
		Long: `Revoke a key. A running sheaf serve refuses it after the next SIGHUP. Batches created with it
continue with the upstream credential that was stored with them.`,
		Example: `  sheaf keys revoke partner-a && systemctl reload sheaf`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("sheaf keys revoke takes the name or the id of one key; sheaf keys list shows both")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			return auth.ChangeIssued(file, func(keys []auth.Issued) ([]auth.Issued, error) {
				left := slices.DeleteFunc(slices.Clone(keys), func(k auth.Issued) bool { return k.Name == args[0] || k.ID == args[0] })
				if len(left) == len(keys) {
					return nil, fmt.Errorf("%s has no key with the name or id %q; sheaf keys list --file %s shows them", file, args[0], file)
				}
				return left, nil
			})
		},
	}
	fileFlag(c, &file)
	return c
}
