package dashboard

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html/template"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/dustin/go-humanize"
)

// helpers are what the pages' templates can call.
var helpers = template.FuncMap{
	"number": number, "span": span, "bytes": size, "moment": moment, "iso": iso,
	"store": storePage, "batch": func(store, ticket string) string { return storePage(store) + "/batches/" + url.PathEscape(ticket) },
	"percent": func(part, all int) int { return 100 * part / max(all, 1) },
	"words": func(pairs ...any) map[string]any {
		out := map[string]any{}
		for i := 0; i+1 < len(pairs); i += 2 {
			out[fmt.Sprint(pairs[i])] = pairs[i+1]
		}
		return out
	},
	"keys": sortedKeys[string],
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// number writes a number as people do.
func number(n int) string { return humanize.Comma(int64(n)) }

// size writes a number of bytes as people do.
func size(n any) string {
	switch n := n.(type) {
	case int:
		return humanize.IBytes(uint64(max(n, 0)))
	case int64:
		return humanize.IBytes(uint64(max(n, 0)))
	}
	return ""
}

// span writes a duration as people do: two units at most.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "0 s"
	case d < time.Second:
		return strconv.FormatInt(d.Milliseconds(), 10) + " ms"
	case d < 10*time.Second:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + " s"
	case d < time.Minute:
		return strconv.FormatFloat(d.Seconds(), 'f', 0, 64) + " s"
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days", int(d.Hours()/24))
}

// moment writes a moment; the script turns it into the browser's time.
func moment(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// iso is a moment for machines.
func iso(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// show prepares a body to be shown, or the beginning of one that is longer.
func show(body []byte, length int) text {
	t := text{Kind: "text", Bytes: max(len(body), length), Text: string(body)}
	switch {
	case len(body) == 0:
		t.Kind = "none"
		return t
	case length > 0:
		t.Cut = true
		if !utf8.Valid(body) {
			t.Kind, t.Text = "binary", ""
		}
		return t
	case !utf8.Valid(body):
		t.Kind, t.Text = "binary", ""
		return t
	case json.Valid(body):
		t.Kind, t.Text = "JSON", pretty(body)
	}
	return t
}

// pretty is a JSON text with line ends and indents, unless these make it much longer, as deep
// nesting does.
func pretty(body []byte) string {
	var b bytes.Buffer
	if indented(body) > 2*maxShown || json.Indent(&b, body, "", "  ") != nil {
		return string(body)
	}
	return b.String()
}

// indented returns about how long a JSON text is with indents.
func indented(body []byte) int {
	length, depth, inText := len(body), 0, false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case inText && c == '\\':
			i++
		case c == '"':
			inText = !inText
		case inText:
		case c == '{' || c == '[':
			depth++
			length += 1 + 2*depth
		case c == '}' || c == ']':
			depth--
			length += 1 + 2*depth
		case c == ',':
			length += 1 + 2*depth
		}
	}
	return length
}

// activity is the API's count of the last hour.
type activity struct {
	Minutes []struct {
		At                         time.Time
		Completed, Failed, InDoubt float64 // InDoubt: of the failed ones
	}
	Complete bool
}

// The plot's size, in its own units.
const (
	plotWidth, plotHeight = 600, 100
)

// plot is a chart of the last hour: a column for each minute.
type plot struct {
	Columns                    []column
	Completed, Failed, InDoubt int    // Failed: without those in doubt
	Most                       int    // in a minute
	From                       string // the first minute
	Complete                   bool
}

// column is a minute: three stacked bars.
type column struct {
	X, Width, FineY, FineHeight, FailedY, FailedHeight, DoubtY, DoubtHeight string
	Title                                                                   string
}

