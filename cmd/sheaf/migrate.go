package main

import (
	"fmt"

	"github.com/sheafapi/sheaf"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func newMigrate(environ []string) *cobra.Command {
	var database, password string
	var asJSON bool
	flags := pflag.NewFlagSet("migrate", pflag.ContinueOnError)
	addDatabase(flags, &database, &password)
	c := &cobra.Command{
		Use:   "migrate --database postgres://USER:PASSWORD@HOST:PORT/NAME",
		Short: "Bring a PostgreSQL database's schema up to date",
		Long: `Bring a PostgreSQL database's schema up to date and end.

sheaf serve does this at its start, one node at a time. With --migrate=off it doesn't:
then run this command before the first node of a new version starts. Nodes that run
are not disturbed. Steps can't be undone. The version before works with the newer
schema.

Give a password by --database-password-file, or the whole address by SHEAF_DATABASE: on the
command line, every user of this machine can see it.`,
		Example: `  SHEAF_DATABASE=postgres://sheaf@db.internal/sheaf sheaf migrate`,
		Args:    atMost(0),
		RunE: func(c *cobra.Command, _ []string) error {
			if _, err := configure(flags, variables(environ), ""); err != nil {
				return err
			}
			database, err := withPassword(database, password)
			if err != nil {
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
