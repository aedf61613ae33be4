package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// usageError is a mistake in the command line or the environment, made before
// anything was started.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// run runs the command with its arguments, without the program's name, and the
// environment as os.Environ gives it. It returns the exit code.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	root := newRoot(environ)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(stderr, "sheaf: %v\n", err)
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	return exitFailed
}

func newRoot(environ []string) *cobra.Command {
	root := &cobra.Command{
		Use:   "sheaf",
		Short: "A batch endpoint in front of an HTTP API",
		Long:  "Sheaf takes batches of HTTP requests, keeps them on disk and runs them, each store's in order, against an API that has no batches of its own.",
		Args:  noCommand,

		SuggestionsMinimumDistance: 2,

		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(newServe(environ), newMigrate(environ), newSecret(), newKeys(environ), newWebhooks(environ), newVersion())
	return root
}

// flagError words what is wrong with a flag.
func flagError(c *cobra.Command, err error) error {
	if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		return usagef("--%s %w", invalid.GetFlag().Name, invalid.Unwrap())
	}
	return usagef("%w; see %s --help", err, c.CommandPath())
}

// noCommand refuses an argument where a command's name belongs.
func noCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := ""
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf(": did you mean %s?", strings.Join(near, " or "))
	}
	return usagef("there is no command %q%s; see %s --help", c.CommandPath()+" "+args[0], hint, c.CommandPath())
}

// atMost refuses more than n arguments.
func atMost(n int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) > n {
			return usagef("%s does not take the argument %q; see %s --help", c.CommandPath(), args[n], c.CommandPath())
		}
		return nil
	}
}
