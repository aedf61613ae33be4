package api

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/storage"
)

func TestCallbacks(t *testing.T) {
	w := newWorld(t, func(o *Options) {
		o.Callback = "https://example.com/all"
		o.CheckCallback = func(url string) error {
			if !strings.HasPrefix(url, "https://") {
				return errors.New("must begin with https://")
			}
			return nil
		}
	})
	end := func(query string) string {
		t.Helper()
		ticket := w.create(query, 1)
		w.complete(w.claim(), done(0, 200, ""))
		return ticket
	}
	own, all := end("?callbackUrl=https%3A%2F%2Fexample.org%2Fmine%3Fa%3Db"), end("")
	due, _, err := w.node.DueDeliveries(t.Context(), storage.DueQuery{Limit: 1, Lease: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	more, _, err := w.node.DueDeliveries(t.Context(), storage.DueQuery{Limit: 1, Lease: time.Hour})
	if due = append(due, more...); len(due) == 2 && due[0].URL == "https://example.com/all" {
		due[0], due[1] = due[1], due[0]
	}
	if err != nil || len(due) != 2 || due[0].URL != "https://example.org/mine?a=b" || due[1].URL != "https://example.com/all" {
		t.Fatalf("due: %+v, %v", due, err)
	}
	due[0].State, due[0].Code = storage.Delivered, 204
	due[1].State, due[1].Problem = storage.GivenUp, "connection \"refused\""
	for i := range due {
		if err := w.node.PutDelivery(t.Context(), &due[i]); err != nil {
			t.Fatal(err)
		}
	}
	a := w.do("GET", base+"/webhooks")
	created := func(i int) string { return due[i].CreatedAt.UTC().Format("2006-01-02T15:04:05.000Z") }
	id := func(ticket string) string { return "evt_" + strings.ReplaceAll(ticket, "-", "") }
	want := fmt.Sprintf(`{"items":[{"id":"%s","ticket":"%s","status":"GIVEN_UP","attempts":1,"createdAt":"%s","lastProblem":"connection \"refused\""},`+
		`{"id":"%s","ticket":"%s","url":"https://example.org/mine?a=b","status":"DELIVERED","attempts":1,"createdAt":"%s","lastStatusCode":204}]}`,
		id(all), all, created(1), id(own), own, created(0))
	if strings.ReplaceAll(a.body, `\\`, `\`) != want {
		t.Errorf("%d %s\nwant %s", a.status, a.body, want)
	}
	first := w.do("GET", base+"/webhooks?limit=1").body
	_, next, _ := strings.Cut(strings.TrimSuffix(first, "}"), `"next":`)
	if a := w.do("GET", base+"/webhooks?limit=1&after="+next); !strings.Contains(first, all) || !strings.Contains(a.body, own) {
		t.Errorf("pages: %s, then %s", first, a.body)
	}
	if a := w.do("POST", base+"/webhooks/resend?ticket="+all); a.body != `{"updateCount":1}` {
		t.Errorf("%d %s", a.status, a.body)
	}
	if a := w.do("GET", base+"/webhooks?ticket="+all); !strings.Contains(a.body, `"status":"PENDING","attempts":0`) || !strings.Contains(a.body, "nextAttemptAt") {
		t.Error(a.body)
	}
	for target, status := range map[string]int{
		"/webhooks/resend": 400, "/webhooks/resend?ticket=" + uuid.NewString(): 404, "/webhooks/resend?ticket=x": 404,
	} {
		if a := w.do("POST", base+target); a.status != status {
			t.Errorf("%s: %d %s", target, a.status, a.body)
		}
	}
	if a := w.do("GET", base+"/webhooks?ticket=x"); a.body != `{"items":[]}` {
		t.Error(a.body)
	}
	if a := w.post("?callbackUrl=http%3A%2F%2Fexample.org", oneGet); a.status != 400 || !strings.Contains(a.body, "Parameter callbackUrl must begin with https://") {
		t.Errorf("%d %s", a.status, a.body)
	}
	off := newWorld(t, nil)
	if a := off.post("?callbackUrl=https%3A%2F%2Fexample.org", oneGet); a.status != 400 || !strings.Contains(a.body, "has not enabled callbacks") {
		t.Errorf("%d %s", a.status, a.body)
	}
}
