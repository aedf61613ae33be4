package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"sync/atomic"
	"text/tabwriter"
	"unicode/utf8"

	"github.com/sheafapi/sheaf/client"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// screen prints what the demo does. A terminal gets a progress bar and colors; other outputs get
// plain lines.
type screen struct {
	out      io.Writer
	terminal bool
	color    bool
	endBar   func() // nil: no bar is shown
}

func newScreen(f *os.File) *screen {
	terminal := term.IsTerminal(int(f.Fd()))
	return &screen{out: f, terminal: terminal, color: terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

// Terminal attributes (ECMA-48, SGR).
const (
	bold  = "1"
	red   = "31"
	green = "32"
)

func (s *screen) paint(attribute, text string) string {
	if !s.color {
		return text
	}
	return "\x1b[" + attribute + "m" + text + "\x1b[0m"
}

func (s *screen) say(format string, args ...any) { fmt.Fprintf(s.out, format+"\n", args...) }

func (s *screen) heading(text string) { s.say("\n%s", s.paint(bold, text)) }

// progress returns a function that shows the progress of a batch.
func (s *screen) progress() func(*client.Batch) {
	if s.terminal {
		return s.bar()
	}
	const step = 10
	shown := -step
	return func(now *client.Batch) {
		if now.CompletedRequests < shown+step && now.Status != client.Completed {
			return
		}
		shown = now.CompletedRequests - now.CompletedRequests%step
		s.say("  %-11s %2d of %d", now.Status, now.CompletedRequests, now.TotalRequests)
	}
}

func (s *screen) bar() func(*client.Batch) {
	var status atomic.Value
	status.Store(client.Queued)
	bars := mpb.New(mpb.WithOutput(s.out))
	bar := bars.New(0, mpb.BarStyle().Lbound("").Rbound("").Filler("━").Tip("╸").Padding("─"), mpb.BarWidth(40),
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return fmt.Sprintf("  %-11s ", status.Load()) })),
		mpb.AppendDecorators(decor.CountersNoUnit(" %d of %d")))
	s.endBar = func() {
		bar.Abort(false) // leave the completed part on the screen
		bars.Wait()
	}
	return func(now *client.Batch) {
		status.Store(now.Status)
		bar.SetTotal(int64(now.TotalRequests), false)
		bar.SetCurrent(int64(now.CompletedRequests))
	}
}

// endProgress ends the progress bar and leaves it on the screen.
func (s *screen) endProgress() {
	if s.endBar != nil {
		s.endBar()
		s.endBar = nil
	}
}

// summary prints the result of a batch: the counts, the failures, and some examples.
func (s *screen) summary(done *client.Batch, examples ...string) {
	var failed, shown []client.Response
	count := map[client.ResultStatus]int{}
	for _, r := range done.Responses {
		count[r.Status]++
		if r.Status == client.Failed {
			failed = append(failed, r)
		}
		if slices.Contains(examples, r.ID) {
			shown = append(shown, r)
		}
	}
	s.say("\n  %s: %d requests, %s, %s", s.paint(bold, string(done.Status)), done.TotalRequests,
		s.paint(green, fmt.Sprintf("%d completed", count[client.Succeeded])), s.paint(red, fmt.Sprintf("%d failed", count[client.Failed])))
	s.table("Failures", failed)
	s.table("Some other results", shown)
}

func (s *screen) table(title string, rows []client.Response) {
	if len(rows) == 0 {
		return
	}
	s.say("\n  %s", s.paint(bold, title))
	w := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	for _, r := range rows {
		fmt.Fprintf(w, "    %s\t%d %s", r.ID, r.StatusCode, r.StatusLine)
		if m := message(&r); m != "" {
			fmt.Fprint(w, "\t", m)
		}
		fmt.Fprintln(w)
	}
	w.Flush()
}

// message returns an answer's errorMessage, or the beginning of its body.
func message(r *client.Response) string {
	var p struct {
		Message string `json:"errorMessage"`
	}
	if json.Unmarshal(r.Body, &p) == nil && p.Message != "" {
		return p.Message
	}
	const width = 70
	text := string(r.Body)
	if utf8.RuneCountInString(text) > width {
		return string([]rune(text)[:width]) + "…"
	}
	return text
}

// next prints what to try next.
func (s *screen) next() {
	s.heading("What to try next")
	s.say(`
  Start the store and the service, each in its own terminal:

    go run ./examples/store/cmd/store --latency 200ms
    make build && bin/sheaf serve --upstream 'http://127.0.0.1:9000/api/v3/{storeId}'

  Create a batch of two requests, which returns a ticket, and read its status:

    curl -H 'Authorization: Bearer me' -H 'Content-Type: application/json' \
      'http://127.0.0.1:8080/api/v3/1/batch?stopOnFirstFailure=false' \
      -d '[{"id":"a","method":"POST","path":"/products","body":{"name":"Mug","sku":"M"}},
           {"id":"b","method":"GET","path":"/products"}]'
    curl -H 'Authorization: Bearer me' 'http://127.0.0.1:8080/api/v3/1/batch?ticket=TICKET'

  See what arrived at the store:

    curl -H 'Authorization: Bearer me' http://127.0.0.1:9000/api/v3/1/ledger

  Send the batch again: its POST fails, because the SKU already exists. Kill the
  service while it runs a batch, restart it, and read the status.`)
}
