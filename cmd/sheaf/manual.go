package main

import (
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// newManual returns the command that writes the manual pages for packages.
func newManual() *cobra.Command {
	return &cobra.Command{
		Use:    "manual FOLDER",
		Short:  "Write the manual pages, a file for each command",
		Hidden: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("sheaf manual takes the name of a folder")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			if _, err := os.Stat(args[0]); err != nil {
				return err
			}
			date := time.Unix(0, 0).UTC() // so that each version always has the same pages
			return doc.GenManTree(c.Root(), &doc.GenManHeader{Title: "SHEAF", Section: "1", Source: "Sheaf", Manual: "Sheaf", Date: &date}, args[0])
		},
	}
}
