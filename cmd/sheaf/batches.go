package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/sheafapi/sheaf/client"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/spf13/cobra"
)

// report is the output of status and wait.
type report struct {
	Ticket      string        `json:"ticket"`
	Status      client.Status `json:"status"`
	Total       int           `json:"totalRequests"`
	Completed   int           `json:"completedRequests"`
	Failed      int           `json:"failed"`
	InDoubt     int           `json:"inDoubt"` // of Failed
	NotExecuted int           `json:"notExecuted"`
	GroupID     string        `json:"groupId,omitempty"`
	RetryOf     string        `json:"retryOf,omitempty"`
	Paused      bool          `json:"paused,omitempty"`
	WaitsUntil  time.Time     `json:"waitsUntil,omitzero"`

	WaitingFor   client.WaitReason `json:"waitingFor,omitempty"`
	WaitingSince time.Time         `json:"waitingSince,omitzero"`

	Quarantined time.Time `json:"quarantinedAt,omitzero"`
	Reason      string    `json:"quarantineReason,omitempty"`
	CreatedAt   time.Time `json:"createdAt,omitzero"`
	StartedAt   time.Time `json:"startedAt,omitzero"`
	FinishedAt  time.Time `json:"finishedAt,omitzero"`
}

// newReport reads a batch and counts its results.
func newReport(ctx context.Context, c *client.Client, ticket string) (*report, error) {
	b, err := c.Get(ctx, ticket, client.GetOptions{NoResponses: true, Details: true})
	if err != nil {
		return nil, err
	}
	r := &report{
		Ticket: ticket, Status: b.Status, Total: b.TotalRequests, Completed: b.CompletedRequests, GroupID: b.GroupID, RetryOf: b.RetryOf,
		Quarantined: b.QuarantinedAt, Reason: b.QuarantineReason,
		Paused: b.Paused, WaitsUntil: b.WaitsUntil, WaitingFor: b.WaitingFor, WaitingSince: b.WaitingSince, CreatedAt: b.CreatedAt, StartedAt: b.StartedAt, FinishedAt: b.FinishedAt,
	}
	for status, n := range map[client.ResultStatus]*int{client.Failed: &r.Failed, client.NotExecuted: &r.NotExecuted} {
		for response, err := range c.Results(ctx, ticket, client.GetOptions{Only: status}) {
			if err != nil {
				return nil, err
			}
			if *n++; response.InDoubt {
				r.InDoubt++
			}
		}
	}
	return r, nil
}

// exit returns an error with the exit code for the batch's status.
func (r *report) exit() error {
	switch {
	case r.Status != client.Completed:
		return endsWith(exitUnfinished)
	case r.Failed+r.NotExecuted > 0:
		return endsWith(exitSomeFailed)
	}
	return nil
}

func (r *report) print(w io.Writer) error {
	t := newTable(w)
	state := string(r.Status)
	if r.Paused {
		state += ", paused"
	}
	if !r.Quarantined.IsZero() {
		state += ", quarantined: waiting for the service's operator"
	}
	if r.WaitingFor != "" {
		state += ", " + waitingFor(r.WaitingFor, r.WaitingSince)
	}
	if !r.WaitsUntil.IsZero() {
		state += ", waiting for the API until " + r.WaitsUntil.Local().Format(time.TimeOnly)
	}
	fmt.Fprintf(t, "Ticket\t%s\nStatus\t%s\nRequests\t%s of %s have run: %s, %s not executed\n", r.Ticket, state,
		commas(r.Completed), commas(r.Total), failures(r.Failed, r.InDoubt), commas(r.NotExecuted))
	for _, line := range []struct {
		name  string
		value string
	}{{"Reason", r.Reason}, {"Group", r.GroupID}, {"Repeats", r.RetryOf}, {"Created", moment(r.CreatedAt)}, {"Started", moment(r.StartedAt)}, {"Finished", moment(r.FinishedAt)}} {
		if line.value != "" {
			fmt.Fprintf(t, "%s\t%s\n", line.name, line.value)
		}
	}
	return t.Flush()
}

// waitingFor describes what a batch waits for.
func waitingFor(reason client.WaitReason, since time.Time) string {
	what := "the API"
	if reason == client.ForCredential {
		what = "a new token"
	}
	layout := time.TimeOnly
	if time.Since(since) > 12*time.Hour {
		layout = time.DateTime
	}
	return fmt.Sprintf("waiting for %s since %s", what, since.Local().Format(layout))
}

