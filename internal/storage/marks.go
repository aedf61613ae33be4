package storage

import (
	"strings"

	"github.com/sheafapi/sheaf/internal/batch"
)

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

// outcomeUnknown marks requests in doubt from versions that didn't record Tries.InDoubt: it is part
// of every such message. The databases' migrations have the same text.
const outcomeUnknown = "it is not known whether"

// InDoubt reports whether a request is in doubt: its result is FAILED, and it is unknown whether the
// upstream carried it out. For a result that an older version recorded, the message decides.
func (m *Mark) InDoubt() bool {
	if m.State != Done || m.Result.Status != batch.Failed {
		return false
	}
	unanswered := m.Result.Code == 502 || m.Result.Code == 504
	return m.Tries.InDoubt || unanswered && strings.Contains(m.Result.Line, outcomeUnknown)
}

// Size returns about how many bytes marks take in a database.
func Size(marks []Mark) (n int) {
	const each = 64
	for i := range marks {
		n += each + len(marks[i].Result.Line) + len(marks[i].Result.Body)
		for _, h := range marks[i].Result.Headers {
			n += len(h.Name) + len(h.Value)
		}
	}
	return n
}

// Portion returns how many of the marks to write at once, so that they have at most so many
// bytes. It is at least one. A mark without an answer stays with the answer before it: so the
// end of one request and the intent of the next are written together.
func Portion(marks []Mark, most int) int {
	for n := range marks {
		if most -= Size(marks[n : n+1]); most < 0 && n > 0 && marks[n].Result.Status != 0 {
			return n
		}
	}
	return len(marks)
}
