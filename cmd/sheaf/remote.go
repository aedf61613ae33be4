package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/sheafapi/sheaf"
	"github.com/sheafapi/sheaf/client"
	"github.com/spf13/cobra"
)

// Where commands that ask a service take from what neither a flag nor a file brings.
const (
	serverVariable  = "SHEAF_SERVER"
	storeVariable   = "SHEAF_STORE"
	tokenVariable   = "SHEAF_TOKEN"
	contextVariable = "SHEAF_CONTEXT"
)

const defaultServer = "http://127.0.0.1:8080"

// remote is a service that a command asks.
type remote struct {
	server, store, tokenFile, context string

	environ []string
}

func (r *remote) flags(c *cobra.Command, environ []string) {
	r.environ = environ
	c.Flags().StringVar(&r.server, "server", "", "the service's address (default "+defaultServer+") ["+serverVariable+"]")
	c.Flags().StringVar(&r.store, "store", "", "the store ["+storeVariable+"]")
	c.Flags().StringVar(&r.tokenFile, "token-file", "", "a file that holds the token ["+tokenVariable+": the token itself]")
	c.Flags().StringVar(&r.context, "context", "", "what sheaf login has stored under this name (default: the current one) ["+contextVariable+"]")
}

// ticketFlags makes a command one that asks a service about one ticket.
func (r *remote) ticketFlags(c *cobra.Command, environ []string) {
	r.flags(c, environ)
	c.Args = oneTicket
	c.ValidArgsFunction = r.tickets
}

// resolve finds out what the command line leaves open: flags win over the environment, and
// that over the context. A context's token goes to that context's server alone.
func (r *remote) resolve() (client.Options, error) { return r.resolveFor(true) }

// resolveFor is resolve for a command that has to do with a store, or with none.
func (r *remote) resolveFor(store bool) (client.Options, error) {
	vars := variables(r.environ)
	var o client.Options
	stored, err := r.stored(vars)
	if err != nil {
		return o, err
	}
	o = client.Options{
		Server: first(r.server, vars[serverVariable], stored.Server, defaultServer),
		Store:  first(r.store, vars[storeVariable], stored.Store),
		Token:  vars[tokenVariable], UserAgent: "sheaf/" + sheaf.Version,
	}
	switch {
	case r.tokenFile != "":
		text, err := os.ReadFile(r.tokenFile)
		if err != nil {
			return o, err
		}
		if o.Token = strings.TrimSpace(string(text)); o.Token == "" {
			return o, usagef("%s is empty: it has to hold the token", r.tokenFile)
		}
	case o.Token == "" && sameServer(o.Server, stored.Server):
		o.Token = stored.Token
	}
	switch {
	case o.Store == "" && store:
		return o, usagef("--store is required (or %s, or a context: sheaf login)", storeVariable)
	case o.Token == "" && stored.Token != "":
		return o, usagef("the token is missing: the context's is for %s, and does not go to %s; set %s, or name a file with --token-file", stored.Server, o.Server, tokenVariable)
	case o.Token == "":
		return o, usagef("the token is missing: set %s, name a file with --token-file, or store it with sheaf login", tokenVariable)
	}
	return o, nil
}

// stored returns the context that is to be used; an empty one, if there is none.
func (r *remote) stored(vars map[string]string) (storedContext, error) {
	if r.server != "" && r.store != "" && r.context == "" && (r.tokenFile != "" || vars[tokenVariable] != "") {
		return storedContext{}, nil // not needed, so it can't be in the way
	}
	all, err := readContexts(vars)
	if err != nil {
		return storedContext{}, err
	}
	name := first(r.context, vars[contextVariable])
	if name == "" {
		return all.Contexts[all.Current], nil
	}
	found, ok := all.Contexts[name]
	if !ok {
		return found, usagef("there is no context %q; there are: %s", name, strings.Join(all.names(), ", "))
	}
	return found, nil
}

func sameServer(a, b string) bool {
	return strings.TrimRight(a, "/") == strings.TrimRight(b, "/")
}

// first returns the first text that is not empty.
func first(texts ...string) string {
	for _, text := range texts {
		if text != "" {
			return text
		}
	}
	return ""
}

// client returns the service as the caller may use it. retryFor is as in client.Options:
// negative where whoever typed the command had better see at once why it fails.
func (r *remote) client(retryFor time.Duration) (*client.Client, error) {
	o, err := r.resolve()
	if err != nil {
		return nil, err
	}
	return newClient(o, retryFor, nil)
}

func newClient(o client.Options, retryFor time.Duration, onRetry func(error, time.Duration)) (*client.Client, error) {
	o.RetryFor, o.OnRetry = retryFor, onRetry
	c, err := client.New(o)
	if err != nil {
		return nil, usageError{err}
	}
	return c, nil
}

// interrupted says that a signal ended a command, and how to go on.
type interrupted struct{ hint string }

func (e *interrupted) Error() string { return "interrupted" + e.hint }

// interruptible returns what runs a command whose context ends at the first SIGINT or
// SIGTERM; the second one ends the process.
func interruptible(run func(ctx context.Context, c *cobra.Command, args []string) error) func(c *cobra.Command, args []string) error {
	return func(c *cobra.Command, args []string) error {
		ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		context.AfterFunc(ctx, stop)
		err := run(ctx, c, args)
		if _, said := errors.AsType[*interrupted](err); err != nil && ctx.Err() != nil && !said {
			return &interrupted{}
		}
		return err
	}
}

// oneTicket wants one ticket as the argument.
func oneTicket(c *cobra.Command, args []string) error {
	if len(args) != 1 || args[0] == "" {
		return usagef("%s takes one ticket; see %s --help", c.CommandPath(), c.CommandPath())
	}
	return nil
}

func writeJSON(w io.Writer, value any) error {
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	out.SetIndent("", "  ")
	return out.Encode(value)
}

// plural returns "1 batch" or "2 batches", with commas in large numbers.
func plural(n int, one, more string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%s %s", commas(n), more)
}