// failures describes how many requests failed, and how many of these are in doubt.
func failures(failed, inDoubt int) string {
	text := commas(failed-inDoubt) + " failed"
	if inDoubt > 0 {
		text += ", " + commas(inDoubt) + " in doubt"
	}
	return text
}

func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return fmt.Sprintf("%s (%s)", t.Local().Format("2006-01-02 15:04:05"), humanize.Time(t))
}

func (r *report) show(w io.Writer, asJSON bool) error {
	var err error
	if asJSON {
		err = writeJSON(w, r)
	} else {
		err = r.print(w)
	}
	return errors.Join(err, r.exit())
}

func newStatus(environ []string) *cobra.Command {
	var r remote
	return r.command(environ, ofTicket|hasJSON, &cobra.Command{
		Use:   "status TICKET",
		Short: "Show the progress of a batch",
		Long:  "Show the progress of a batch.\n\n" + exitCodes,
		Example: `  sheaf status 0b4a3f7e-3a46-4b9c-b9b0-9f1d5f0e7c11
  sheaf status --json 0b4a3f7e-3a46-4b9c-b9b0-9f1d5f0e7c11 | jq .completedRequests`,
	}, func(ctx context.Context, service *client.Client, c *cobra.Command, args []string) error {
		found, err := newReport(ctx, service, args[0])
		if err != nil {
			return err
		}
		return found.show(c.OutOrStdout(), r.asJSON)
	})
}

func newWait(environ []string) *cobra.Command {
	var r remote
	var timeout time.Duration
	c := r.command(environ, ofTicket|hasJSON|patient, &cobra.Command{
		Use:   "wait TICKET",
		Short: "Wait until a batch is finished",
		Long: `Wait until a batch is finished, and show its outcome. The command survives lost connections and
restarts of the service.

` + exitCodes,
		Example: "  sheaf wait --timeout 10m 0b4a3f7e-3a46-4b9c-b9b0-9f1d5f0e7c11 && echo success",
	}, func(ctx context.Context, service *client.Client, c *cobra.Command, args []string) error {
		waiting := ctx
		if timeout > 0 {
			var cancel context.CancelFunc
			waiting, cancel = context.WithTimeout(ctx, timeout)
			defer cancel()
		}
		if _, err := service.Wait(waiting, args[0], nil); err != nil {
			if ctx.Err() != nil || waiting.Err() == nil {
				return err
			}
			fmt.Fprintf(c.ErrOrStderr(), "sheaf: the batch is not finished after %s\n", timeout)
		}
		found, err := newReport(ctx, service, args[0])
		if err != nil {
			return err
		}
		return found.show(c.OutOrStdout(), r.asJSON)
	})
	c.Flags().DurationVar(&timeout, "timeout", 0, "how long to wait (default: until the batch is finished)")
	return c
}

// printer prints responses and counts those that did not succeed.
type printer struct{ failures int }

// only are the values of --only.
var only = map[string]client.ResultStatus{
	"": "", "failed": client.Failed, "in-doubt": client.InDoubt, "not-executed": client.NotExecuted, "completed": client.Succeeded,
}

