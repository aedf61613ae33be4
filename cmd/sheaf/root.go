package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/sheafapi/sheaf/client"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The exit codes. Only client commands return those from 3 on.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitSomeFailed  = 3 // requests were FAILED or NOT_EXECUTED
	exitDenied      = 4 // the service refuses the token
	exitUnfinished  = 8
	exitInterrupted = 130
)

// exitCodes describes the exit codes in the help.
const exitCodes = `Exit codes: 0 success, 1 an error, 2 a mistake on the command line, 3 some requests failed or were
not executed, 4 access denied, 8 not finished yet, 130 interrupted.`

// endsWith is the error returned by a command that succeeded but reports its result as an exit code.
// Nothing more is printed.
type endsWith int

func (e endsWith) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// exitCode returns the exit code for an error.
func exitCode(err error) int {
	if code, ok := errors.AsType[endsWith](err); ok {
		return int(code)
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	if refused, ok := errors.AsType[*client.Error](err); ok && (refused.StatusCode == http.StatusUnauthorized || refused.StatusCode == http.StatusForbidden) {
		return exitDenied
	}
	if _, ok := errors.AsType[*interrupted](err); ok {
		return exitInterrupted
	}
	return exitFailed
}

// usageError is a mistake on the command line or in the environment. Nothing was started.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

// run runs the command and returns its exit code. args don't include the program's name. environ
// has the form of os.Environ's result.
func run(ctx context.Context, args, environ []string, stdout, stderr io.Writer) int {
	stdout, stderr = visible(stdout, false), visible(stderr, true)
	root := newRoot(environ)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	code := exitCode(err)
	if _, quiet := errors.AsType[endsWith](err); !quiet {
		fmt.Fprintf(stderr, "sheaf: %v\n", err)
	}
	return code
}

func newRoot(environ []string) *cobra.Command {
	root := &cobra.Command{
		Use:   "sheaf",
		Short: "A batch endpoint in front of an HTTP API",
		Long: `Sheaf accepts batches of HTTP requests, stores them on disk and sends them to an API that has no
batch endpoint. The batches of each store run in order.`,
		Args: noCommand,

		Version: versionText(),

		SuggestionsMinimumDistance: 2,

		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetVersionTemplate("{{.Version}}")
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(newServe(environ), newConfig(environ), newMigrate(environ), newSecret(), newKeys(environ), newWebhooks(environ), newHealthcheck(environ), newVersion(),
		newSubmit(environ), newStatus(environ), newWait(environ), newResults(environ), newTail(environ), newCancel(environ), newRetry(environ), newList(environ),
		newTop(environ), newQuarantine(environ), newLogin(environ), newLogout(environ), newContexts(environ), newManual())
	addCompletions(root, environ)
	return root
}

// flagError returns the error for an invalid flag.
func flagError(c *cobra.Command, err error) error {
	if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		return usagef("--%s %w", invalid.GetFlag().Name, invalid.Unwrap())
	}
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok && c.Flags().Lookup("database") != nil {
		if replacement, ok := removed[unknown.GetSpecifiedName()]; ok {
			return usagef("--%s was removed: %s", unknown.GetSpecifiedName(), replacement)
		}
	}
	return usagef("%w; see %s --help", err, c.CommandPath())
}

// noCommand refuses an argument in place of a command's name.
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
