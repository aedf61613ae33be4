// Package audit writes down who created, read and cancelled what: a JSON line for each
// call, without tokens, bodies, paths or queries.
package audit

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	// repeatAfter is how long the same read by the same caller with the same outcome is
	// not written down again: a poll a second would bury everything else.
	repeatAfter = time.Minute
	maxReads    = 50_000 // reads that are remembered for that
)

// polled are the actions that clients repeat all the time.
var polled = []string{"status", "search", "operator", "operator/quarantine"}

// Event is one call to a resource of batches or of operators, or a sign-in to the dashboard.
type Event struct {
	Action  string     // such as create, status, operator/quarantine/release or sign-in
	Store   string     // as the caller named it; empty: it can't be one
	Who     string     // a key's name, or the beginning of the SHA-256 of a token; empty: there was none
	Address netip.Addr // where the call came from
	Ticket  string     // of the batch that it is about, or that was created; empty: none
	Group   string     // likewise
	Status  int        // of the answer; 0: the connection was broken instead
}

// read is what a read is remembered by.
type read struct {
	action, store, who, ticket string
	status                     int
}

// Log writes events. It may be used by many goroutines.
type Log struct {
	lines *slog.Logger
	own   *slog.Logger

	mu    sync.Mutex
	reads *simplelru.LRU[read, time.Time]
	out   io.Writer
	lost  int // lines since the last one that could be written
}

// New returns a Log that writes to out, one call of Write for each line. That it fails is
// told to own, once, and how many lines were lost when it works again; nobody's call fails for it.
func New(out io.Writer, own *slog.Logger) *Log {
	reads, err := simplelru.NewLRU[read, time.Time](maxReads, nil)
	if err != nil {
		panic(err) //nolint:forbidigo // only for a size of 0
	}
	l := &Log{own: own, reads: reads, out: out}
	l.lines = slog.New(slog.NewJSONHandler(l, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		switch a.Key {
		case slog.LevelKey, slog.MessageKey:
			return slog.Attr{}
		case slog.TimeKey:
			a.Value = slog.StringValue(a.Value.Time().UTC().Format(time.RFC3339Nano))
		}
		return a
	}}))
	return l
}

// NewTo returns a Log whose lines are part of the service's own log.
func NewTo(own *slog.Logger) *Log {
	l := New(io.Discard, own)
	l.lines = own
	return l
}

// Write takes the lines of the handler, which calls it for one at a time.
func (l *Log) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.out.Write(line); err != nil {
		if l.lost++; l.lost == 1 {
			l.own.Error("the audit log can't be written to; calls go on without", "error", err)
		}
	} else if l.lost > 0 {
		l.own.Error("the audit log can be written to again", "lines_lost", l.lost)
		l.lost = 0
	}
	return len(line), nil
}

// Add writes an event, unless it is a read that was written down less than a minute ago.
func (l *Log) Add(e Event) {
	if slices.Contains(polled, e.Action) && l.repeated(read{e.Action, e.Store, e.Who, e.Ticket, e.Status}) {
		return
	}
	attrs := []slog.Attr{slog.String("action", e.Action), slog.String("store", e.Store), slog.String("who", e.Who), slog.String("address", e.Address.String())}
	if e.Ticket != "" {
		attrs = append(attrs, slog.String("ticket", e.Ticket))
	}
	if e.Group != "" {
		attrs = append(attrs, slog.String("group", e.Group))
	}
	l.lines.LogAttrs(context.Background(), slog.LevelInfo, "audit", append(attrs, slog.Int("status", e.Status))...)
}

func (l *Log) repeated(r read) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if at, known := l.reads.Get(r); known && now.Sub(at) < repeatAfter {
		return true
	}
	l.reads.Add(r, now)
	return false
}
