package storage

import (
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
)

// TestFilter checks each condition of a filter at its edge, and when all later batches are too old.
func TestFilter(t *testing.T) {
	at := time.UnixMilli(1_900_000_000_000)
	s := Summary{Status: batch.Completed, GroupID: "g", Failed: 1, CreatedAt: at}
	for name, tt := range map[string]struct {
		f             Filter
		matches, ends bool
	}{
		"nothing":                   {Filter{}, true, false},
		"from that moment":          {Filter{From: at}, true, false},
		"from a moment later":       {Filter{From: at.Add(1)}, false, false},
		"from an hour later":        {Filter{From: at.Add(ClockError)}, false, false},
		"from more than that":       {Filter{From: at.Add(ClockError + 1)}, false, true},
		"the same of open ones":     {Filter{From: at.Add(ClockError + 1), Open: true}, false, false}, // open batches are read oldest first
		"until that moment":         {Filter{To: at}, false, false},
		"until a moment later":      {Filter{To: at.Add(1)}, true, false},
		"open":                      {Filter{Open: true}, false, false},
		"another status":            {Filter{Status: batch.Queued}, false, false},
		"another group":             {Filter{GroupID: "h"}, false, false},
		"failed":                    {Filter{Failed: true}, true, false},
		"all of that":               {Filter{Status: batch.Completed, GroupID: "g", Failed: true, From: at, To: at.Add(1)}, true, false},
		"all of that and one false": {Filter{Status: batch.Completed, GroupID: "g", Failed: true, From: at, To: at}, false, false},
	} {
		if got := tt.f.Matches(&s); got != tt.matches {
			t.Errorf("%s: matches: %v", name, got)
		}
		if got := tt.f.Ends(&s); got != tt.ends {
			t.Errorf("%s: ends: %v", name, got)
		}
	}
	s.Status = batch.InProgress
	if f := (Filter{Failed: true}); f.Matches(&s) {
		t.Error("a batch that runs has not ended with failures")
	}
}
