// Package audit logs who created, read and canceled what: one JSON line per call, without tokens,
// bodies, paths or queries.
package audit

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/sheafapi/sheaf/internal/outage"
)

const (
	// repeatAfter is how long the same read by the same caller with the same outcome isn't logged
	// again. Otherwise, clients that poll every second would bury all other lines.
	repeatAfter = time.Minute
	maxReads    = 50_000 // reads that are remembered
)

// polled lists the actions that clients repeat all the time.
var polled = []string{"status", "search", "operator", "operator/quarantine"}

// Event is one call to the API of batches or of operators, or a sign-in to the dashboard. It contains
// no secrets.
type Event struct {
	Action string // such as create, status, operator/quarantine/release or sign-in
	Store  string // as the caller named it; empty if that can't be a store
	Who    string // a key's name, or the beginning of a token's SHA-256; empty without a token
	Ticket string // the batch's ticket; empty if there is none
	Group  string // the batch's group; empty if there is none
	Status int    // the answer's status; 0 if the connection was aborted instead
}

// read identifies a read that was logged.
type read struct {
	action, store, who, ticket string
	status                     int
}

// Log writes events. It is safe for concurrent use.
type Log struct {
	lines      *slog.Logger
	serviceLog *slog.Logger
	address    func(*http.Request) netip.Addr

	mu    sync.Mutex
	reads *simplelru.LRU[read, time.Time]
	out   io.Writer // nil: only operators' calls and sign-ins are logged, to serviceLog
	lost  outage.Log
}

// New returns a Log that writes each line to out with one call of Write. If out is nil, it logs
// only operators' calls and sign-ins, to serviceLog. A failure to write doesn't fail a call. The
// service's log reports it and, once writing works again, how many lines were lost. address returns
// the address that a request came from.
func New(out io.Writer, serviceLog *slog.Logger, address func(*http.Request) netip.Addr) *Log {
	reads, err := simplelru.NewLRU[read, time.Time](maxReads, nil)
	if err != nil {
		panic(err) //nolint:forbidigo // only for a size of 0
	}
	l := &Log{lines: serviceLog, serviceLog: serviceLog, address: address, reads: reads, out: out}
	if out == nil {
		return l
	}
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

// Write writes a line. The JSON handler calls it for one line at a time.
func (l *Log) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.out.Write(line); err != nil {
		if n, due := l.lost.Failed(time.Now()); due {
			l.serviceLog.Error("can't write to the audit log; calls continue without it", "error", err, "lines_lost", n)
		}
	} else if n := l.lost.Recovered(); n > 0 {
		l.serviceLog.Error("can write to the audit log again", "lines_lost", n)
	}
	return len(line), nil
}

// Wants reports whether events with this action are logged at all.
func (l *Log) Wants(action string) bool {
	return l.out != nil || strings.HasPrefix(action, "operator") || strings.HasPrefix(action, "sign-")
}

// Add logs an event of a request, unless it repeats a read that was logged less than a minute ago.
func (l *Log) Add(r *http.Request, e Event) {
	if !l.Wants(e.Action) || slices.Contains(polled, e.Action) && l.repeated(read{e.Action, e.Store, e.Who, e.Ticket, e.Status}) {
		return
	}
	attrs := []slog.Attr{slog.String("action", e.Action), slog.String("store", e.Store), slog.String("who", e.Who), slog.String("address", l.address(r).String())}
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
