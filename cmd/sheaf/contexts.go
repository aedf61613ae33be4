package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sheafapi/sheaf/client"
	"github.com/sheafapi/sheaf/internal/private"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// contextsVariable names the contexts file.
const contextsVariable = "SHEAF_CONTEXTS"

// storedContext is a service, a store and the token for it.
type storedContext struct {
	Server string `json:"server"`
	Store  string `json:"store"`
	Token  string `json:"token"`
}

// contexts is the content of the contexts file, which sheaf login writes.
type contexts struct {
	Current  string                   `json:"current"`
	Contexts map[string]storedContext `json:"contexts"`

	file string
}

func (c *contexts) names() []string { return slices.Sorted(maps.Keys(c.Contexts)) }

// maxContexts is the maximum size of the file in bytes.
const maxContexts = 1 << 20

// readContexts reads the contexts file. If it is missing, there are no contexts.
func readContexts(vars map[string]string) (*contexts, error) {
	all := &contexts{file: vars[contextsVariable], Contexts: map[string]storedContext{}}
	if all.file == "" {
		dir, err := os.UserConfigDir()
		if err != nil { // without a home directory there are no contexts
			return all, nil //nolint:nilerr // commands that need a token say so
		}
		all.file = filepath.Join(dir, "sheaf", "contexts.json")
	}
	text, err := private.Read(all.file, maxContexts)
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(text, all); err != nil {
		return nil, fmt.Errorf("%s is not a valid contexts file (%w): delete it and use sheaf login", all.file, err)
	}
	if all.Contexts == nil {
		all.Contexts = map[string]storedContext{}
	}
	return all, nil
}

func (c *contexts) write() error {
	if c.file == "" {
		return usagef("contexts can't be stored: set HOME, or set %s to the name of a file", contextsVariable)
	}
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(c.file), 0o700); err != nil {
		return err
	}
	return private.Replace(c.file, append(text, '\n'))
}

// isPlain reports whether a token would be sent unencrypted to another machine.
func isPlain(server string) bool {
	u, err := url.Parse(server)
	return err == nil && strings.EqualFold(u.Scheme, "http") && !isLoopbackHost(u.Hostname())
}

func newLogin(environ []string) *cobra.Command {
	var r remote
	var unchecked bool
	c := &cobra.Command{
		Use:   "login [NAME] --store STORE",
		Short: "Store a server, a store and a token for the other commands",
		Long: `Store a server, a store and a token under a name (default: the store's), and make this the current
context. The token comes from --token-file or SHEAF_TOKEN. Otherwise, the command prompts for it, or
reads it from standard input if that isn't a terminal. It checks the token with the service.

Contexts are stored in sheaf/contexts.json in your configuration directory, with mode 0600. Set
SHEAF_CONTEXTS to use another file. A context's token is sent only to that context's server.`,
		Example: `  sheaf login --server https://batch.example.com --store 1003
  sheaf login shop --store 1003 --token-file token.txt
  pass show shop | sheaf login shop --store 1003`,
		Args: atMost(1),
		RunE: interruptible(func(ctx context.Context, c *cobra.Command, args []string) error {
			vars := variables(environ)
			o := client.Options{Server: first(r.server, vars[serverVariable], defaultServer), Store: first(r.store, vars[storeVariable])}
			if o.Store == "" {
				return usagef("--store is required")
			}
			if vars[tokenVariable] == "" && r.tokenFile == "" {
				token, err := askToken(c)
				if err != nil {
					return err
				}
				vars[tokenVariable] = token
			}
			r.server, r.store = o.Server, o.Store
			r.environ = []string{tokenVariable + "=" + vars[tokenVariable]}
			o, err := r.resolve()
			if err != nil {
				return err
			}
			if isPlain(o.Server) {
				fmt.Fprintf(c.ErrOrStderr(), "sheaf: warning: %s is not https: anyone on the network path can read the token\n", o.Server)
			}
			service, err := newClient(o, -1, nil)
			if err != nil {
				return err
			}
			if !unchecked {
				for _, err := range service.List(ctx, client.Queued) {
					if err != nil {
						return err
					}
					break
				}
			}
			all, err := readContexts(vars)
			if err != nil {
				return err
			}
			all.Current = o.Store
			if len(args) == 1 {
				all.Current = args[0]
			}
			all.Contexts[all.Current] = storedContext{Server: o.Server, Store: o.Store, Token: o.Token}
			if err := all.write(); err != nil {
				return err
			}
			fmt.Fprintf(c.ErrOrStderr(), "Stored in %s as %s, the current context.\n", all.file, all.Current)
			return nil
		}),
	}
	r.flags(c, environ)
	_ = c.Flags().MarkHidden("context")
	c.Flags().BoolVar(&unchecked, "no-check", false, "don't check the token")
	return c
}

