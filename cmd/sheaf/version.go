package main

import (
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/sheafapi/sheaf"
	"github.com/spf13/cobra"
)

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version, the commit, the Go version and the platform",
		Args:  atMost(0),
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := io.WriteString(c.OutOrStdout(), versionText())
			return err
		},
	}
}

// versionText is the output of sheaf version and sheaf --version.
func versionText() string {
	info, _ := debug.ReadBuildInfo()
	return fmt.Sprintf("sheaf %s\ncommit %s\n%s %s/%s\n", version(info), commit(info), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// version returns the version that was set at link time, or else the module's version, which
// `go install …@v1.2.3` writes into the build information. info may be nil.
func version(info *debug.BuildInfo) string {
	if sheaf.Version != "dev" || info == nil || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return sheaf.Version
	}
	return info.Main.Version
}

// commit returns the commit that was built, and marks it if the tree had uncommitted changes. info may be nil.
func commit(info *debug.BuildInfo) string {
	revision, mark := "unknown", ""
	if info == nil {
		return revision
	}
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			mark = " (modified)"
		}
	}
	return revision + mark
}
