//go:build !race

package engine

import (
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/governor"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/storage"
)

// TestAllocs checks that judging an answer allocates nothing, unless the answer isn't JSON or its request
// must wait. The race detector allocates too, so this test is built without it. make test also runs it
// without the race detector.
func TestAllocs(t *testing.T) {
	p := &Policy{RetryLimit: 5, RetryInterval: time.Second, ThrottleLimit: time.Minute, Success: batch.Success{Codes: "200,201"}}
	r := &batch.Request{Method: "POST", Path: "products"}
	now := time.Now()
	for _, c := range []struct {
		want   float64
		answer outbound.Answer
	}{
		{0, outbound.Answer{Outcome: outbound.Answered, Code: 201, Line: "Created", Body: []byte(`{"id":1}`)}},
		{0, outbound.Answer{Outcome: outbound.Answered, Code: 404, Line: "Not Found", Body: []byte(`{"message":"none"}`)}},
		{8, outbound.Answer{Outcome: outbound.Answered, Code: 404, Line: "Not Found", Body: []byte("none")}},
		{0, outbound.Answer{Outcome: outbound.Answered, Code: 429, Line: "Too Many Requests"}},
	} {
		got := testing.AllocsPerRun(200, func() { _ = p.judge(r, storage.Tries{Attempts: 1}, &c.answer, governor.Counts, now) })
		if got != c.want {
			t.Errorf("%d %s: %v allocations, want %v", c.answer.Code, c.answer.Body, got, c.want)
		}
	}
}