// askToken prompts for a token without showing it. Without a terminal, it reads standard input.
func askToken(c *cobra.Command) (string, error) {
	in, ok := c.InOrStdin().(*os.File)
	if ok && term.IsTerminal(int(in.Fd())) {
		fmt.Fprint(c.ErrOrStderr(), "Token: ")
		text, err := term.ReadPassword(int(in.Fd()))
		fmt.Fprintln(c.ErrOrStderr())
		return strings.TrimSpace(string(text)), err
	}
	text, err := io.ReadAll(io.LimitReader(c.InOrStdin(), maxContexts))
	return strings.TrimSpace(string(text)), err
}

func newLogout(environ []string) *cobra.Command {
	return &cobra.Command{
		Use:     "logout [NAME]",
		Short:   "Remove a context, by default the current one",
		Example: `  sheaf logout staging`,
		Args:    atMost(1),

		ValidArgsFunction: contextNames(environ),

		RunE: func(_ *cobra.Command, args []string) error {
			all, err := readContexts(variables(environ))
			if err != nil {
				return err
			}
			name := all.Current
			if len(args) == 1 {
				name = args[0]
			}
			if _, ok := all.Contexts[name]; !ok {
				return usagef("there is no context %q", name)
			}
			delete(all.Contexts, name)
			if all.Current == name {
				all.Current = ""
			}
			return all.write()
		},
	}
}

func newContexts(environ []string) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:     "contexts",
		Short:   "List contexts, or make another one current",
		Example: `  sheaf contexts use staging`,
		Args:    noCommand,
		RunE: func(c *cobra.Command, _ []string) error {
			all, err := readContexts(variables(environ))
			if err != nil {
				return err
			}
			type item struct {
				Name    string `json:"name"`
				Server  string `json:"server"`
				Store   string `json:"store"`
				Current bool   `json:"current"`
			}
			items := []item{}
			for _, name := range all.names() {
				one := all.Contexts[name]
				items = append(items, item{name, one.Server, one.Store, name == all.Current})
			}
			if asJSON {
				return writeJSON(c.OutOrStdout(), map[string]any{"items": items})
			}
			w := newTable(c.OutOrStdout())
			fmt.Fprintln(w, "CURRENT\tNAME\tSERVER\tSTORE")
			for _, i := range items {
				mark := ""
				if i.Current {
					mark = "*"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", mark, i.Name, i.Server, i.Store)
			}
			return w.Flush()
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.AddCommand(&cobra.Command{
		Use:     "use NAME",
		Short:   "Make a context the current one",
		Example: `  sheaf contexts use staging`,

		ValidArgsFunction: contextNames(environ),

		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usagef("sheaf contexts use takes one name")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			all, err := readContexts(variables(environ))
			if err != nil {
				return err
			}
			if _, ok := all.Contexts[args[0]]; !ok {
				return usagef("there is no context %q; the contexts are: %s", args[0], strings.Join(all.names(), ", "))
			}
			all.Current = args[0]
			return all.write()
		},
	})
	return c
}
