package main

import (
	"maps"
	"slices"
	"strings"

	"github.com/spf13/pflag"
)

const prefix = "SHEAF_"

// variable returns the environment variable of a flag.
func variable(flag string) string {
	return prefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// variables returns the SHEAF_ variables that are not empty. If a name occurs twice, the last value
// counts, as in os/exec.
func variables(environ []string) map[string]string {
	found := map[string]string{}
	for _, entry := range environ {
		name, text, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, prefix) {
			continue
		}
		delete(found, name)
		if text != "" {
			found[name] = text
		}
	}
	return found
}

// unknown returns a sentence for each variable that isn't a setting, sorted.
func unknown(f *pflag.FlagSet, vars map[string]string) []string {
	var known, said []string
	f.VisitAll(func(flag *pflag.Flag) { known = append(known, variable(flag.Name)) })
	for _, name := range slices.Sorted(maps.Keys(vars)) {
		if slices.Contains(known, name) || slices.Contains(ofOthers, name) || fromKubernetes(name) {
			continue
		}
		sentence := name + " is not a setting of sheaf serve"
		if near := nearest(name, known); near != "" {
			sentence += "; did you mean " + near + "?"
		}
		said = append(said, sentence)
	}
	return said
}

// ofOthers are variables that aren't settings: those of the client commands and the one that names
// the settings file.
var ofOthers = []string{variable("config"), serverVariable, storeVariable, tokenVariable, contextVariable, contextsVariable}

// fromKubernetes reports whether Kubernetes sets this variable in every pod when a Service is named
// sheaf.
func fromKubernetes(name string) bool {
	return name == "SHEAF_PORT" || strings.HasPrefix(name, "SHEAF_PORT_") || strings.HasPrefix(name, "SHEAF_SERVICE_")
}

// nearest returns the known name that is closest to name, or "" if none is close enough for a typo.
func nearest(name string, known []string) string {
	best, least := "", 4
	for _, k := range known {
		if d := distance(name, k); d < least {
			best, least = k, d
		}
	}
	return best
}

// distance returns how many bytes must be inserted, removed or replaced to turn a into b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := corner
			if a[i] != b[j] {
				change++
			}
			corner = row[j+1]
			row[j+1] = min(change, corner+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// environment returns all variables that are not empty.
func environment(environ []string) map[string]string {
	found := map[string]string{}
	for _, entry := range environ {
		if name, text, _ := strings.Cut(entry, "="); text != "" {
			found[name] = text
		}
	}
	return found
}