// draw makes a chart.
func draw(a *activity) plot {
	p := plot{Complete: a.Complete}
	most, fine, failed, doubtful := 1.0, 0.0, 0.0, 0.0
	for _, m := range a.Minutes {
		most, fine, failed, doubtful = max(most, m.Completed+m.Failed), fine+m.Completed, failed+m.Failed, doubtful+m.InDoubt
	}
	p.Completed, p.Failed, p.InDoubt, p.Most = int(fine+0.5), int(failed-doubtful+0.5), int(doubtful+0.5), int(most+0.5)
	if fine+failed == 0 {
		p.Most = 0
	}
	width := plotWidth / float64(max(len(a.Minutes), 1))
	for i, m := range a.Minutes {
		if i == 0 {
			p.From = moment(m.At)
		}
		f, b, u := plotHeight*m.Completed/most, plotHeight*(m.Failed-m.InDoubt)/most, plotHeight*m.InDoubt/most
		p.Columns = append(p.Columns, column{
			X: decimal(float64(i)*width + 1), Width: decimal(width - 2),
			FineY: decimal(plotHeight - f), FineHeight: decimal(f), FailedY: decimal(plotHeight - f - b), FailedHeight: decimal(b),
			DoubtY: decimal(plotHeight - f - b - u), DoubtHeight: decimal(u),
			Title: fmt.Sprintf("%s: %.0f completed, %.0f failed, %.0f in doubt", m.At.UTC().Format("15:04 UTC"), m.Completed, m.Failed-m.InDoubt, m.InDoubt),
		})
	}
	return p
}

func decimal(f float64) string { return strconv.FormatFloat(f, 'f', 1, 64) }

// wide is the width of a bar's room, in its own units.
const wide = 1000

// waterfall is where on a line of time the requests of a batch lie.
type waterfall struct {
	from, now time.Time
	length    time.Duration
	Length    string
	Lines     []bar // of all requests, in order
	Height    int
	Label     string
}

// bar is a request on the timeline: the wait for its turn, the time in which the API throttled it,
// the attempts that followed, and the time until the next attempt.
type bar struct {
	Y                                       int
	Class                                   string
	Empty                                   bool // it was not sent
	Start, Width, Throttled, ThrottledWidth string
	Wait                                    string
	Next, NextWidth                         string
	Title                                   string
}

// lineHeight is how high a line of the whole is.
const lineHeight = 2

// fall lays the requests out.
func fall(t *timeline, now time.Time) waterfall {
	f := waterfall{from: t.StartedAt, now: now}
	end := t.FinishedAt
	if end.IsZero() {
		end = now
	}
	if f.from.IsZero() {
		f.from = now
	}
	for i := range t.Requests {
		p := &t.Requests[i]
		if !p.StartedAt.IsZero() && p.StartedAt.Before(f.from) {
			f.from = p.StartedAt // another node's clock
		}
		for _, m := range []time.Time{p.EndedAt, p.NextAttemptAt} {
			if m.After(end) && m.Sub(now) < time.Hour {
				end = m
			}
		}
	}
	f.length = max(end.Sub(f.from), time.Millisecond)
	f.Length = span(f.length)
	for i := range t.Requests {
		b := f.bar(&t.Requests[i])
		b.Y = i * lineHeight
		f.Lines = append(f.Lines, b)
	}
	f.Height = max(len(t.Requests)*lineHeight, 1)
	f.Label = fmt.Sprintf("The %s requests over %s, first to last from top to bottom; the table below tells each.", number(len(t.Requests)), f.Length)
	return f
}

// at is a moment's place on the line.
func (f *waterfall) at(t time.Time) float64 {
	return min(max(wide*float64(t.Sub(f.from))/float64(f.length), 0), wide)
}

// bar lays one request out.
func (f *waterfall) bar(p *progress) bar {
	b := bar{Class: "s-" + p.Status}
	if p.StartedAt.IsZero() {
		b.Empty, b.Title = true, p.Status
		return b
	}
	end := p.EndedAt
	if end.IsZero() || p.Status == "RUNNING" {
		end = f.now
	}
	from, to := f.at(p.StartedAt), f.at(end)
	b.Wait = decimal(from)
	b.Title = fmt.Sprintf("%s after %s in the batch, %s, %d attempts", p.Status, span(p.StartedAt.Sub(f.from)), span(end.Sub(p.StartedAt)), p.Attempts)
	if p.Throttles > 0 {
		// Attempts that were answered 429 come first; the attempt with the outcome is last.
		last := to
		if !p.LastAttemptAt.IsZero() {
			last = min(max(f.at(p.LastAttemptAt), from), to)
		}
		b.Throttled, b.ThrottledWidth = decimal(from), decimal(last-from)
		b.Title += fmt.Sprintf(", throttled %d times", p.Throttles)
		from = min(last, to-2)
	}
	b.Start, b.Width = decimal(max(from, 0)), decimal(max(to-from, 2))
	if p.Status == "WAITING" && p.NextAttemptAt.After(end) {
		b.Next, b.NextWidth = decimal(to), decimal(max(f.at(p.NextAttemptAt)-to, 0))
	}
	return b
}
