package main

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"regexp"
	"strings"

	"github.com/sheafapi/sheaf"
	"github.com/sheafapi/sheaf/internal/private"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// origins say where each setting comes from: its flag, its variable, a line of the file, several of
// them for a setting with parts, or byDefault.
type origins map[string]string

// byDefault is the origin of a setting that isn't set.
const byDefault = "default"

// configure sets what the command line leaves open: each flag, or those parts of it that the command
// line doesn't name. The environment wins over the file. An empty file name means no file.
func configure(f *pflag.FlagSet, vars map[string]string, file string) (origins, error) {
	if err := refuseRemoved(vars); err != nil {
		return nil, err
	}
	var values map[string]string
	var lines map[string]int
	var err error
	if file != "" {
		if values, lines, err = readConfig(file, f); err != nil {
			return nil, err
		}
	}
	from := origins{}
	f.VisitAll(func(flag *pflag.Flag) {
		var places []string
		if flag.Changed {
			places = append(places, "--"+flag.Name)
		}
		set := func(text, place, subject string) {
			if text == "" || err != nil {
				return
			}
			used, wrong := flag.Value.(*value).setUnset(text)
			if used {
				places = append(places, place)
			}
			if wrong != nil {
				err = usagef("%s %w", subject, wrong)
			}
		}
		name := variable(flag.Name)
		set(vars[name], name, name)
		place := fmt.Sprintf("%s:%d", file, lines[flag.Name])
		set(values[flag.Name], place, place+": "+flag.Name)
		if from[flag.Name] = strings.Join(places, ", "); places == nil {
			from[flag.Name] = byDefault
		}
	})
	return from, err
}

// readConfig reads a settings file: a YAML mapping whose keys are the flags' names. Values are
// written as for the flags; a value with commas may also be a list. readConfig returns the values and the
// line of each.
func readConfig(file string, f *pflag.FlagSet) (values map[string]string, lines map[string]int, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, err
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, nil, usagef("%s: %s", file, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	values, lines = map[string]string{}, map[string]int{}
	if len(doc.Content) == 0 {
		return values, lines, nil
	}
	var known []string
	f.VisitAll(func(flag *pflag.Flag) { known = append(known, flag.Name) })
	known = append(known, limitsKey)
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode {
		return nil, nil, usagef("%s:%d: a settings file has one setting per line, such as listen: 127.0.0.1:8080", file, top.Line)
	}
	for i := 0; i+1 < len(top.Content); i += 2 {
		name, value := top.Content[i].Value, top.Content[i+1]
		place := fmt.Sprintf("%s:%d: ", file, top.Content[i].Line)
		if f.Lookup(name) == nil && name != limitsKey {
			if replacement, ok := removed[name]; ok {
				return nil, nil, usagef("%s%s was removed: %s", place, name, replacement)
			}
			hint := ""
			if near := nearest(name, known); near != "" {
				hint = "; did you mean " + near + "?"
			}
			return nil, nil, usagef("%s%q is not a setting of sheaf serve%s", place, name, hint)
		}
		if line, twice := lines[name]; twice {
			return nil, nil, usagef("%s%s is already set in line %d", place, name, line)
		}
		if name == limitsKey {
			lines[name] = top.Content[i].Line // see readLimits
			continue
		}
		text, err := scalar(value)
		if err != nil {
			return nil, nil, usagef("%s%s %w", place, name, err)
		}
		if text != "" { // like an empty variable, it counts as unset
			values[name], lines[name] = text, top.Content[i].Line
		}
	}
	return values, lines, nil
}

// scalar returns the text of a value or of a list of values.
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
	return "", errors.New("has settings below it but must be a value or a list of values")
}

// printConfig prints the settings that apply as a settings file, with their origins. Secrets are
// masked.
func printConfig(w io.Writer, f *pflag.FlagSet, from origins, limits []sheaf.RouteLimit) error {
	top := &yaml.Node{Kind: yaml.MappingNode}
	f.VisitAll(func(flag *pflag.Flag) {
		value := &yaml.Node{Kind: yaml.ScalarNode, Value: masked(flag.Value.String()), LineComment: "# " + from[flag.Name]}
		if value.Value != "" && value.ShortTag() == "!!null" {
			value.Style = yaml.DoubleQuotedStyle // the text null isn't a missing value
		}
		top.Content = append(top.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: flag.Name}, value)
	})
	if len(limits) > 0 {
		top.Content = append(top.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: limitsKey}, limitNodes(limits))
	}
	out := yaml.NewEncoder(w)
	return errors.Join(out.Encode(top), out.Close())
}

var secretName = regexp.MustCompile(`(?i)pass|token|secret|key|sig|credential`)

// masked hides passwords and other secrets in a text that may contain a URL. The rest stays as it is,
// so that printConfig's output sets the same values. sslkey is the name of a file.
func masked(text string) string {
	scheme, rest, found := strings.Cut(text, "://")
	if !found {
		return text
	}
	if _, err := url.Parse("x://" + rest); err != nil {
		return scheme + "://xxxxx"
	}
	rest, query, hasQuery := strings.Cut(rest, "?")
	authority, path, hasPath := strings.Cut(rest, "/")
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		if user, _, ok := strings.Cut(authority[:i], ":"); ok {
			authority = user + ":xxxxx" + authority[i:]
		}
	}
	if hasPath {
		authority += "/"
	}
	if hasQuery {
		path += "?"
	}
	pairs := strings.Split(query, "&")
	for i, pair := range pairs {
		name, _, isPair := strings.Cut(pair, "=")
		plain, err := url.QueryUnescape(name)
		isFile := strings.HasSuffix(plain, "file") || plain == "sslkey"
		if isPair && (err != nil || secretName.MatchString(plain) && !isFile) {
			pairs[i] = name + "=xxxxx"
		}
	}
	return scheme + "://" + authority + path + strings.Join(pairs, "&")
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
		Long: `Check the settings that sheaf serve would get from this command line, the environment and the file.
Print those that apply, with their origin, as a settings file. Secrets are masked.`,
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
			return printConfig(c.OutOrStdout(), flags, from, s.options.Upstream.Limits)
		},
	}
	s.addTo(check, flags)
	c.AddCommand(check)
	return c
}

// addTo adds the settings' flags to a command, and the flag that names the settings file.
func (s *settings) addTo(c *cobra.Command, flags *pflag.FlagSet) {
	f := c.Flags()
	f.SortFlags = false
	own := pflag.NewFlagSet("config", pflag.ContinueOnError)
	add(own, "config", "", "file", "read settings from this YAML file", into(&s.config, private.Name))
	putUnder(own, "Serving")
	f.AddFlagSet(own)
	f.AddFlagSet(flags)
	c.SetUsageFunc(printUsage)
}

func (s *settings) configFile(vars map[string]string) string {
	return first(s.config, vars[variable("config")])
}
