package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sheafapi/sheaf/client"
	"github.com/sheafapi/sheaf/internal/submit"
	"github.com/spf13/cobra"
)

// submission is what sheaf submit was told.
type submission struct {
	remote
	options           submit.Options
	delimiter, format string
	resultsFormat     string
	resume, giveUp    bool
	dryRun, asJSON    bool
	quiet             bool
}

func newSubmit(environ []string) *cobra.Command {
	s := &submission{}
	c := &cobra.Command{
		Use:   "submit FILE",
		Short: "Send the requests of a file, in batches, and write the results beside it",
		Long: `Send the requests of a file in batches of up to 500, all of one group, wait for them and write
what became of each, in the order of the file.

FILE holds a request a line (NDJSON), an array of requests (JSON), or a table (CSV, its first line
names the columns) whose rows --template makes requests of. In the template {{column}} stands for
the column's text: as a JSON string where it stands for a whole value, as escaped text inside a
string, percent-encoded in the path. {{column:number}}, {{column:bool}} and {{column:json}} check
the text and stand for such a value; with ? behind, as in {{column:number?}}, an empty text is null.

The whole file is checked before anything is sent. Lost connections and restarts of the service are
waited for. After Ctrl-C, or whatever else ends it, --resume goes on with nothing sent twice: the file
FILE.sheaf-run tells how far it came, and is removed at the end.

Results go to FILE with .results.csv or .results.ndjson in place of its ending. With --failed-only,
requests that can be sent again are written in the input's form: not those of which nobody knows
whether they were carried out.

` + exitCodes,
		Example: `  sheaf submit calls.ndjson --store 1003
  sheaf submit prices.csv --store 1003 --failed-only again.csv \
    --template '{"method":"PUT","path":"/products/{{id}}","body":{"price":{{price:number}}}}'
  sheaf submit prices.csv --resume`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" || args[0] == "-" {
				return usagef("sheaf submit takes the name of one file, which it reads more than once; see sheaf submit --help")
			}
			return nil
		},
		RunE: interruptible(func(ctx context.Context, c *cobra.Command, args []string) error {
			s.options.Input.Path = args[0]
			return s.run(ctx, c)
		}),
	}
	f := c.Flags()
	f.SortFlags = false
	s.flags(c, environ)
	o := &s.options
	f.StringVar(&o.Input.Template, "template", "", "what makes a request of a row of CSV; @FILE: it is in that file")
	f.StringVar(&s.format, "format", "", "ndjson, json or csv (default: told by the file)")
	f.StringVar(&s.delimiter, "delimiter", "", `between columns of CSV (default: a comma; a tab, or \t, in .tsv)`)
	f.BoolVar(&o.Parallel, "parallel", false, "up to 100 requests of a batch at the same time, in no order")
	f.BoolVar(&o.StopOnFailure, "stop-on-failure", false, "start nothing after the first failure")
	f.StringVar(&o.GroupID, "group", "", "the group's name (default: a new one)")
	f.StringVar(&o.Results, "results", "", "where results go; -: to the standard output")
	f.StringVar(&s.resultsFormat, "results-format", "", "ndjson or csv (default: told by --results and the input)")
	f.StringVar(&o.FailedOnly, "failed-only", "", "a file for the requests that can be sent again")
	f.BoolVar(&o.Overwrite, "overwrite", false, "replace files of results that exist")
	f.BoolVar(&s.resume, "resume", false, "go on with what was begun")
	f.BoolVar(&s.giveUp, "give-up", false, "with --resume: where nobody can tell any more what became of a batch, report its requests as UNKNOWN and go on")
	f.BoolVar(&s.dryRun, "dry-run", false, "check the file, and send nothing")
	f.BoolVar(&s.quiet, "quiet", false, "show no progress")
	f.BoolVar(&s.asJSON, "json", false, "print the summary as JSON on the standard output")
	return c
}

func (s *submission) run(ctx context.Context, c *cobra.Command) error {
	switch {
	case s.giveUp && !s.resume:
		return usagef("--give-up is for --resume")
	case s.resume && s.dryRun:
		return usagef("--dry-run checks a file before it is begun, and --resume goes on with one")
	}
	if err := s.check(); err != nil {
		return err
	}
	r, err := s.start(c)
	if err != nil || r == nil {
		return err
	}
	o, err := s.resolve()
	if err != nil {
		return errors.Join(err, r.Close())
	}
	stop := func() {}
	if !s.quiet {
		stop = showProgress(c.ErrOrStderr(), environment(s.environ), r.Snapshot)
	}
	summary, err := r.Do(ctx, func(retryFor time.Duration, onRetry func(error, time.Duration)) (*client.Client, error) {
		return newClient(o, retryFor, onRetry)
	})
	stop()
	if err != nil {
		return s.unfinished(ctx, r, err)
	}
	if s.asJSON {
		err = writeJSON(c.OutOrStdout(), summary)
	} else {
		err = summarize(c.ErrOrStderr(), summary)
	}
	if err == nil && summary.Completed < summary.Requests {
		err = endsWith(exitSomeFailed)
	}
	return err
}

