package api

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/sheafapi/sheaf/internal/auth"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/telemetry"
)

// TestQuarantine: a quarantined batch shows the reason, and an operator releases or ends it.
func TestQuarantine(t *testing.T) {
	w := newWorld(t, func(o *Options) {
		o.AuthorizeOperator = func(_ *http.Request, token string) error {
			if token != "operator" {
				return &auth.Refusal{Status: 403, Reason: "This key may not operate."}
			}
			return nil
		}
		o.Node = func() telemetry.Node {
			return telemetry.Node{Version: "v1", Upstream: telemetry.Health{Codes: map[string]int{}}}
		}
	})
	operate := func(method, target string) response {
		t.Helper()
		r := w.request(method, target, nil)
		r.Header.Set("Authorization", "Bearer operator")
		return w.send(r)
	}
	ticket := w.create("", 2)
	status := base + "?details=true&responses=false&ticket=" + ticket
	before := w.do("GET", status).header.Get("Etag")
	aside := func() {
		t.Helper()
		if err := w.node.Quarantine(t.Context(), w.claim(), "it is damaged"); err != nil {
			t.Fatal(err)
		}
	}
	aside()
	a := w.do("GET", status)
	if !strings.Contains(a.body, `"status":"QUEUED"`) || !strings.Contains(a.body, `"quarantinedAt":"`) || !strings.Contains(a.body, `"quarantineReason":"it is damaged"`) {
		t.Errorf("status: %s", a.body)
	}
	if a.header.Get("Etag") == before {
		t.Error("the status has changed, but its tag has not")
	}
	if a := w.do("GET", base+"/search"); !strings.Contains(a.body, `"quarantined":true`) {
		t.Errorf("search: %s", a.body)
	}
	for _, query := range []string{"", "?status=QUEUED"} {
		if a := w.do("GET", base+query); !strings.Contains(a.body, `"status":"QUEUED","quarantined":true}`) {
			t.Errorf("search%s: %s", query, a.body)
		}
	}
	if a := w.do("GET", base+"/queue"); a.body != `{"unfinished":0,"kept":1,"paused":false,"quarantined":1}` {
		t.Errorf("queue: %s", a.body)
	}
	if a := operate("GET", "/operator"); !strings.Contains(a.body, `"quarantinedBatches":1`) {
		t.Errorf("overview: %s", a.body)
	}
	var list quarantineJSON
	if a := operate("GET", "/operator/quarantine"); json.Unmarshal([]byte(a.body), &list) != nil || len(list.Batches) != 1 ||
		list.Batches[0].Ticket != ticket || list.Batches[0].Store != "12345" || list.Batches[0].Reason != "it is damaged" {
		t.Errorf("list: %s", a.body)
	}
	for target, want := range map[string]int{"": 403, "/release?ticket=" + ticket: 405, "/end": 405} {
		if a := w.do("GET", "/operator/quarantine"+target); a.status != want {
			t.Errorf("a caller at %q: %d %s", target, a.status, a.body)
		}
	}
	if a := w.do("POST", "/operator/quarantine/end?ticket="+ticket); a.status != 403 {
		t.Errorf("a caller ends it: %d %s", a.status, a.body)
	}
	for target, want := range map[string]int{"release": 400, "end?ticket=nonsense": 404, "release?ticket=0b4a3f7e-3a46-4b9c-b9b0-9f1d5f0e7c11": 404} {
		if a := operate("POST", "/operator/quarantine/"+target); a.status != want {
			t.Errorf("%s: %d %s", target, a.status, a.body)
		}
	}
	if a := operate("POST", "/operator/quarantine/release?ticket="+ticket); a.status != 200 || len(w.woken) != 2 {
		t.Errorf("release: %d %s, woken %v", a.status, a.body, w.woken)
	}
	aside()
	if a := operate("POST", "/operator/quarantine/end?ticket="+ticket); a.status != 200 {
		t.Errorf("end: %d %s", a.status, a.body)
	}
	if a := w.do("GET", base+"?ticket="+ticket); !strings.Contains(a.body, `"status":"COMPLETED"`) || !strings.Contains(a.body, "an operator ended the quarantined batch") {
		t.Errorf("status of the ended batch: %s", a.body)
	}
}

// TestDamaged: calls about a damaged batch get an error that names the batch and doesn't ask the
// caller to retry.
func TestDamaged(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.Storage = &damagedStorage{o.Storage} })
	ticket := w.create("", 2)
	for _, target := range []string{"/requests?ticket=", "/timeline?ticket="} {
		a := w.do("GET", base+target+ticket)
		if a.status != 500 || a.code(t) != "INTERNAL_ERROR" || !strings.Contains(a.body, ticket) || !strings.Contains(a.body, "damaged") {
			t.Errorf("%s: %d %s", target, a.status, a.body)
		}
	}
	if a := w.do("GET", base+"/search"); a.status != 200 || !strings.Contains(a.body, ticket) {
		t.Errorf("search: %d %s", a.status, a.body)
	}
}

// damagedStorage is storage in which the requests of every batch are damaged.
type damagedStorage struct{ Storage }

func (damagedStorage) Requests(context.Context, storage.BatchID) ([]batch.Request, batch.Options, error) {
	return nil, batch.Options{}, &storage.DamagedError{Err: storage.ErrDamaged}
}
