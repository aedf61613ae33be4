package outage

import (
	"fmt"
	"testing"
	"time"
)

func TestLog(t *testing.T) {
	var l Log
	now := time.Unix(1_900_000_000, 0)
	fail := func(times int) (logged []int) {
		for range times { // one a second
			if n, due := l.Failed(now); due {
				logged = append(logged, n)
			}
			now = now.Add(time.Second)
		}
		return logged
	}
	if got := fmt.Sprint(fail(150)); got != "[1 60 60]" {
		t.Errorf("the lines of an outage: %v", got)
	}
	if n := l.Recovered(); n != 150 {
		t.Errorf("the outage had %d failures, want 150", n)
	}
	if n := l.Recovered(); n != 0 {
		t.Errorf("no outage had %d failures", n)
	}
	if got := fmt.Sprint(fail(2)); got != "[1]" {
		t.Errorf("the lines of the next outage: %v", got)
	}
}
