package api

import (
	"net/http"
	"time"
)

// A client that holds memory has to read, or send, at least so fast, after a while of grace.
const (
	grace     = 10 * time.Second
	leastRate = 16 << 10 // bytes a second
)

// pace is how much of the grace a client has left that has to keep up.
type pace struct {
	left time.Duration
	last time.Time // the end of the last write; zero: there was none
}

// write sends bytes by a deadline, which is later for a client that was fast enough before. A
// client that reads more slowly than leastRate uses its grace up, over all of an answer. No
// deadline is left behind: over HTTP/2 one that passes while nothing is sent resets the stream.
func (p *pace) write(w http.ResponseWriter, bytes int, send func()) {
	began := time.Now()
	if p.last.IsZero() {
		p.left = grace
	} else {
		p.left = min(grace, p.left+began.Sub(p.last))
	}
	allowed := p.left + time.Duration(bytes)*time.Second/leastRate
	rc := http.NewResponseController(w)
	_ = rc.SetWriteDeadline(began.Add(allowed)) // a writer without deadlines, such as a test's, has none
	send()
	_ = rc.SetWriteDeadline(time.Time{})
	p.last = time.Now()
	p.left = min(grace, max(allowed-p.last.Sub(began), 0))
}

// end bounds the time for the last bytes, which the server sends when the handler has returned.
func (p *pace) end(w http.ResponseWriter) {
	if !p.last.IsZero() {
		_ = http.NewResponseController(w).SetWriteDeadline(p.last.Add(grace))
	}
}
