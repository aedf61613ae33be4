package pgtest

import (
	"cmp"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
)

// oldest is the first version that the service supports.
const oldest = 14

// programs are the PostgreSQL programs of one version.
type programs struct {
	initdb, postgres string
	version          int
}

// folders are where packages install the programs without adding them to PATH.
var folders = []string{
	"/usr/lib/postgresql/*/bin",          // Debian
	"/usr/pgsql-*/bin",                   // PostgreSQL's own RPMs
	"/opt/homebrew/opt/postgresql*/bin",  // Homebrew
	"/usr/local/opt/postgresql*/bin",     // Homebrew on Intel
	"/usr/libexec/postgresql*",           // Alpine
	"/Applications/Postgres.app/*/*/bin", // Postgres.app
}

// find returns the programs in PATH, or the newest ones in other folders.
func find(ctx context.Context) (programs, error) {
	if file, err := exec.LookPath("postgres"); err == nil {
		if p, ok := inFolder(ctx, filepath.Dir(file)); ok {
			return p, nil
		}
	}
	var all []programs
	for _, pattern := range folders {
		found, _ := filepath.Glob(pattern) // the patterns are well formed
		for _, folder := range found {
			if p, ok := inFolder(ctx, folder); ok {
				all = append(all, p)
			}
		}
	}
	if len(all) == 0 {
		return programs{}, fmt.Errorf("these tests need PostgreSQL %d or newer, and neither PATH nor the usual folders have its programs:"+
			" install it (Debian: apt-get install postgresql; Fedora: postgresql-server; macOS: brew install postgresql),"+
			" or set %s to the URL of a server whose user may create databases", oldest, Environment)
	}
	return slices.MaxFunc(all, func(a, b programs) int { return cmp.Compare(a.version, b.version) }), nil
}

var versionNumber = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// inFolder returns the programs in a folder. It reports false if they are missing or too old.
func inFolder(ctx context.Context, folder string) (programs, bool) {
	p := programs{initdb: filepath.Join(folder, "initdb"), postgres: filepath.Join(folder, "postgres")}
	if _, err := exec.LookPath(p.initdb); err != nil {
		return p, false
	}
	out, err := exec.CommandContext(ctx, p.postgres, "--version").Output() //nolint:gosec // one of the folders above, or of PATH
	if err != nil {
		return p, false
	}
	if m := versionNumber.FindSubmatch(out); m != nil {
		p.version, _ = strconv.Atoi(string(m[1])) // digits
	}
	return p, p.version >= oldest
}
