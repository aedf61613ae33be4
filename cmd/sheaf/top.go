package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/dustin/go-humanize"
	"github.com/sheafapi/sheaf/client"
	"github.com/spf13/cobra"
)

func newTop(environ []string) *cobra.Command {
	var r remote
	var once bool
	var every time.Duration
	c := r.operatorCommand(environ, hasJSON, &cobra.Command{
		Use:   "top",
		Short: "Show the state of the whole service, live",
		Long: `Show the state of the whole service: nodes, stores at work, waiting batches, and how the API behind
it answers. In a terminal the view is live until you press q. Elsewhere, and with --once or --json,
it is printed once.

The token must be a key with the operate right: sheaf keys add --store '*' --right operate.

` + exitCodes,
		Example: `  sheaf top --server https://batch.example.com --token-file operator.key
  sheaf top --json | jq .stores.unfinishedBatches`,
		Args: atMost(0),
	}, func(ctx context.Context, operator *client.Operator, c *cobra.Command, _ []string) error {
		if every < 100*time.Millisecond {
			return usagef("--every is %v but must be at least 100ms", every)
		}
		// The first call comes before the full-screen view, so that its error is printed as usual.
		first, err := operator.Overview(ctx)
		switch {
		case err != nil:
			return err
		case r.asJSON:
			return writeJSON(c.OutOrStdout(), first)
		case once || !isTerminal(c.OutOrStdout()):
			_, err := io.WriteString(c.OutOrStdout(), overview(first, 0))
			return err
		}
		screen := tea.NewProgram(&top{ctx: ctx, operator: operator, server: r.server, every: every, last: first},
			tea.WithContext(ctx), tea.WithInput(c.InOrStdin()), tea.WithOutput(raw(c.OutOrStdout())))
		_, err = screen.Run()
		if errors.Is(err, tea.ErrProgramKilled) && ctx.Err() != nil {
			err = nil // a signal also quits
		}
		return err
	})
	c.Flags().BoolVar(&once, "once", false, "print the state once")
	c.Flags().DurationVar(&every, "every", 2*time.Second, "time between two updates")
	return c
}

// top is the live view.
type top struct {
	ctx      context.Context
	operator *client.Operator
	server   string
	every    time.Duration
	last     *client.Overview
	err      error // the error of the last update; nil: it succeeded
	height   int
}

// update is the result of one call.
type update struct {
	overview *client.Overview
	err      error
}

// Init implements tea.Model.
func (t *top) Init() tea.Cmd { return t.later() }

// later updates the view after a pause.
func (t *top) later() tea.Cmd {
	return tea.Tick(t.every, func(time.Time) tea.Msg { return t.update() })
}

func (t *top) update() tea.Msg {
	o, err := t.operator.Overview(t.ctx)
	return update{o, err}
}

// Update implements tea.Model.
func (t *top) Update(m tea.Msg) (tea.Model, tea.Cmd) {
	switch m := m.(type) {
	case update:
		if t.err = m.err; m.err == nil {
			t.last = m.overview
		}
		return t, t.later()
	case tea.WindowSizeMsg:
		t.height = m.Height
	case tea.KeyPressMsg:
		switch m.String() {
		case "q", "esc", "ctrl+c":
			return t, tea.Quit
		}
	}
	return t, nil
}

// View implements tea.Model.
func (t *top) View() tea.View {
	head := fmt.Sprintf("%s  %s  q: quit\n", t.server, t.last.At.Local().Format(time.TimeOnly))
	if t.err != nil {
		head = fmt.Sprintf("%s  no answer since %s: %v\n", t.server, t.last.At.Local().Format(time.TimeOnly), t.err)
	}
	text := head + "\n" + overview(t.last, max(t.height-2, 0))
	if lines := strings.Split(text, "\n"); t.height > 0 && len(lines) > t.height {
		text = strings.Join(lines[:t.height], "\n")
	}
	v := tea.NewView(visibleText(text))
	v.AltScreen = true
	return v
}

// overview formats an overview for people, with as many stores as fit into height lines; 0: all.
func overview(o *client.Overview, height int) string {
	var b strings.Builder
	u := &o.Node.Upstream
	fmt.Fprintf(&b, "%s with work, %s of them at work; %s; database %s\n",
		plural(o.Stores.WithWork, "store", "stores"), commas(o.Stores.AtWork), plural(o.Stores.UnfinishedBatches, "unfinished batch", "unfinished batches"),
		humanize.IBytes(uint64(max(o.Database.Bytes, 0))))
	if n := o.Stores.QuarantinedBatches; n > 0 {
		fmt.Fprintf(&b, "quarantined: %s; for the reasons: sheaf quarantine list\n", plural(n, "batch", "batches"))
	}
	fmt.Fprintf(&b, "this node: %s, %s in flight\n", plural(o.Node.StoresAtWork, "store", "stores"), plural(o.Node.RequestsUnderWay, "request", "requests"))
	fmt.Fprintf(&b, "the API, last %s: %s, median %.1f ms, p99 %.1f ms", time.Duration(u.WindowSeconds)*time.Second, plural(u.Requests, "attempt", "attempts"), u.MedianMs, u.P99Ms)
	for _, code := range slices.Sorted(maps.Keys(u.Codes)) {
		fmt.Fprintf(&b, ", %s %s", code, commas(u.Codes[code]))
	}
	if u.CredentialsHeld > 0 {
		fmt.Fprintf(&b, "\nheld back: %s, until %s", plural(u.CredentialsHeld, "credential", "credentials"), u.HeldUntil.Local().Format(time.TimeOnly))
	}
	if !u.OutageSince.IsZero() {
		fmt.Fprintf(&b, "\nthe API is unavailable since %s; %s waiting", u.OutageSince.Local().Format(time.TimeOnly), plural(u.StoresParked, "store is", "stores are"))
	}
	b.WriteString("\n\n")

	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NODE\tSTORES\tUPTIME\tLAST SEEN")
	for _, n := range o.Nodes {
		name, seen := n.Name, "–"
		if name == "" {
			name = "this node"
		} else if n.Self {
			name += " (this node)"
		}
		if !n.RenewedAt.IsZero() {
			seen = age(o.At.Sub(n.RenewedAt)) + " ago"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", name, commas(n.Stores), age(o.At.Sub(n.StartedAt)), seen)
	}
	fmt.Fprintln(w)
	w.Flush()

	left := len(o.Stores.Slowest)
	if height > 0 {
		left = min(left, max(height-strings.Count(b.String(), "\n")-1, 0))
	}
	fmt.Fprintln(w, "LONGEST WAITING\tUNFINISHED\tOLDEST\tSTATE")
	for _, s := range o.Stores.Slowest[:left] {
		store := s.Store
		if s.Caller != "" {
			store += " " + s.Caller
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", store, commas(s.UnfinishedBatches), age(o.At.Sub(s.OldestCreatedAt)), stateOf(&s))
	}
	w.Flush()
	return b.String()
}

// stateOf returns the state of a store with work.
func stateOf(s *client.StoreLoad) string {
	switch {
	case s.Paused:
		return "paused"
	case s.WaitingFor != "":
		return waitingFor(s.WaitingFor, s.WaitingSince)
	case !s.WaitsUntil.IsZero():
		return "waiting until " + s.WaitsUntil.Local().Format(time.TimeOnly)
	case s.AtWork:
		return "at work"
	}
	return "waiting for its turn"
}

// age formats a duration roughly.
func age(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Minute:
		return d.Round(time.Second).String()
	case d < 48*time.Hour:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
	return plural(int(d.Hours()/24), "day", "days")
}
