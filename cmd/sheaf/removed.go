package main

import (
	"maps"
	"slices"
)

// removed are flags that sheaf serve once had, and what replaces them.
var removed = map[string]string{ //nolint:gosec // names, not credentials
	"auth-check-any-store":   "use --auth check-any-store=URL",
	"upstream-allow":         "use --upstream-guard=NETWORKS",
	"tls-cert":               "use --tls cert=FILE,key=FILE",
	"tls-key":                "use --tls cert=FILE,key=FILE",
	"upstream-ca":            "use --tls upstream-ca=FILE",
	"upstream-cert":          "use --tls upstream-cert=FILE,upstream-key=FILE",
	"upstream-key":           "use --tls upstream-cert=FILE,upstream-key=FILE",
	"database-password-file": "add the parameter sheaf_password_file=FILE to --database postgres://…",
	"database-connections":   "add the parameter pool_max_conns=COUNT to --database postgres://…",
	"database-accelerators":  "add the parameter sheaf_accelerators=off to --database postgres://…",
	"webhook-hosts":          "put the hosts into --webhook-allow",
	"metrics":                "use --listen ADDRESS,metrics=off",
	"metrics-listen":         "use --listen ADDRESS,metrics=ADDRESS",
	"metrics-stores":         "a program that embeds Sheaf can set Observe.StoreClass",
	"traces-endpoint":        "set OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
	"traces-sample":          "set OTEL_TRACES_SAMPLER=traceidratio and OTEL_TRACES_SAMPLER_ARG",
	"stores-at-once":         "use --max-outbound COUNT,stores=COUNT",
	"max-stored":             "use --max-database SIZE,queue=SIZE",
	"max-body":               "the limit is now 10 MiB; to change it, embed Sheaf and set Limits.MaxBody",
	"log-level":              "use --log-format FORMAT,LEVEL",
}

// refuseRemoved returns an error if a variable is set whose flag was removed.
func refuseRemoved(vars map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(removed)) {
		if _, set := vars[variable(name)]; set {
			return usagef("%s was removed: %s", variable(name), removed[name])
		}
	}
	return nil
}