// show prints responses as a table, or as JSON with one object per line.
func (p *printer) show(w io.Writer, asJSON bool, responses iter.Seq2[*client.Response, error]) error {
	if !asJSON {
		fmt.Fprintln(w, "INDEX  STATUS        CODE  REQUEST / ANSWER")
	}
	out := json.NewEncoder(w)
	out.SetEscapeHTML(false)
	for r, err := range responses {
		if err != nil {
			return err
		}
		if r.Status != client.Succeeded {
			p.failures++
		}
		if asJSON {
			err = out.Encode(struct {
				Index int `json:"index"`
				*client.Response
			}{r.Index, r})
		} else {
			_, err = fmt.Fprintln(w, line(r))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// line formats a response for people.
func line(r *client.Response) string {
	code := "   -"
	if r.StatusCode != 0 {
		code = fmt.Sprintf("%4d", r.StatusCode)
	}
	what := r.Method + " " + r.Path
	if r.Method == "" {
		what = r.ID
	}
	why := first(r.Reason, r.StatusLine)
	if body := string(r.Body); body != "" {
		why += " " + body
	}
	status := r.Status
	if r.InDoubt {
		status = client.InDoubt
	}
	return clean(fmt.Sprintf("%5d  %-12s  %s  %s  %s", r.Index, status, code, what, why), 200)
}

// clean removes control characters, which could control the terminal, and shortens the text.
func clean(text string, limit int) string {
	out := make([]rune, 0, limit)
	for _, r := range text {
		if len(out) == limit {
			return string(append(out, '…'))
		}
		if batch.IsControl(r) {
			r = ' '
		}
		out = append(out, r)
	}
	return string(out)
}

func newResults(environ []string) *cobra.Command {
	var r remote
	var which string
	c := r.command(environ, ofTicket|hasJSON, &cobra.Command{
		Use:   "results TICKET",
		Short: "Print the responses of a batch, in the order of its requests",
		Long: `Print the responses of a batch, in the order of its requests. If the batch is unfinished, print
those that have arrived. With --json, each response is one line of JSON with its whole body.

` + exitCodes,
		Example: `  sheaf results 0b4a3f7e-3a46-4b9c-b9b0-9f1d5f0e7c11 --only failed
  sheaf results --json 0b4a3f7e-3a46-4b9c-b9b0-9f1d5f0e7c11 | jq -c .httpBody`,
	}, func(ctx context.Context, service *client.Client, c *cobra.Command, args []string) error {
		status, ok := only[which]
		if !ok {
			return usagef("--only is %q but must be failed, in-doubt, not-executed or completed", which)
		}
		b, err := service.Get(ctx, args[0], client.GetOptions{NoResponses: true})
		if err != nil {
			return err
		}
		var p printer
		if err := p.show(c.OutOrStdout(), r.asJSON, service.Results(ctx, args[0], client.GetOptions{Only: status, Details: true})); err != nil {
			return err
		}
		return p.exit(b.Status)
	})
	c.Flags().StringVar(&which, "only", "", "failed, in-doubt (included in failed), not-executed or completed")
	return c
}

func (p *printer) exit(status client.Status) error {
	return (&report{Status: status, Failed: p.failures}).exit()
}

func newTail(environ []string) *cobra.Command {
	var r remote
	return r.command(environ, ofTicket|hasJSON|patient, &cobra.Command{
		Use:   "tail TICKET",
		Short: "Print the responses of a batch as they arrive",
		Long: `Print the responses of a batch as they arrive, until it is finished. The command survives lost
connections and restarts of the service.

` + exitCodes,
		Example: "  sheaf tail 0b4a3f7e-3a46-4b9c-b9b0-9f1d5f0e7c11",
	}, func(ctx context.Context, service *client.Client, c *cobra.Command, args []string) error {
		var p printer
		if err := p.show(c.OutOrStdout(), r.asJSON, service.Stream(ctx, args[0], client.GetOptions{Details: true})); err != nil {
			return err
		}
		return p.exit(client.Completed)
	})
}

func newCancel(environ []string) *cobra.Command {
	var r remote
	var group string
	c := r.command(environ, 0, &cobra.Command{
		Use:   "cancel TICKET | --group NAME",
		Short: "Stop a batch, or all batches of a group",
		Long: `Stop a batch, or all unfinished batches of a group. Requests in flight finish and are recorded.
The rest are not executed.

` + exitCodes,
		Example: `  sheaf cancel 0b4a3f7e-3a46-4b9c-b9b0-9f1d5f0e7c11
  sheaf cancel --group spring-prices`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 || len(args) == 1 == (group != "") {
				return usagef("sheaf cancel takes one ticket, or --group; see sheaf cancel --help")
			}
			return nil
		},
		ValidArgsFunction: r.tickets,
	}, func(ctx context.Context, service *client.Client, c *cobra.Command, args []string) error {
		n := 0
		var err error
		if group != "" {
			n, err = service.CancelGroup(ctx, group)
		} else {
			var stopped bool
			if stopped, err = service.Cancel(ctx, args[0]); stopped {
				n = 1
			}
		}
		if err != nil {
			return err
		}
		if n == 0 {
			fmt.Fprintln(c.ErrOrStderr(), "There was no unfinished batch to stop.")
			return nil
		}
		fmt.Fprintf(c.ErrOrStderr(), "Stopped %s.\n", plural(n, "batch", "batches"))
		return nil
	})
	c.Flags().StringVar(&group, "group", "", "all unfinished batches of this group")
	return c
}

func newRetry(environ []string) *cobra.Command {
	var r remote
	var also, only, dry bool
	c := r.command(environ, ofTicket, &cobra.Command{
		Use:   "retry TICKET",
		Short: "Create a batch that repeats the failed requests of another one, and print its ticket",
		Long: `Create a batch that repeats those requests of another one that failed or were not executed, and
print its ticket.

Requests in doubt are left out, because the API may have carried them out. Check in the API first.
Then repeat them, with their old Idempotency-Key, by --also-in-doubt or --only-in-doubt.`,
		Example: `  sheaf tail $(sheaf retry 0b4a3f7e-3a46-4b9c-b9b0-9f1d5f0e7c11)
  sheaf retry --dry-run 0b4a3f7e-3a46-4b9c-b9b0-9f1d5f0e7c11`,
	}, func(ctx context.Context, service *client.Client, c *cobra.Command, args []string) error {
		o := client.RetryOptions{DryRun: dry}
		switch {
		case also && only:
			return usagef("--also-in-doubt and --only-in-doubt can't be used together")
		case also:
			o.InDoubt = client.WithInDoubt
		case only:
			o.InDoubt = client.OnlyInDoubt
		}
		created, err := service.RetryWith(ctx, args[0], o)
		if refused, ok := errors.AsType[*client.Error](err); err != nil && !ok {
			return fmt.Errorf("%w; the batch may have been created: check with sheaf list", err)
		} else if ok && refused.StatusCode == http.StatusMethodNotAllowed {
			return fmt.Errorf("this service can't repeat a batch: %w", err)
		}
		if err != nil {
			return err
		}
		if dry {
			fmt.Fprintf(c.OutOrStdout(), "%s would be repeated. In doubt: %s.\n", plural(created.TotalRequests, "request", "requests"), commas(created.InDoubtRequests))
			return nil
		}
		fmt.Fprintln(c.OutOrStdout(), created.Ticket)
		if n := created.InDoubtRequests; n > 0 && o.InDoubt == client.WithoutInDoubt {
			fmt.Fprintf(c.ErrOrStderr(), "%s in doubt left out: the API may have carried them out. Check in the API, then repeat them with: sheaf retry --only-in-doubt %s.\n",
				plural(n, "request", "requests"), args[0])
		}
		return nil
	})
	c.Flags().BoolVar(&also, "also-in-doubt", false, "also repeat the requests in doubt")
	c.Flags().BoolVar(&only, "only-in-doubt", false, "repeat only the requests in doubt")
	c.Flags().BoolVar(&dry, "dry-run", false, "print how many requests would be repeated, and how many are in doubt")
	return c
}

func newList(environ []string) *cobra.Command {
	var r remote
	var status string
	var limit int
	c := r.command(environ, hasJSON, &cobra.Command{
		Use:     "list",
		Short:   "List your batches, newest first",
		Long:    "List your batches, newest first. With --status, list only those with that status, oldest first.",
		Example: "  sheaf list --status in-progress",
		Args:    atMost(0),
	}, func(ctx context.Context, service *client.Client, c *cobra.Command, _ []string) error {
		wanted, ok := map[string]client.Status{"": "", "queued": client.Queued, "in-progress": client.InProgress, "completed": client.Completed}[status]
		switch {
		case !ok:
			return usagef("--status is %q but must be queued, in-progress or completed", status)
		case limit < 1:
			return usagef("--limit must be at least 1")
		}
		found := []client.Item{}
		for item, err := range service.List(ctx, wanted) {
			if err != nil {
				return err
			}
			if found = append(found, item); len(found) == limit {
				break
			}
		}
		if r.asJSON {
			return writeJSON(c.OutOrStdout(), map[string]any{"items": found})
		}
		w := newTable(c.OutOrStdout())
		fmt.Fprintln(w, "TICKET\tSTATUS\tNOTE")
		for _, item := range found {
			fmt.Fprintf(w, "%s\t%s\t%s\n", item.Ticket, item.Status, note(&item))
		}
		return w.Flush()
	})
	c.Flags().StringVar(&status, "status", "", "queued, in-progress or completed (default: all)")
	c.Flags().IntVar(&limit, "limit", 100, "maximum number of batches to list")
	return c
}

// note returns a remark about a listed batch, such as that it is quarantined.
func note(item *client.Item) string {
	var notes []string
	if item.Quarantined {
		notes = append(notes, "quarantined")
	}
	if item.FailedRequests > 0 {
		notes = append(notes, failures(item.FailedRequests, item.InDoubtRequests))
	}
	return strings.Join(notes, ", ")
}
