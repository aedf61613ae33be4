package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/sheafapi/sheaf"
	"go.yaml.in/yaml/v3"
)

// limitsKey is the key of the settings file that has the limits on parts of the API. It has no flag,
// because it is a list of mappings.
const limitsKey = "limits"

// scopes are the values of per, by their Scope.
var scopes = []string{sheaf.PerCredential: "credential", sheaf.PerStore: "store", sheaf.PerAll: "all"}

// readLimits returns the limits of a settings file that readConfig has accepted. An empty file name
// means no file.
func readLimits(file string) ([]sheaf.RouteLimit, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var top struct {
		Limits yaml.Node `yaml:"limits"`
	}
	if err := yaml.Unmarshal(text, &top); err != nil || top.Limits.IsZero() || top.Limits.Tag == "!!null" {
		return nil, err
	}
	place := func(n *yaml.Node) string { return fmt.Sprintf("%s:%d: %s", file, n.Line, limitsKey) }
	if top.Limits.Kind != yaml.SequenceNode {
		return nil, usagef(`%s must be a list, such as [{match: "GET /orders*", rate: 100/h}]`, place(&top.Limits))
	}
	out := make([]sheaf.RouteLimit, 0, len(top.Limits.Content))
	for _, item := range top.Limits.Content {
		l, at, err := readLimit(item)
		if err == nil {
			at, err = item, l.Check()
		}
		if err != nil {
			return nil, usagef("%s: %w", place(at), err)
		}
		out = append(out, l)
	}
	return out, nil
}

// readLimit reads one limit. at is where an error is.
func readLimit(item *yaml.Node) (l sheaf.RouteLimit, at *yaml.Node, err error) {
	if item.Kind != yaml.MappingNode {
		return l, item, fmt.Errorf(`%q is not a limit such as {match: "GET /orders*", rate: 100/h}`, item.Value)
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(item.Content); i += 2 {
		key, value := item.Content[i], item.Content[i+1]
		if seen[key.Value] {
			return l, key, fmt.Errorf("%s is already set", key.Value)
		}
		seen[key.Value] = true
		text, err := scalar(value)
		if err == nil {
			err = setLimit(&l, key.Value, text)
		}
		if err != nil {
			return l, key, err
		}
	}
	return l, item, nil
}

// setLimit sets one part of a limit.
func setLimit(l *sheaf.RouteLimit, key, text string) (err error) {
	switch key {
	case "match":
		l.Match = text
	case "rate":
		l.Rate, err = parseRate(text)
	case "concurrency":
		l.Concurrency, err = parseCount(1)(text)
	case "per":
		l.Per, err = oneOf(
			choice[sheaf.Scope]{scopes[sheaf.PerCredential], sheaf.PerCredential},
			choice[sheaf.Scope]{scopes[sheaf.PerStore], sheaf.PerStore},
			choice[sheaf.Scope]{scopes[sheaf.PerAll], sheaf.PerAll})(text)
	default:
		return fmt.Errorf("%q is not a part of a limit: match, rate, concurrency or per", key)
	}
	if err != nil {
		err = fmt.Errorf("%s %w", key, err)
	}
	return err
}

// limitNodes returns limits as they are written in a settings file, each with a comment that says what it
// means.
func limitNodes(limits []sheaf.RouteLimit) *yaml.Node {
	out := &yaml.Node{Kind: yaml.SequenceNode}
	for i := range limits {
		l := &limits[i]
		item := &yaml.Node{Kind: yaml.MappingNode}
		add := func(key, value string) {
			item.Content = append(item.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: key}, &yaml.Node{Kind: yaml.ScalarNode, Value: value})
		}
		add("match", l.Match)
		if l.Rate.N > 0 {
			add("rate", fmt.Sprintf("%d/%s", l.Rate.N, duration(l.Rate.Per)))
		}
		if l.Concurrency > 0 {
			add("concurrency", strconv.Itoa(l.Concurrency))
		}
		add("per", scopes[l.Per])
		item.Content[1].LineComment = "# " + explain(l)
		out.Content = append(out.Content, item)
	}
	return out
}

// explain says what a limit means.
func explain(l *sheaf.RouteLimit) string {
	var parts []string
	if l.Rate.N > 0 {
		parts = append(parts, fmt.Sprintf("one request every %s over all nodes", duration(l.Rate.Per/time.Duration(l.Rate.N))))
	}
	if l.Concurrency > 0 {
		parts = append(parts, fmt.Sprintf("at most %d in flight on each node", l.Concurrency))
	}
	whose := map[sheaf.Scope]string{sheaf.PerCredential: "for each credential", sheaf.PerStore: "for each store", sheaf.PerAll: "in total"}
	return strings.Join(append(parts, whose[l.Per]), ", ")
}

// duration formats a duration without units that are 0.
func duration(d time.Duration) string {
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = text[:len(text)-2]
		}
	}
	return text
}
