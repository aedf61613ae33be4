package storage

import (
	"fmt"
	"strings"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
)

// MarkState is the progress of a request.
type MarkState uint8

// The states of a mark. A request without a mark was never sent.
const (
	Begun   MarkState = iota + 1 // may have been sent: this intent is durable before the request leaves
	Waiting                      // got an answer or failed, and is due for another attempt at NotBefore
	Done                         // ended
)

// Mark is the durable state of one request of a running batch. A batch has at most one mark for
// each request, and a later mark replaces it. If the later mark's Result has no status, the stored
// answer stays. So a large answer needn't be in memory when its request is sent again or when the
// answer becomes the final result.
type Mark struct {
	Index     int
	State     MarkState
	Tries     Tries
	NotBefore time.Time    // Waiting: the time of the next attempt. Done: when the last attempt began; zero: unknown
	Result    batch.Result // Done: the final result. Waiting: the last answer. Begun: none. Load and Marks leave out bodies and headers
}

// Tries counts the attempts of one request.
type Tries struct {
	Attempts       int       // how many times it was sent or may have been sent
	Retries        int       // failed attempts that were followed by another
	Throttles      int       // refusals because of a rate limit
	ThrottledSince time.Time // the first of these; zero: none
	MaybeDone      bool      // an earlier attempt may have taken effect
	InDoubt        bool      // it is unknown whether an attempt was carried out, and no later answer settled it
	StartedAt      time.Time // the first attempt
	EndedAt        time.Time // the end of the last attempt
}

// Newest returns the marks that remain of those in one call: for each request the last one, unless
// an earlier one is Done. A later mark without an answer keeps the earlier one's.
func Newest(marks []Mark) []Mark {
	last := make(map[int]int, len(marks)) // by request: the position of its mark in out
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

// Over returns the mark that is stored when m replaces an earlier one.
func Over(earlier, m Mark) Mark {
	if m.Result.Status == 0 {
		m.Result = earlier.Result
	}
	return m
}

// Unread returns a mark as Load and Marks show it: without the answer's body and headers, and
// without any answer if the request is in flight.
func (m Mark) Unread() Mark {
	m.Result.Body, m.Result.Headers = nil, nil
	if m.State == Begun {
		m.Result = batch.Result{}
	}
	return m
}

func (m *Mark) check(total int) error {
	switch {
	case m.Index < 0 || m.Index >= total:
		return fmt.Errorf("%w: there is a mark for request %d of %d", ErrDamaged, m.Index, total)
	case m.State < Begun || m.State > Done:
		return fmt.Errorf("%w: the mark of request %d has the state %d", ErrDamaged, m.Index, m.State)
	case m.Tries.Attempts < 0 || m.Tries.Retries < 0 || m.Tries.Throttles < 0:
		return fmt.Errorf("%w: the mark of request %d counts less than no attempts", ErrDamaged, m.Index)
	case m.State == Begun, m.State == Waiting && m.Result.Status == 0:
		return nil
	}
	return CheckResult(&m.Result)
}

// outcomeUnknown is a part of the message of every request in doubt. Versions that didn't record
// Tries.InDoubt recorded only the message. The databases' migrations contain the same text.
const outcomeUnknown = "it is not known whether"

// InDoubt reports whether a request is in doubt: its result is FAILED, and it is unknown whether
// the upstream carried it out. The message decides for a result that an older version recorded.
func (m *Mark) InDoubt() bool {
	if m.State != Done || m.Result.Status != batch.Failed {
		return false
	}
	unanswered := m.Result.Code == 502 || m.Result.Code == 504
	return m.Tries.InDoubt || unanswered && strings.Contains(m.Result.Line, outcomeUnknown)
}

// Size returns the approximate number of bytes that the marks take in a database.
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

// Portion returns how many of the marks to write at once: at least one, and no more than fit
// into the given number of bytes. A mark without an answer stays with the answer before it, so
// that the end of one request and the intent of the next are written together.
func Portion(marks []Mark, most int) int {
	for n := range marks {
		if most -= Size(marks[n : n+1]); most < 0 && n > 0 && marks[n].Result.Status != 0 {
			return n
		}
	}
	return len(marks)
}
