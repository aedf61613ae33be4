package storage

import "github.com/sheafapi/sheaf/batch"

// Newest returns the marks that count of those that one call records: one for each request,
// the last one unless an earlier one is Done. An answer that a later mark leaves as it is
// comes from the earlier one.
func Newest(marks []Mark) []Mark {
	last := make(map[int]int, len(marks)) // by request: where its mark is in out
	out := make([]Mark, 0, len(marks))
	for i := range marks {
		at, again := last[marks[i].Index]
		switch {
		case !again:
			last[marks[i].Index] = len(out)
			out = append(out, marks[i])
		case out[at].State != Done:
			out[at] = Over(out[at], marks[i])
		}
	}
	return out
}

// Over returns what a mark becomes that is recorded over an earlier one.
func Over(earlier, m Mark) Mark {
	if m.Result.Status == 0 {
		m.Result = earlier.Result
	}
	return m
}

// Unread returns a mark as Load and Marks show it: without the answer's body and headers,
// and without any answer of a request that is under way.
func (m Mark) Unread() Mark {
	m.Result.Body, m.Result.Headers = nil, nil
	if m.State == Begun {
		m.Result = batch.Result{}
	}
	return m
}
