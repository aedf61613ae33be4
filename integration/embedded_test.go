package integration

import (
	"bytes"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestEmbeddedSurvivesKill9 kills a program that embeds the service, with its API in the same
// process, in the middle of a batch. The next process knows the ticket, and every request has an
// outcome.
func TestEmbeddedSurvivesKill9(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	program := filepath.Join(t.TempDir(), "embedded")
	if out, err := exec.Command("go", "build", "-C", "..", "-o", program, "./examples/embedded").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	address := freeAddress(t)
	args := []string{"--listen", address, "--database", "sqlite:" + filepath.Join(t.TempDir(), "embedded.db")}
	run := func(more ...string) *service {
		s := launchBinary(t, program, nil, append(args, more...)...)
		s.base = "http://" + address
		s.waitAnswer(t)
		return s
	}
	const requests = 40
	var body bytes.Buffer
	for i := range requests {
		fmt.Fprintf(&body, `,{"method":"POST","path":"products","body":{"name":"Mug","sku":"M-%d","price":1}}`, i)
	}
	first := run("--latency", "20ms")
	c := caller(first.base)
	c.token = "t0ken"
	var created struct{ Ticket string }
	query := map[string][]string{"stopOnFirstFailure": {"false"}}
	if err := c.call(ctx, http.MethodPost, "1003/batch", query, append([]byte{'['}, append(body.Bytes()[1:], ']')...), &created); err != nil {
		t.Fatal(err)
	}
	var status struct {
		Status            string
		CompletedRequests int
		Responses         []struct {
			Status         string
			HTTPStatusCode int `json:"httpStatusCode"`
		}
	}
	ask := func(after string) {
		t.Helper()
		query := map[string][]string{"ticket": {created.Ticket}, "wait": {after}}
		if err := c.call(ctx, http.MethodGet, "1003/batch", query, nil, &status); err != nil {
			t.Fatal(err)
		}
	}
	for status.CompletedRequests < 5 {
		ask("1")
	}
	first.kill9(t)
	if status.CompletedRequests == requests {
		t.Fatal("the batch had ended before the kill")
	}
	run()
	for status.Status != "COMPLETED" {
		ask("1")
	}
	doubts := 0
	for i, r := range status.Responses {
		switch {
		case r.Status == "COMPLETED" && r.HTTPStatusCode == http.StatusCreated:
		case r.HTTPStatusCode == http.StatusBadGateway:
			doubts++ // the one in flight
		default:
			t.Errorf("response %d: %+v", i, r)
		}
	}
	if len(status.Responses) != requests || doubts > 1 {
		t.Errorf("%d responses, %d of them in doubt", len(status.Responses), doubts)
	}
}
