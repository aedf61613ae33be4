package reply

import (
	"net/http"
	"time"
)

// A client that holds memory must read, or send, at a rate of at least LeastRate. Grace is how far
// it may fall behind.
const (
	Grace     = 10 * time.Second
	LeastRate = 16 << 10 // bytes a second
)

// pace limits how slowly a client may read an answer.
type pace struct {
	left time.Duration // the remaining grace
	last time.Time     // the end of the last write; zero: there was none
}

// write sends bytes by a deadline. A client that reads faster than LeastRate gets a later deadline for
// the next bytes, up to Grace; a slower one uses up its grace over the whole answer. The deadline is
// removed at the end, because over HTTP/2 a deadline that passes while nothing is sent resets the
// stream.
func (p *pace) write(w http.ResponseWriter, bytes int, send func()) {
	began := time.Now()
	if p.last.IsZero() {
		p.left = Grace
	} else {
		p.left = min(Grace, p.left+began.Sub(p.last))
	}
	allowed := p.left + time.Duration(bytes)*time.Second/LeastRate
	rc := http.NewResponseController(w)
	_ = rc.SetWriteDeadline(began.Add(allowed)) // fails only if the writer has no deadlines, like a test's
	send()
	_ = rc.SetWriteDeadline(time.Time{})
	p.last = time.Now()
	p.left = min(Grace, max(allowed-p.last.Sub(began), 0))
}

// end limits the time for the last bytes, which the server sends when the handler has returned.
func (p *pace) end(w http.ResponseWriter) {
	if !p.last.IsZero() {
		_ = http.NewResponseController(w).SetWriteDeadline(p.last.Add(Grace))
	}
}
