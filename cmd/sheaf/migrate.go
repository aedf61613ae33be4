package main

import (
	"fmt"

	"github.com/sheafapi/sheaf"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newMigrate(environ []string) *cobra.Command {
	var database string
	var asJSON bool
	flags := pflag.NewFlagSet("migrate", pflag.ContinueOnError)
	addDatabase(flags, &database)
	c := &cobra.Command{
		Use:   "migrate --database postgres://USER@HOST:PORT/NAME",
		Short: "Bring a PostgreSQL database's schema up to date",
		Long: `Bring a PostgreSQL database's schema up to date.

sheaf serve does this when it starts. With --migrate=off, it doesn't; run this command before you
start the first node of a new version. Running nodes are not disturbed. Migrations can't be undone,
but the previous version works with the new schema.

Every user of this machine can see a command line. So either keep the password in a file that the
URL names (postgres://USER@HOST/NAME?sheaf_password_file=FILE), or set the URL in SHEAF_DATABASE.`,
		Example: `  SHEAF_DATABASE=postgres://sheaf@db.internal/sheaf sheaf migrate`,
		Args:    atMost(0),
		RunE: func(c *cobra.Command, _ []string) error {
			if _, err := configure(flags, variables(environ), ""); err != nil {
				return err
			}
			version, err := sheaf.Migrate(c.Context(), database)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(c.OutOrStdout(), map[string]any{"database": sheaf.DatabaseName(database), "version": version})
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "the schema of %s is up to date: version %d\n", sheaf.DatabaseName(database), version)
			return err
		},
	}
	c.Flags().AddFlagSet(flags)
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}