// check reads what the flags say in words of their own.
func (s *submission) check() error {
	o := &s.options
	o.Input.Format, o.ResultsFormat = submit.Format(s.format), submit.Format(s.resultsFormat)
	switch o.Input.Format {
	case "", submit.NDJSON, submit.JSON, submit.CSV:
	default:
		return usagef("--format is %q and has to be ndjson, json or csv", s.format)
	}
	switch o.ResultsFormat {
	case "", submit.NDJSON, submit.CSV:
	default:
		return usagef("--results-format is %q and has to be ndjson or csv", s.resultsFormat)
	}
	if d := strings.ReplaceAll(s.delimiter, `\t`, "\t"); d != "" {
		r, size := utf8.DecodeRuneInString(d)
		if size != len(d) || r == utf8.RuneError || strings.ContainsRune("\"\r\n", r) {
			return usagef("--delimiter is %q and has to be one character", s.delimiter)
		}
		o.Input.Delimiter = r
	}
	if s.asJSON && o.Results == "-" {
		return usagef("--json and --results - both want the standard output")
	}
	if file, ok := strings.CutPrefix(o.Input.Template, "@"); ok {
		text, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		o.Input.Template = string(text)
	}
	return nil
}

// start plans and begins a submission, or goes on with one. It returns none where nothing was
// to be sent.
func (s *submission) start(c *cobra.Command) (*submit.Run, error) {
	if s.resume {
		r, err := submit.Resume(s.options.Input.Path, s.giveUp, c.OutOrStdout())
		if err != nil {
			return nil, err
		}
		begun := r.Header()
		if name := s.differs(c, begun); name != "" {
			return nil, errors.Join(usagef("--resume goes on as it was begun, and it was begun with another --%s", name), r.Close())
		}
		if s.server == "" {
			s.server = begun.Server
		}
		if s.store != "" && s.store != begun.Store {
			return nil, errors.Join(usagef("the submission was begun for the store %s, and --store names %s", begun.Store, s.store), r.Close())
		}
		s.store = begun.Store
		return r, nil
	}
	if !s.dryRun {
		o, err := s.resolve() // what is missing is told before a long file is read
		if err != nil {
			return nil, err
		}
		s.options.Server, s.options.Store = o.Server, o.Store
	}
	p, err := submit.NewPlan(s.options)
	if err != nil {
		return nil, err
	}
	if s.dryRun {
		if s.asJSON {
			return nil, writeJSON(c.OutOrStdout(), map[string]any{"valid": true, "requests": p.Requests, "batches": p.Batches})
		}
		fmt.Fprintf(c.ErrOrStderr(), "%s is fine: %s in %s. Nothing was sent.\n", s.options.Input.Path,
			plural(p.Requests, "request", "requests"), plural(p.Batches, "batch", "batches"))
		return nil, nil
	}
	return p.Start(c.OutOrStdout())
}

// differs names a flag that is given and says something else than when the submission was
// begun. The same command line with --resume behind it goes on.
func (s *submission) differs(c *cobra.Command, begun submit.Header) string {
	o := &s.options
	for _, flag := range []struct {
		name string
		same bool
	}{
		{"template", o.Input.Template == begun.Template},
		{"format", o.Input.Format == begun.Format},
		{"delimiter", string(o.Input.Delimiter) == begun.Delimiter},
		{"parallel", o.Parallel == begun.Parallel},
		{"stop-on-failure", o.StopOnFailure == begun.StopOnFailure},
		{"group", o.GroupID == begun.GroupID},
		{"results", samePath(o.Results, begun.Results)},
		{"results-format", o.ResultsFormat == begun.ResultsFormat},
		{"failed-only", samePath(o.FailedOnly, begun.FailedOnly)},
	} {
		if c.Flags().Changed(flag.name) && !flag.same {
			return flag.name
		}
	}
	return ""
}

func samePath(a, b string) bool {
	absA, errA := filepath.Abs(a)
	absB, errB := filepath.Abs(b)
	return a == b || errA == nil && errB == nil && absA == absB
}

// unfinished says how to go on.
func (s *submission) unfinished(ctx context.Context, r *submit.Run, err error) error {
	hint := "; nothing was sent"
	if r.Begun() {
		now := r.Snapshot()
		hint = fmt.Sprintf("; %s of %s requests have ended, and what was handed over goes on at the service\n  go on:   sheaf submit %s --resume\n  stop it: sheaf cancel --group %s",
			commas(now.Done), commas(now.Requests), s.options.Input.Path, r.Header().GroupID)
	}
	if ctx.Err() != nil {
		return &interrupted{hint}
	}
	return fmt.Errorf("%w%s", err, hint)
}

// summarize tells people what became of a submission.
func summarize(w io.Writer, s *submit.Summary) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s in %s: %s completed, %s failed, %s not executed", plural(s.Requests, "request", "requests"), plural(s.Batches, "batch", "batches"),
		commas(s.Completed), commas(s.Failed), commas(s.NotExecuted))
	if s.Unknown > 0 {
		fmt.Fprintf(&b, ", %s unknown", commas(s.Unknown))
	}
	fmt.Fprintf(&b, " (group %s)\n", s.GroupID)
	for _, g := range s.Groups {
		code := g.Status
		if g.Code != 0 {
			code = fmt.Sprint(g.Code)
		}
		fmt.Fprintf(&b, "%8s × %s %s (first: line %d)\n", commas(g.Count), code, g.Message, g.Line)
	}
	if s.InDoubt > 0 {
		fmt.Fprintf(&b, "Of the failed ones, %s may have been carried out: look before sending them again.\n", commas(s.InDoubt))
	}
	if s.Results != "-" {
		fmt.Fprintf(&b, "Results: %s\n", short(s.Results))
	}
	if s.FailedOnly != "" {
		fmt.Fprintf(&b, "To send again: %s\n", short(s.FailedOnly))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// short returns a path as seen from here, if that is shorter.
func short(path string) string {
	here, err := os.Getwd()
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(here, path); err == nil && len(rel) < len(path) {
		return rel
	}
	return path
}
