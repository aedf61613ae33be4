package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sheafapi/sheaf/client"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/private"
	"github.com/sheafapi/sheaf/internal/submit"
	"github.com/spf13/cobra"
)

// submission holds the flags of sheaf submit.
type submission struct {
	remote
	options           submit.Options
	delimiter, format string
	resultsFormat     string
	resume, giveUp    bool
	dryRun, asJSON    bool
	quiet             bool
	retries           int
}

func newSubmit(environ []string) *cobra.Command {
	s := &submission{}
	c := &cobra.Command{
		Use:   "submit FILE",
		Short: "Send the requests of a file, in batches, and write the results beside it",
		Long: `Send the requests of a file in batches of up to 500, all in one group. Wait for them and write the
result of each, in the order of the file.

FILE holds one request per line (NDJSON), an array of requests (JSON), or a table (CSV) whose first
line names the columns. - means standard input. For a table, --template makes a request from
each row: {{column}} stands for the column's text. It becomes a JSON string in place of a whole
value, escaped text inside a string, and percent-encoded text in the path. {{column:number}},
{{column:bool}} and {{column:json}} check the text and insert it as that type. With a ? at the end,
as in {{column:number?}}, an empty cell becomes null. Write literal braces as \u007b\u007b.

Tables are read as spreadsheets write them. The delimiter, line ends and byte order mark are
detected and kept in the results, and blank rows are skipped. A file that isn't UTF-8 and has no
byte order mark needs --encoding. Text that isn't in that encoding is an error.

The whole file is checked before anything is sent. Sheaf waits while the connection or the service
is down. After Ctrl-C or a crash, --resume continues and sends nothing twice. FILE.sheaf-run records
the progress and is removed at the end.

Results go to FILE with .results.csv or .results.ndjson in place of its extension. In CSV, text from
the API that a spreadsheet would run as a formula gets a leading apostrophe, unless --raw is given.
With --failed-only, the requests that can be sent again are written in the input's format. Requests
whose outcome is unknown are not among them.

` + exitCodes,
		Example: `  sheaf submit calls.ndjson --store 1003
  sheaf submit prices.csv --store 1003 --failed-only again.csv \
    --template '{"method":"PUT","path":"/products/{{id}}","body":{"price":{{price:number}}}}'
  sheaf submit prices.csv --resume`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 || args[0] == "" {
				return usagef("sheaf submit takes the name of one file, or - for standard input; see sheaf submit --help")
			}
			return nil
		},
		RunE: interruptible(func(ctx context.Context, c *cobra.Command, args []string) error {
			s.options.Input.Path = args[0]
			if args[0] == "-" {
				return s.runSpooled(ctx, c)
			}
			return s.run(ctx, c)
		}),
	}
	f := c.Flags()
	f.SortFlags = false
	s.flags(c, environ)
	o := &s.options
	f.StringVar(&o.Input.Template, "template", "", "the request for each row of CSV; @FILE reads it from a file")
	f.StringVar(&s.format, "format", "", "ndjson, json or csv (default: from the file)")
	f.StringVar(&o.Input.Encoding, "encoding", "", "an encoding's IANA name, such as windows-1252 (default utf-8)")
	f.StringVar(&s.delimiter, "delimiter", "", `the character between columns of CSV, or \t (default: detected)`)
	f.BoolVar(&o.Input.DecimalComma, "decimal-comma", false, "read numbers with a decimal comma in CSV: 1.234,50")
	f.BoolVar(&o.Parallel, "parallel", false, "run several requests of a batch at once, in any order")
	f.IntVar(&o.Concurrency, "concurrency", 0, "with --parallel: how many requests at once, up to 100")
	f.BoolVar(&o.StopOnFailure, "stop-on-failure", false, "start no request after the first failure")
	f.IntVar(&s.retries, "retries", 0, "retries of a failed request, 0 to 50 (default: the service's)")
	f.StringVar(&o.RetryBackoff, "retry-backoff", "", "pauses before retries: fixed:3s or exponential:1s..5m")
	f.StringVar(&o.SuccessStatus, "success-status", "", "codes that count as success: 200,201,404 or 2xx,404")
	f.StringVar(&o.FailWhen, "fail-when", "", "JSON pointers to values that mean a failure: /errors")
	f.StringVar(&o.GroupID, "group", "", "the group's name (default: a new one)")
	f.StringVar(&o.Results, "results", "", "the results file; - means standard output")
	f.StringVar(&s.resultsFormat, "results-format", "", "ndjson or csv (default: from --results and the input)")
	f.StringVar(&o.FailedOnly, "failed-only", "", "a file for the requests that can be sent again")
	f.BoolVar(&o.Overwrite, "overwrite", false, "replace existing results files")
	f.BoolVar(&o.Raw, "raw", false, "write text from the API into CSV unchanged, formulas included")
	f.BoolVar(&s.resume, "resume", false, "continue an unfinished submission")
	f.BoolVar(&s.giveUp, "give-up", false, "with --resume: report requests of lost batches as UNKNOWN")
	f.BoolVar(&s.dryRun, "dry-run", false, "check the file and send nothing")
	f.BoolVar(&s.quiet, "quiet", false, "show no progress")
	f.BoolVar(&s.asJSON, "json", false, "print the summary as JSON on standard output")
	return c
}

