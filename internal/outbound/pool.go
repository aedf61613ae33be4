package outbound

import (
	"sync"
	"time"
)

// sweepInterval is how often idle connections are looked at.
const sweepInterval = 15 * time.Second

// pool holds the connections that are idle, the one that was used last on top.
type pool struct {
	most int

	mu    sync.Mutex
	idle  []*conn
	sweep *time.Timer // runs while there are idle ones
}

// take returns a connection on which an exchange can begin; nil: there is none.
func (p *pool) take() *conn {
	for {
		p.mu.Lock()
		last := len(p.idle) - 1
		if last < 0 {
			p.mu.Unlock()
			return nil
		}
		c := p.idle[last]
		p.idle[last], p.idle = nil, p.idle[:last]
		p.mu.Unlock()
		if c.alive(time.Now()) {
			return c
		}
		_ = c.Close()
	}
}

// put keeps a connection for the next exchange.
func (p *pool) put(c *conn) {
	c.used, c.since = true, time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) >= p.most {
		_ = c.Close()
		return
	}
	p.idle = append(p.idle, c)
	if p.sweep == nil {
		p.sweep = time.AfterFunc(sweepInterval, p.clean)
	}
}

// clean closes the connections that have been idle for too long, or that the upstream
// has closed.
func (p *pool) clean() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now, kept := time.Now(), p.idle[:0]
	for _, c := range p.idle {
		if c.alive(now) {
			kept = append(kept, c)
		} else {
			_ = c.Close()
		}
	}
	clear(p.idle[len(kept):])
	p.idle, p.sweep = kept, nil
	if len(kept) > 0 {
		p.sweep = time.AfterFunc(sweepInterval, p.clean)
	}
}

// close closes all that are idle now.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.idle {
		_ = c.Close()
	}
	clear(p.idle)
	p.idle = p.idle[:0]
	if p.sweep != nil {
		p.sweep.Stop()
		p.sweep = nil
	}
}
