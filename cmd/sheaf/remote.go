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
	"text/tabwriter"
	"time"

	"github.com/sheafapi/sheaf"
	"github.com/sheafapi/sheaf/client"
	"github.com/spf13/cobra"
)

// The environment variables of client commands.
const (
	serverVariable  = "SHEAF_SERVER"
	storeVariable   = "SHEAF_STORE"
	tokenVariable   = "SHEAF_TOKEN"
	contextVariable = "SHEAF_CONTEXT"
)

const defaultServer = "http://127.0.0.1:8080"

// remote is the service that a client command calls, as its flags and variables name it.
type remote struct {
	server, store, tokenFile, context string

	asJSON  bool
	environ []string
}

// shape says what a client command has besides the flags that name the service.
type shape int

const (
	ofTicket shape = 1 << iota // one argument, a ticket
	hasJSON                    // the flag --json
	patient                    // waits up to an hour while the service is unreachable
)

// command completes a command that calls a service for a store.
func (r *remote) command(environ []string, has shape, c *cobra.Command, run func(context.Context, *client.Client, *cobra.Command, []string) error) *cobra.Command {
	r.flags(c, environ)
	retryFor := time.Duration(-1) // an interactive user wants to see at once why a call fails
	if has&patient != 0 {
		retryFor = time.Hour
	}
	if has&ofTicket != 0 {
		c.ValidArgsFunction = r.tickets
	}
	return withService(r, has, c, run, func() (*client.Client, error) { return r.client(retryFor) })
}

// operatorCommand completes a command that calls a service for an operator.
func (r *remote) operatorCommand(environ []string, has shape, c *cobra.Command, run func(context.Context, *client.Operator, *cobra.Command, []string) error) *cobra.Command {
	r.operatorFlags(c, environ)
	return withService(r, has, c, run, r.operator)
}

// withService adds what the shape says to a command that calls a service.
func withService[S any](r *remote, has shape, c *cobra.Command, run func(context.Context, S, *cobra.Command, []string) error, connect func() (S, error)) *cobra.Command {
	if has&ofTicket != 0 {
		c.Args = oneTicket
	}
	if has&hasJSON != 0 {
		c.Flags().BoolVar(&r.asJSON, "json", false, "print JSON")
	}
	c.RunE = interruptible(func(ctx context.Context, c *cobra.Command, args []string) error {
		service, err := connect()
		if err != nil {
			return err
		}
		return run(ctx, service, c, args)
	})
	return c
}

// flags adds the flags of commands that call a service for a store.
func (r *remote) flags(c *cobra.Command, environ []string) {
	c.Flags().StringVar(&r.store, "store", "", "the store ["+storeVariable+"]")
	r.operatorFlags(c, environ)
}

// operatorFlags adds the flags of commands for operators, which concern all stores.
func (r *remote) operatorFlags(c *cobra.Command, environ []string) {
	r.environ = environ
	c.Flags().StringVar(&r.server, "server", "", "the service's URL (default "+defaultServer+") ["+serverVariable+"]")
	c.Flags().StringVar(&r.tokenFile, "token-file", "", "a file with the token ["+tokenVariable+" is the token itself]")
	c.Flags().StringVar(&r.context, "context", "", "a context of sheaf login (default: the current one) ["+contextVariable+"]")
}

// resolve fills in what the command line leaves open. Flags win over the environment, and the
// environment over the context. A context's token is sent only to that context's server.
func (r *remote) resolve() (client.Options, error) { return r.resolveFor(true) }

// resolveFor is like resolve; store says whether the command needs a store.
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
			return o, usagef("%s is empty: it must hold the token", r.tokenFile)
		}
	case o.Token == "" && sameServer(o.Server, stored.Server):
		o.Token = stored.Token
	}
	switch {
	case o.Store == "" && store:
		return o, usagef("--store is required (or %s, or a context: sheaf login)", storeVariable)
	case o.Token == "" && stored.Token != "":
		return o, usagef("the token is missing: the context's token is for %s and is not sent to %s; set %s, or name a file with --token-file", stored.Server, o.Server, tokenVariable)
	case o.Token == "":
		return o, usagef("the token is missing: set %s, name a file with --token-file, or store it with sheaf login", tokenVariable)
	}
	return o, nil
}

// stored returns the context to use, or an empty one if there is none.
func (r *remote) stored(vars map[string]string) (storedContext, error) {
	if r.server != "" && r.store != "" && r.context == "" && (r.tokenFile != "" || vars[tokenVariable] != "") {
		return storedContext{}, nil // no context is needed, so errors in the file don't matter
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
		return found, usagef("there is no context %q; the contexts are: %s", name, strings.Join(all.names(), ", "))
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

// client returns a client of the service. retryFor is as in client.Options.
func (r *remote) client(retryFor time.Duration) (*client.Client, error) {
	o, err := r.resolve()
	if err != nil {
		return nil, err
	}
	return newClient(o, retryFor, nil)
}

// operator returns a client for operators.
func (r *remote) operator() (*client.Operator, error) {
	o, err := r.resolveFor(false)
	if err != nil {
		return nil, err
	}
	o.RetryFor, r.server = -1, o.Server
	operator, err := client.NewOperator(o)
	if err != nil {
		return nil, usageError{err}
	}
	return operator, nil
}

func newClient(o client.Options, retryFor time.Duration, onRetry func(error, time.Duration)) (*client.Client, error) {
	o.RetryFor, o.OnRetry = retryFor, onRetry
	c, err := client.New(o)
	if err != nil {
		return nil, usageError{err}
	}
	return c, nil
}

// interrupted is the error of a command that a signal ended. It says how to continue.
type interrupted struct{ hint string }

func (e *interrupted) Error() string { return "interrupted" + e.hint }

// interruptible returns a function that runs a command. The first SIGINT or SIGTERM ends its context,
// and the second one ends the process.
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

// oneTicket requires one ticket as the argument.
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

// newTable returns a writer of tab-separated columns. Flush prints them.
func newTable(w io.Writer) *tabwriter.Writer { return tabwriter.NewWriter(w, 0, 0, 2, ' ', 0) }
