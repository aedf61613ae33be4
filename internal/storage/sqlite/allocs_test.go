//go:build !race

package sqlite

import (
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// TestAllocs: the row of a group costs one allocation, however many marks it holds, because each
// mark in memory is a slice of it. The race detector allocates too, so make test runs this test
// once without it.
func TestAllocs(t *testing.T) {
	j := newJournal()
	marks := []storage.Mark{
		{Index: 0, State: storage.Done, Tries: storage.Tries{Attempts: 1, StartedAt: time.Now(), EndedAt: time.Now()}, Result: batch.Result{
			Status: batch.Succeeded, Code: 201, Line: "Created", Kind: batch.JSONBody, Body: []byte(`{"id":1}`),
		}},
		{Index: 1, State: storage.Begun, Tries: storage.Tries{Attempts: 1, StartedAt: time.Now()}},
	}
	group := func() {
		j.begin()
		for id := range storage.BatchID(20) {
			if err := j.record(nil, id+1, marks); err != nil {
				t.Fatal(err)
			}
		}
		j.written++
		j.rows = j.rows[:0] // a real journal deletes them now and then
		j.commit()
	}
	group()
	if got := testing.AllocsPerRun(100, group); got != 1 {
		t.Errorf("%v allocations for a group of 20 calls, want 1", got)
	}
}