func (s *submission) run(ctx context.Context, c *cobra.Command) error {
	switch {
	case s.giveUp && !s.resume:
		return usagef("--give-up needs --resume")
	case s.resume && s.dryRun:
		return usagef("--dry-run checks a file before it is sent, so it can't be combined with --resume")
	}
	if err := s.check(c); err != nil {
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
		return s.unfinished(ctx, c, r, err)
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

// check parses and checks the flags.
func (s *submission) check(c *cobra.Command) error {
	o := &s.options
	o.Input.Format, o.ResultsFormat = submit.Format(s.format), submit.Format(s.resultsFormat)
	if c.Flags().Changed("retries") {
		o.Retries = &s.retries
	}
	if err := checkChoices(&o.Choices); err != nil {
		return err
	}
	switch o.Input.Format {
	case "", submit.NDJSON, submit.JSON, submit.CSV:
	default:
		return usagef("--format is %q but must be ndjson, json or csv", s.format)
	}
	switch o.ResultsFormat {
	case "", submit.NDJSON, submit.CSV:
	default:
		return usagef("--results-format is %q but must be ndjson or csv", s.resultsFormat)
	}
	if d := strings.ReplaceAll(s.delimiter, `\t`, "\t"); d != "" {
		r, size := utf8.DecodeRuneInString(d)
		if size != len(d) || r == utf8.RuneError || strings.ContainsRune("\"\r\n", r) {
			return usagef("--delimiter is %q but must be one character", s.delimiter)
		}
		o.Input.Delimiter = r
	}
	if s.asJSON && o.Results == "-" {
		return usagef("--json and --results - would both write to standard output")
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

// checkChoices returns an error if the service would refuse the options of the batches.
func checkChoices(o *submit.Choices) error {
	switch {
	case o.Concurrency < 0 || o.Concurrency > batch.MaxParallel:
		return usagef("--concurrency must be from 1 to %d", batch.MaxParallel)
	case o.Concurrency > 1 && !o.Parallel:
		return usagef("--concurrency can be more than 1 only with --parallel")
	case o.Retries != nil && (*o.Retries < 0 || *o.Retries > batch.MaxRetries):
		return usagef("--retries must be from 0 to %d", batch.MaxRetries)
	case o.RetryBackoff != "" && o.Retries == nil && o.StopOnFailure:
		return usagef("--retry-backoff has no effect with --stop-on-failure, unless --retries is given")
	}
	for _, flag := range []struct {
		name, text string
		check      func(string) error
	}{
		{"retry-backoff", o.RetryBackoff, func(s string) error { _, err := batch.ParseBackoff(s); return err }},
		{"success-status", o.SuccessStatus, func(s string) error { _, err := batch.ParseCodes(s); return err }},
		{"fail-when", o.FailWhen, func(s string) error { _, err := batch.ParseFailWhen(s); return err }},
	} {
		if flag.text == "" {
			continue
		}
		if err := flag.check(flag.text); err != nil {
			return usagef("--%s is %q but %v", flag.name, flag.text, err)
		}
	}
	return nil
}

// runSpooled submits standard input. It first stores the input in a file in the current directory. The
// file stays there until the submission is finished.
func (s *submission) runSpooled(ctx context.Context, c *cobra.Command) error {
	if s.resume {
		return usagef("--resume takes the name of the file in which standard input was stored")
	}
	path, err := s.spool(c.InOrStdin())
	if err != nil {
		return err
	}
	s.options.Input.Path = path
	err = s.run(ctx, c)
	if _, e := os.Lstat(submit.JournalPath(path)); errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, os.Remove(path))
	}
	return err
}

// spool stores standard input in a file.
func (s *submission) spool(in io.Reader) (path string, err error) {
	path = "sheaf-stdin-" + strings.ReplaceAll(time.Now().UTC().Format("20060102T150405.000"), ".", "")
	switch {
	case s.format != "":
		path += "." + s.format
	case s.options.Input.Template != "":
		path += ".csv"
	}
	f, err := private.Open(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(f, in)
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(fmt.Errorf("store standard input in %s: %w", path, err), os.Remove(path))
	}
	return path, nil
}

// allow returns an error if the submission that a journal describes must not be resumed. The token is sent
// only to the server and store that the user names. The submission writes only files that the user names,
// or default-named files next to the input.
func (s *submission) allow(c *cobra.Command, begun submit.Header) error {
	o, err := s.resolve()
	if err != nil {
		return err
	}
	if !sameServer(o.Server, begun.Server) || o.Store != begun.Store {
		return usagef("the submission was started with store %s at %s, but now it is store %s at %s: name the same store and server with --store and --server", begun.Store, begun.Server, o.Store, o.Server)
	}
	if name := s.differs(c, begun); name != "" {
		return usagef("--resume continues a submission with the flags it was started with, but it was started with another --%s", name)
	}
	if !c.Flags().Changed("results") && begun.Results != "-" && !begun.IsBeside(s.options.Input.Path) {
		return usagef("the results go to %s: name it again with --results", begun.Results)
	}
	if !c.Flags().Changed("failed-only") && begun.FailedOnly != "" {
		return usagef("the requests to send again go to %s: name it again with --failed-only", begun.FailedOnly)
	}
	return nil
}

// start plans and starts a submission, or resumes one. The run is nil if there is nothing to send.
func (s *submission) start(c *cobra.Command) (*submit.Run, error) {
	if s.resume {
		return submit.Resume(s.options.Input.Path, s.giveUp, func(begun submit.Header) error { return s.allow(c, begun) }, c.OutOrStdout())
	}
	if !s.dryRun {
		o, err := s.resolve() // reports what is missing before a long file is read
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
			return nil, writeJSON(c.OutOrStdout(), map[string]any{"valid": true, "requests": p.Requests, "batches": p.Batches, "blankRows": p.Blank})
		}
		fmt.Fprintf(c.ErrOrStderr(), "%s is fine: %s in %s%s. Nothing was sent.\n", s.options.Input.Path,
			plural(p.Requests, "request", "requests"), plural(p.Batches, "batch", "batches"), skipped(p.Blank))
		return nil, nil
	}
	return p.Start(c.OutOrStdout())
}

// differs returns the name of a flag whose value has changed since the start of the submission. The
// original command line, with --resume added, is valid.
func (s *submission) differs(c *cobra.Command, begun submit.Header) string {
	o := &s.options
	for _, flag := range []struct {
		name string
		same bool
	}{
		{"template", o.Input.Template == begun.Template},
		{"format", o.Input.Format == begun.Format},
		{"encoding", o.Input.Encoding == begun.Encoding},
		{"delimiter", string(o.Input.Delimiter) == begun.Delimiter},
		{"decimal-comma", o.Input.DecimalComma == begun.DecimalComma},
		{"raw", o.Raw == begun.Raw},
		{"parallel", o.Parallel == begun.Parallel},
		{"concurrency", o.Concurrency == begun.Concurrency},
		{"stop-on-failure", o.StopOnFailure == begun.StopOnFailure},
		{"retries", begun.Retries != nil && s.retries == *begun.Retries},
		{"retry-backoff", o.RetryBackoff == begun.RetryBackoff},
		{"success-status", o.SuccessStatus == begun.SuccessStatus},
		{"fail-when", o.FailWhen == begun.FailWhen},
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

// skipped describes how many blank rows were skipped.
func skipped(blank int) string {
	if blank == 0 {
		return ""
	}
	return ", " + plural(blank, "blank row", "blank rows") + " skipped"
}

// unfinished adds to an error how to continue.
func (s *submission) unfinished(ctx context.Context, c *cobra.Command, r *submit.Run, err error) error {
	hint := "; nothing was sent"
	if r.Begun() {
		now := r.Snapshot()
		hint = fmt.Sprintf("; %s of %s requests have ended, and the service continues with the batches that it has\n  continue: sheaf submit %s --resume%s\n  stop it:  sheaf cancel --group %s",
			commas(now.Done), commas(now.Requests), quoted(s.options.Input.Path), s.again(c), quoted(r.Header().GroupID))
	}
	if ctx.Err() != nil {
		return &interrupted{hint}
	}
	return fmt.Errorf("%w%s", err, hint)
}

// again returns the flags that --resume needs again, with their values.
func (s *submission) again(c *cobra.Command) string {
	var b strings.Builder
	for _, name := range []string{"server", "store", "token-file", "context", "results", "failed-only"} {
		if f := c.Flags().Lookup(name); f.Changed {
			b.WriteString(" --" + name + " " + quoted(f.Value.String()))
		}
	}
	return b.String()
}

// quoted quotes a word for a POSIX shell if necessary.
func quoted(word string) string {
	if word != "" && strings.Trim(word, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-./:@%+=,") == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// summarize prints the outcome of a submission for people.
func summarize(w io.Writer, s *submit.Summary) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s in %s: %s completed, %s, %s not executed", plural(s.Requests, "request", "requests"), plural(s.Batches, "batch", "batches"),
		commas(s.Completed), failures(s.Failed, s.InDoubt), commas(s.NotExecuted))
	if s.Unknown > 0 {
		fmt.Fprintf(&b, ", %s unknown", commas(s.Unknown))
	}
	fmt.Fprintf(&b, "%s (group %s)\n", skipped(s.Blank), s.GroupID)
	for _, g := range s.Groups {
		code := g.Status
		if g.Code != 0 {
			code = fmt.Sprint(g.Code)
		}
		if g.Status == string(client.InDoubt) {
			code = "in doubt: " + code
		}
		fmt.Fprintf(&b, "%8s × %s %s (first: line %d)\n", commas(g.Count), code, g.Message, g.Line)
	}
	if s.InDoubt > 0 {
		fmt.Fprintf(&b, "In doubt: %s. The API may have carried them out; check before you send them again.\n", plural(s.InDoubt, "request", "requests"))
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

// short returns a path relative to the current directory if that is shorter.
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
