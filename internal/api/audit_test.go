package api

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/netip"
	"sync"
	"testing"

	"github.com/sheafapi/sheaf/internal/audit"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage/storagetest"
)

// auditTo returns an audit log that writes to out.
func auditTo(out io.Writer) *audit.Log {
	return audit.New(out, discard, func(r *http.Request) netip.Addr { return netip.MustParseAddrPort(r.RemoteAddr).Addr() })
}

// TestAudit: every call about batches is logged with its outcome. Health checks and calls to
// unknown paths aren't logged. A repeated read is logged once.
func TestAudit(t *testing.T) {
	var mu sync.Mutex
	var lines bytes.Buffer
	w := newWorld(t, func(o *Options) {
		o.Audit = auditTo(writerFunc(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return lines.Write(p)
		}))
	})
	who := batch.OwnerOf(token).Short()
	ticket := w.create("?groupId=g", 1)
	bare := func(method, target, token string) {
		r := w.request(method, target, nil)
		r.Header.Del("Authorization")
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		w.send(r)
	}
	w.get(ticket, "")
	w.do("HEAD", base+"?ticket="+ticket)
	w.do("GET", base+"?status=QUEUED")
	w.do("GET", base+"?ticket=nonsense")
	w.do("POST", base+"/cancel-group?groupId=g")
	w.do("DELETE", base+"?ticketId="+ticket)
	bare("GET", base+"?ticket="+ticket, "")
	bare("POST", "/api/v3/a%20b/batch", "x")
	w.node.SetFault(func(string) storagetest.Fault { return storagetest.FailedNotStored })
	w.get(ticket, "")
	w.do("GET", "/healthz")
	w.do("GET", "/nothing")
	w.do("PUT", base)
	w.server.Close() // so that every call is over
	want := []audit.Event{
		{Action: "create", Store: "12345", Who: who, Ticket: ticket, Group: "g", Status: 200},
		{Action: "status", Store: "12345", Who: who, Ticket: ticket, Status: 200},
		{Action: "search", Store: "12345", Who: who, Status: 200},
		{Action: "status", Store: "12345", Who: who, Status: 404},
		{Action: "stop", Store: "12345", Who: who, Group: "g", Status: 200},
		{Action: "delete", Store: "12345", Who: who, Ticket: ticket, Status: 200},
		{Action: "search", Status: 401}, // its query was not read
		{Action: "create", Who: batch.OwnerOf("x").Short(), Status: 400},
		{Action: "status", Store: "12345", Who: who, Ticket: ticket, Status: 503},
	}
	for i, line := range bytes.Split(bytes.TrimSpace(lines.Bytes()), []byte("\n")) {
		var got struct {
			audit.Event
			Address string
		}
		if err := json.Unmarshal(line, &got); err != nil || got.Address != "127.0.0.1" {
			t.Errorf("%v: %s", err, line)
		}
		if i >= len(want) || got.Event != want[i] {
			t.Errorf("call %d: %s, want %+v", i, line, want[min(i, len(want)-1)])
		}
	}
	if n := bytes.Count(lines.Bytes(), []byte("\n")); n != len(want) {
		t.Errorf("%d lines, want %d", n, len(want))
	}
}

// TestAuditOfABrokenAnswer: an answer that is cut off is logged with status 0.
func TestAuditOfABrokenAnswer(t *testing.T) {
	lines := make(chan []byte, 10)
	w := newWorld(t, func(o *Options) {
		o.Storage = &lossy{o.Storage, 1}
		o.Audit = auditTo(writerFunc(func(p []byte) (int, error) {
			lines <- bytes.Clone(p)
			return len(p), nil
		}))
	})
	ticket, _ := w.large(60, 50, 150_000)
	<-lines // of the create
	if _, err := try(w.request("GET", base+"?ticket="+ticket, nil)); err == nil {
		t.Error("the answer was not cut off")
	}
	if line := <-lines; !bytes.Contains(line, []byte(`"action":"status"`)) || !bytes.Contains(line, []byte(`"status":0`)) {
		t.Errorf("%s", line)
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }
