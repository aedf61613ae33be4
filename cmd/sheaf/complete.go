package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"
)

// completionTimeout limits how long a shell waits for completions.
const completionTimeout = 2 * time.Second

// flagWords are the words that flags accept, by command and flag.
var flagWords = map[string]map[string][]string{
	"submit":        {"format": {"ndjson", "json", "csv"}, "results-format": {"ndjson", "csv"}},
	"results":       {"only": {"failed", "not-executed", "completed"}},
	"list":          {"status": {"queued", "in-progress", "completed"}},
	"rotate-secret": {"step": {"prepare", "activate", "finish"}},
	"serve":         {"log-format": {"text", "json"}, "passthrough": {"on", "off"}, "ui": {"on", "off"}, "migrate": {"on", "off"}, "upstream-guard": {"on", "off"}, "in-doubt": {"fail", "retry"}},
}

// addCompletions registers completions for the flags of a command and its subcommands.
func addCompletions(c *cobra.Command, environ []string) {
	for _, sub := range c.Commands() {
		addCompletions(sub, environ)
	}
	register := func(flag string, f cobra.CompletionFunc) {
		if c.Flags().Lookup(flag) != nil { // several commands share a name, and not all of them have the flag
			_ = c.RegisterFlagCompletionFunc(flag, f) // fails only without the flag, or if it is registered twice
		}
	}
	for flag, values := range flagWords[c.Name()] {
		register(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
	register("context", contextNames(environ))
}

// contextNames completes the names of contexts.
func contextNames(environ []string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		all, err := readContexts(variables(environ))
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return all.names(), cobra.ShellCompDirectiveNoFileComp
	}
}

// tickets completes the tickets of the newest batches, if the service answers in time.
func (r *remote) tickets(c *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	const none, limit = cobra.ShellCompDirectiveNoFileComp, 20
	service, err := r.client(-1)
	if err != nil || len(args) > 0 {
		return nil, none
	}
	ctx, cancel := context.WithTimeout(c.Context(), completionTimeout)
	defer cancel()
	var found []cobra.Completion
	for b, err := range service.List(ctx, "") {
		if err != nil || len(found) == limit {
			break
		}
		found = append(found, cobra.CompletionWithDesc(b.Ticket, fmt.Sprint(b.Status)))
	}
	return found, none | cobra.ShellCompDirectiveKeepOrder
}
