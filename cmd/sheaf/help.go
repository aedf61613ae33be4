package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// sectionKey is the annotation that holds a flag's heading in the help.
const sectionKey = "section"

// putUnder puts the flags that have no heading yet under this one.
func putUnder(f *pflag.FlagSet, heading string) {
	f.VisitAll(func(flag *pflag.Flag) {
		if flag.Annotations == nil {
			flag.Annotations = map[string][]string{sectionKey: {heading}}
		}
	})
}

// printUsage prints the usage of a command whose flags have headings, with one line per flag.
func printUsage(c *cobra.Command) error {
	var b strings.Builder
	fmt.Fprintf(&b, "Usage:\n  %s\n\nExamples:\n%s\n", c.UseLine(), c.Example)
	heading := ""
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		section, ok := f.Annotations[sectionKey]
		if !ok {
			return
		}
		if section[0] != heading {
			heading = section[0]
			fmt.Fprintf(&b, "\n%s:\n", heading)
		}
		fmt.Fprintf(&b, "  %-29s %s", "--"+f.Name+" "+f.Value.Type(), f.Usage)
		if f.DefValue != "" && f.DefValue != "0" {
			fmt.Fprintf(&b, " (default %s)", f.DefValue)
		}
		b.WriteByte('\n')
	})
	_, err := fmt.Fprint(c.OutOrStderr(), b.String())
	return err
}
