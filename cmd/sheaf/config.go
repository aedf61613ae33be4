package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/knadh/koanf/providers/confmap"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// origins tell where each setting comes from: its flag, its variable, a line of the file, or
// byDefault.
type origins map[string]string

// byDefault is the origin of a setting that nobody has set.
const byDefault = "default"

// configure sets the flags that the command line has not set: from the environment, else
// from the file, if one is named.
func configure(f *pflag.FlagSet, vars map[string]string, file string) (origins, error) {
	from := origins{}
	f.VisitAll(func(flag *pflag.Flag) { from[flag.Name] = byDefault })
	k := koanf.New("")
	if file != "" {
		values, lines, err := readConfig(file, f)
		if err != nil {
			return nil, err
		}
		if err := k.Load(confmap.Provider(values, ""), nil); err != nil {
			return nil, err
		}
		for name, line := range lines {
			from[name] = fmt.Sprintf("%s:%d", file, line)
		}
	}
	set := map[string]any{}
	f.VisitAll(func(flag *pflag.Flag) {
		if text, ok := vars[variable(flag.Name)]; ok {
			set[flag.Name], from[flag.Name] = text, variable(flag.Name)
		}
		if flag.Changed {
			from[flag.Name] = "--" + flag.Name
		}
	})
	if err := k.Load(confmap.Provider(set, ""), nil); err != nil {
		return nil, err
	}
	var err error
	f.VisitAll(func(flag *pflag.Flag) {
		if err != nil || flag.Changed || !k.Exists(flag.Name) {
			return
		}
		if wrong := flag.Value.Set(k.String(flag.Name)); wrong != nil {
			place := from[flag.Name]
			if !strings.HasPrefix(place, prefix) {
				place += ": " + flag.Name
			}
			err = usagef("%s %w", place, wrong)
		}
	})
	return from, err
}

// readConfig reads a file of settings: a YAML mapping whose names are those of the flags.
// Values are the texts that the flags take; where those have commas, they may be lists. It
// returns the values and the line of each.
func readConfig(file string, f *pflag.FlagSet) (values map[string]any, lines map[string]int, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, nil, usagef("%s: %s", file, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	values, lines = map[string]any{}, map[string]int{}
	if len(doc.Content) == 0 {
		return values, lines, nil
	}
	var known []string
	f.VisitAll(func(flag *pflag.Flag) { known = append(known, flag.Name) })
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode {
		return nil, nil, usagef("%s:%d: there has to be a setting a line, such as listen: 127.0.0.1:8080", file, top.Line)
	}
	for i := 0; i+1 < len(top.Content); i += 2 {
		name, value := top.Content[i].Value, top.Content[i+1]
		place := fmt.Sprintf("%s:%d: ", file, top.Content[i].Line)
		if f.Lookup(name) == nil {
			hint := ""
			if near := nearest(name, known); near != "" {
				hint = "; did you mean " + near + "?"
			}
			return nil, nil, usagef("%s%q is not a setting of sheaf serve%s", place, name, hint)
		}
		if line, twice := lines[name]; twice {
			return nil, nil, usagef("%s%s is set in line %d already", place, name, line)
		}
		text, err := scalar(value)
		if err != nil {
			return nil, nil, usagef("%s%s %w", place, name, err)
		}
		if text != "" { // as an empty variable, it counts as unset
			values[name], lines[name] = text, top.Content[i].Line
		}
	}
	return values, lines, nil
}

// scalar returns the text of a value, or of a list of them.
func scalar(n *yaml.Node) (string, error) {
	switch {
	case n.Kind == yaml.AliasNode:
		return scalar(n.Alias)
	case n.Tag == "!!null":
		return "", nil
	case n.Kind == yaml.ScalarNode:
		return n.Value, nil
	case n.Kind == yaml.SequenceNode:
		var parts []string
		for _, item := range n.Content {
			if item.Kind != yaml.ScalarNode {
				return "", errors.New("has a list in a list")
			}
			parts = append(parts, item.Value)
		}
		return strings.Join(parts, ","), nil
	}
	return "", errors.New("has settings below it, and has to be a value or a list of values")
}

// printConfig prints the settings that apply as a file of settings, with their origins.
// Secrets are masked.
func printConfig(w io.Writer, f *pflag.FlagSet, from origins) error {
	top := &yaml.Node{Kind: yaml.MappingNode}
	f.VisitAll(func(flag *pflag.Flag) {
		value := &yaml.Node{Kind: yaml.ScalarNode, Value: masked(flag.Value.String()), LineComment: "# " + from[flag.Name]}
		top.Content = append(top.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: flag.Name}, value)
	})
	out := yaml.NewEncoder(w)
	return errors.Join(out.Encode(top), out.Close())
}

var secretName = regexp.MustCompile(`(?i)pass|token|secret|key|sig|credential`)

// masked hides passwords, and what else may be secret, in a text that may hold an address.
func masked(text string) string {
	before, rest, found := strings.Cut(text, "://")
	if !found {
		return text
	}
	lead, scheme := "", before
	if i := strings.LastIndexByte(before, '='); i >= 0 {
		lead, scheme = before[:i+1], before[i+1:]
	}
	u, err := url.Parse(scheme + "://" + strings.NewReplacer("{", "%7B", "}", "%7D").Replace(rest))
	if err != nil {
		return lead + scheme + "://xxxxx"
	}
	query := u.Query()
	for name := range query {
		if secretName.MatchString(name) {
			query.Set(name, "xxxxx")
		}
	}
	u.RawQuery = query.Encode()
	return lead + strings.NewReplacer("%7B", "{", "%7D", "}").Replace(u.Redacted())
}

func newConfig(environ []string) *cobra.Command {
	c := &cobra.Command{
		Use:   "config",
		Short: "Check the settings of sheaf serve",
		Args:  noCommand,
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	s, flags := newSettings()
	check := &cobra.Command{
		Use:   "check [--config FILE]",
		Short: "Check the settings and print those that apply, with secrets masked",
		Long: `Check what sheaf serve would be told by this command line, the environment and the file, and print
what applies, and from where, as a file of settings. Passwords are masked. Nothing is started.`,
		Example: "  sheaf config check --config sheaf.yaml",
		Args:    atMost(0),
		RunE: func(c *cobra.Command, _ []string) error {
			vars := variables(environ)
			from, err := s.load(flags, vars)
			if err != nil {
				return err
			}
			for _, sentence := range unknown(flags, vars) {
				fmt.Fprintln(c.ErrOrStderr(), "sheaf: "+sentence)
			}
			return printConfig(c.OutOrStdout(), flags, from)
		},
	}
	s.addConfig(check.Flags())
	check.Flags().SortFlags = false
	check.Flags().AddFlagSet(flags)
	c.AddCommand(check)
	return c
}

// addConfig adds the flag that names the file of settings.
func (s *settings) addConfig(f *pflag.FlagSet) {
	f.StringVar(&s.config, "config", "", "a file of settings: YAML, named as the flags, such as listen: :8080 ["+variable("config")+"]")
}

func (s *settings) configFile(vars map[string]string) string {
	return first(s.config, vars[variable("config")])
}
