package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/sheafapi/sheaf/internal/submit"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

const (
	barInterval  = 150 * time.Millisecond
	lineInterval = 5 * time.Second
)

// showProgress shows the progress of a submission until stop is called: as a live bar in a terminal,
// or as a line every few seconds.
func showProgress(w io.Writer, vars map[string]string, read func() submit.Snapshot) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		defer close(over)
		if isTerminal(w) {
			showBar(ctx, raw(w), vars["NO_COLOR"] == "", read)
		} else {
			showLines(ctx, w, read)
		}
	}()
	return func() {
		cancel()
		<-over
	}
}

func isTerminal(w io.Writer) bool {
	f, ok := raw(w).(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// pace measures how fast requests have ended recently.
type pace struct {
	points []point
}

type point struct {
	at   time.Time
	done int
}

// paceWindow is the time that a pace covers.
const paceWindow = 20 * time.Second

// take adds a measurement and returns requests per second.
func (p *pace) take(at time.Time, done int) float64 {
	p.points = append(p.points, point{at, done})
	for len(p.points) > 2 && at.Sub(p.points[1].at) >= paceWindow {
		p.points = p.points[1:]
	}
	span := at.Sub(p.points[0].at).Seconds()
	if span <= 0 {
		return 0
	}
	return float64(done-p.points[0].done) / span
}

// rate formats requests per second.
func rate(r float64) string {
	if r >= 10 {
		return commas(int(r)) + "/s"
	}
	return fmt.Sprintf("%.1f/s", r)
}

// left formats the estimated time until the submission ends.
func left(s submit.Snapshot, perSecond float64) string {
	if perSecond <= 0 {
		return ""
	}
	d := time.Duration(float64(s.Requests-s.Done) / perSecond * float64(time.Second))
	switch {
	case d >= 100*time.Hour:
		return ""
	case d >= time.Hour:
		return d.Round(time.Minute).String()[:len(d.Round(time.Minute).String())-2] + " left"
	}
	return d.Round(time.Second).String() + " left"
}

// hindrance says why no requests end.
func hindrance(s submit.Snapshot, now time.Time) string {
	if s.Problem != "" {
		return fmt.Sprintf("retrying in %s: %s", max(s.Until.Sub(now), 0).Round(time.Second), visibleText(s.Problem))
	}
	if s.Wait.For != "" {
		return waitingFor(s.Wait.For, s.Wait.Since)
	}
	if wait := s.Wait.Until.Sub(now).Round(time.Second); wait > 0 {
		return fmt.Sprintf("waiting %s for the API", wait)
	}
	return ""
}

func commas(n int) string { return humanize.Comma(int64(n)) }

// showBar draws a live progress bar.
func showBar(ctx context.Context, w io.Writer, color bool, read func() submit.Snapshot) {
	bars := mpb.New(mpb.WithOutput(w), mpb.WithRefreshRate(barInterval))
	var (
		p       pace
		now     submit.Snapshot
		average float64
	)
	look := func(decor.Statistics) string { // called first, once for each frame
		now = read()
		average = p.take(time.Now(), now.Done)
		return fmt.Sprintf("%s of %s ", commas(now.Done), commas(now.Requests))
	}
	failures := func(decor.Statistics) string {
		var out string
		for _, kind := range []struct {
			n     int
			word  string
			color string
		}{{now.Failed - now.InDoubt, "failed", "31"}, {now.InDoubt, "in doubt", "33"}} {
			if kind.n == 0 {
				continue
			}
			text := fmt.Sprintf(" · %s %s", commas(kind.n), kind.word)
			if color {
				text = "\x1b[" + kind.color + "m" + text + "\x1b[0m"
			}
			out += text
		}
		return out
	}
	tail := func(decor.Statistics) string {
		if why := hindrance(now, time.Now()); why != "" {
			return " · " + why
		}
		text := " · " + rate(average)
		if now.Done == now.Requests {
			return text
		}
		if l := left(now, average); l != "" {
			text += " · " + l
		}
		return text
	}
	bar := bars.New(0, mpb.BarStyle().Lbound("").Rbound("").Filler("━").Tip("╸").Padding("─"), mpb.BarWidth(30),
		mpb.PrependDecorators(decor.Any(look)),
		mpb.AppendDecorators(decor.Percentage(decor.WCSyncSpace), decor.Any(failures), decor.Any(tail)))
	bar.SetTotal(int64(read().Requests), false) // the bar ends with the results, not with the last request
	tick := time.NewTicker(barInterval)
	defer tick.Stop()
	for over := false; !over; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			over = true
		}
		bar.SetCurrent(int64(read().Done))
	}
	bar.Abort(false)
	bars.Wait()
}

// showLines writes a line every few seconds.
func showLines(ctx context.Context, w io.Writer, read func() submit.Snapshot) {
	var p pace
	p.take(time.Now(), read().Done)
	tick := time.NewTicker(lineInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		s, now := read(), time.Now()
		average := p.take(now, s.Done)
		parts := []string{fmt.Sprintf("%s of %s requests", commas(s.Done), commas(s.Requests)), fmt.Sprintf("%d %%", s.Done*100/max(s.Requests, 1)), rate(average)}
		if n := s.Failed - s.InDoubt; n > 0 {
			parts = append(parts, commas(n)+" failed")
		}
		if s.InDoubt > 0 {
			parts = append(parts, commas(s.InDoubt)+" in doubt")
		}
		if why := hindrance(s, now); why != "" {
			parts = append(parts, why)
		} else if l := left(s, average); l != "" {
			parts = append(parts, l)
		}
		fmt.Fprintln(w, strings.Join(parts, ", "))
	}
}
