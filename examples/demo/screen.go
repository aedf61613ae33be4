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

// screen is where the demo tells what it does. A terminal gets a progress bar and a
// little colour, anything else plain lines.
type screen struct {
	out      io.Writer
	terminal bool
	colour   bool
	endBar   func() // nil: none is shown
}

func newScreen(f *os.File) *screen {
	terminal := term.IsTerminal(int(f.Fd()))
	return &screen{out: f, terminal: terminal, colour: terminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

// Terminal attributes (ECMA-48, SGR).
const (
	bold  = "1"
	red   = "31"
	green = "32"
)

func (s *screen) paint(attribute, text string) string {
	if !s.colour {
		return text
	}
	return "\x1b[" + attribute + "m" + text + "\x1b[0m"
}

func (s *screen) say(format string, args ...any) { fmt.Fprintf(s.out, format+"\n", args...) }

func (s *screen) heading(text string) { s.say("\n%s", s.paint(bold, text)) }

// progress returns a function that shows how far a batch is.
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
		bar.Abort(false) // no more than what has ended stays on the screen
		bars.Wait()
	}
	return func(now *client.Batch) {
		status.Store(now.Status)
		bar.SetTotal(int64(now.TotalRequests), false)
		bar.SetCurrent(int64(now.CompletedRequests))
	}
}

// endProgress leaves the progress as it is now.
func (s *screen) endProgress() {
	if s.endBar != nil {
		s.endBar()
		s.endBar = nil
	}
}

// summary tells how a batch ended: the counts, what failed, some of the rest.
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
	s.table("What failed, and why", failed)
	s.table("Some of what was done", shown)
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

// message is what an answer says: its errorMessage, or else the beginning of its body.
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

// next says what a visitor can try by hand.
func (s *screen) next() {
	s.heading("What to try next")
	s.say(`
  The same by hand. A store and the service, each in a terminal of its own:

    go run ./examples/store/cmd/store --latency 200ms
    make build && bin/sheaf serve --upstream 'http://127.0.0.1:9000/api/v3/{storeId}'

  A batch of two requests, which is answered with a ticket; then its status:

    curl -H 'Authorization: Bearer me' -H 'Content-Type: application/json' \
      'http://127.0.0.1:8080/api/v3/1/batch?stopOnFirstFailure=false' \
      -d '[{"id":"a","method":"POST","path":"/products","body":{"name":"Mug","sku":"M"}},
           {"id":"b","method":"GET","path":"/products"}]'
    curl -H 'Authorization: Bearer me' 'http://127.0.0.1:8080/api/v3/1/batch?ticket=TICKET'

  What arrived at the store, as it came:

    curl -H 'Authorization: Bearer me' http://127.0.0.1:9000/api/v3/1/ledger

  Send it again: the SKU is taken now. Kill the service while it works, start it
  again, and look.`)
}
