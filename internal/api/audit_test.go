package api

import (
	"net/http"
	"sync"
	"testing"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage/storagetest"
)

// Every call to a resource of batches is told, with its outcome; probes and what is no
// resource are not.
func TestAudit(t *testing.T) {
	var mu sync.Mutex
	var events []Event
	w := newWorld(t, func(o *Options) {
		o.Audit = func(r *http.Request, e Event) {
			mu.Lock()
			defer mu.Unlock()
			if r.RemoteAddr == "" {
				t.Error("the request is another one")
			}
			events = append(events, e)
		}
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
	w.server.Close() // every call is over
	want := []Event{
		{"create", "12345", who, ticket, "g", 200},
		{"status", "12345", who, ticket, "", 200},
		{"status", "12345", who, ticket, "", 200},
		{"search", "12345", who, "", "", 200},
		{"status", "12345", who, "", "", 404},
		{"stop", "12345", who, "", "g", 200},
		{"delete", "12345", who, ticket, "", 200},
		{"search", "", "", "", "", 401}, // its query was not looked at
		{"create", "", batch.OwnerOf("x").Short(), "", "", 400},
		{"status", "12345", who, ticket, "", 503},
	}
	if len(events) != len(want) {
		t.Fatalf("%+v", events)
	}
	for i := range want {
		if events[i] != want[i] {
			t.Errorf("call %d: %+v, want %+v", i, events[i], want[i])
		}
	}
}

// An answer that breaks off has no status.
func TestAuditOfABrokenAnswer(t *testing.T) {
	told := make(chan Event, 10)
	w := newWorld(t, func(o *Options) {
		o.Storage = &lossy{o.Storage, 1}
		o.Audit = func(_ *http.Request, e Event) { told <- e }
	})
	ticket, _ := w.large(60, 50, 150_000)
	<-told // of the create
	if _, err := try(w.request("GET", base+"?ticket="+ticket, nil)); err == nil {
		t.Error("it did not break off")
	}
	if e := <-told; e.Status != 0 || e.Action != "status" {
		t.Errorf("%+v", e)
	}
}
