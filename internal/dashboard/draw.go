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

// helpers are the functions that the templates can call.
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

// short returns the first characters of a ticket, enough to tell batches apart.
func short(ticket string) string { return ticket[:min(8, len(ticket))] }

// number formats a number with thousands separators.
func number(n int) string { return humanize.Comma(int64(n)) }

// size formats a number of bytes with a unit.
func size(n any) string {
	switch n := n.(type) {
	case int:
		return humanize.IBytes(uint64(max(n, 0)))
	case int64:
		return humanize.IBytes(uint64(max(n, 0)))
	}
	return ""
}

// span formats a duration with at most two units.
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

// moment formats a time in UTC. The script converts it to the browser's time zone.
func moment(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

// iso formats a time for the datetime attribute.
func iso(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

// newBodyView prepares a body for the page. If body is only the beginning, length is the length of
// the whole body; otherwise it is 0.
func newBodyView(body []byte, length int) bodyView {
	t := bodyView{Kind: "text", Bytes: max(len(body), length), Text: string(body)}
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

// pretty indents a JSON text. It returns deeply nested texts unchanged, because indentation would
// make them very long.
func pretty(body []byte) string {
	var b bytes.Buffer
	if indentedLen(body) > 2*maxShown || json.Indent(&b, body, "", "  ") != nil {
		return string(body)
	}
	return b.String()
}

// indentedLen estimates the length of a JSON text after indentation.
func indentedLen(body []byte) int {
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

// activity is the API's count of requests that finished in the last hour.
type activity struct {
	Minutes []struct {
		At                         time.Time
		Completed, Failed, InDoubt float64 // Failed includes InDoubt
	}
	Complete bool
}

// The size of the chart, in the units of its viewBox.
const (
	plotWidth, plotHeight = 600, 100
)

// plot is a chart of the last hour with a column for each minute.
type plot struct {
	Columns                    []column
	Completed, Failed, InDoubt int    // Failed doesn't include InDoubt
	Most                       int    // the maximum number of requests in one minute
	From                       string // the first minute
	Complete                   bool
}

// column is one minute, drawn as three stacked bars.
type column struct {
	X, Width, FineY, FineHeight, FailedY, FailedHeight, DoubtY, DoubtHeight string
	Title                                                                   string
}

// newPlot computes the chart.
func newPlot(a *activity) plot {
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

// axisWidth is the width of the time axis, in the units of its viewBox.
const axisWidth = 1000

// waterfall lays out the requests of a batch on a time axis.
type waterfall struct {
	from, now time.Time
	length    time.Duration
	Length    string
	Lines     []bar // one for each request, in order
	Height    int
	Label     string
}

// bar is one request on the time axis: the wait for its turn, the time when the API throttled it,
// the attempts that followed, and the wait for the next attempt.
type bar struct {
	Y                                       int
	Class                                   string
	Empty                                   bool // the request has not been sent
	Start, Width, Throttled, ThrottledWidth string
	Wait                                    string
	Next, NextWidth                         string
	Title                                   string
}

// lineHeight is the height of a request's line in the overview.
const lineHeight = 2

// newWaterfall computes the overview of a batch.
func newWaterfall(t *timeline, now time.Time) waterfall {
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
			f.from = p.StartedAt // another node's clock can be behind
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
	f.Label = fmt.Sprintf("Timeline of %s requests over %s, in order from top to bottom. The table below has the details.", number(len(t.Requests)), f.Length)
	return f
}

// at returns the position of a time on the axis.
func (f *waterfall) at(t time.Time) float64 {
	return min(max(axisWidth*float64(t.Sub(f.from))/float64(f.length), 0), axisWidth)
}

// bar computes the bar of one request.
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
	b.Title = fmt.Sprintf("%s, started after %s, took %s, %d attempts", p.Status, span(p.StartedAt.Sub(f.from)), span(end.Sub(p.StartedAt)), p.Attempts)
	if p.Throttles > 0 {
		// The attempts that got 429 come first, and the attempt with the outcome is the last.
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
