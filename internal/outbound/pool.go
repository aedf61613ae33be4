package outbound

import (
	"crypto/sha256"
	"sync"
	"time"
)

// How long connections are used. The upstream or a load balancer may drop an idle connection at any
// time, so requests that must not be repeated use only connections that were idle for a short time.
const (
	idleTimeout   = 90 * time.Second // how long a connection may be idle
	freshTimeout  = 4 * time.Second  // how long a connection for a POST or PATCH may have been idle, unless the upstream has named a time
	maxAge        = 5 * time.Minute  // how long a connection is used, because the host's address may change
	sweepInterval = 15 * time.Second // how often idle connections are checked
)

// owner identifies the store and token that a connection belongs to. Connections are never shared between
// owners, so data that a caller makes the upstream send out of turn never reaches another caller. An
// owner is a hash, so that the pool holds no tokens.
type owner [sha256.Size]byte

// pool holds the idle connections and counts those in use. If there are more than max in total, it closes
// idle ones, beginning with the oldest one of the owner that has the most.
type pool struct {
	max int

	mu     sync.Mutex
	idle   map[owner]stack
	count  int // idle connections
	inUse  int
	closed bool
	sweep  *time.Timer // nil while there are no idle connections
}

// stack holds the idle connections of one owner, with the most recently used one on top.
type stack struct {
	top, bottom *conn
	size        int
}

// take returns an idle connection of the owner that was idle for at most maxIdle, or for the time that
// the upstream has named. If there is none, it returns nil and the caller must make a new connection.
// Either way, a connection counts as in use until put or drop. The caller must check whether the
// connection is quiet.
func (p *pool) take(of owner, maxIdle time.Duration) *conn {
	now := time.Now()
	for {
		c, excess := p.pop(of, now.Add(-maxIdle))
		closeAll(excess)
		if c == nil || c.young(now) {
			return c
		}
		p.drop(c)
	}
}

// pop removes and returns the owner's topmost connection if it was used after since, or if the upstream
// has named how long it stays open. If there is none, it makes room for a new one and returns the
// connections to close.
func (p *pool) pop(of owner, since time.Time) (c *conn, excess []*conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inUse++
	if c = p.idle[of].top; c != nil && (c.promised || c.since.After(since)) {
		p.remove(c)
		return c, nil
	}
	return nil, p.trim()
}

// put keeps a connection for its owner's next exchange.
func (p *pool) put(c *conn) {
	c.used, c.since = true, time.Now()
	closeAll(p.push(c))
}

// push adds a connection. It returns the connections to close, which may include c itself.
func (p *pool) push(c *conn) (excess []*conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inUse--
	if p.closed {
		return []*conn{c}
	}
	if p.idle == nil {
		p.idle = map[owner]stack{}
	}
	s := p.idle[c.owner]
	c.below = s.top
	if s.top != nil {
		s.top.above = c
	} else {
		s.bottom = c
	}
	s.top = c
	s.size++
	p.idle[c.owner] = s
	p.count++
	if p.sweep == nil {
		p.sweep = time.AfterFunc(sweepInterval, p.clean)
	}
	return p.trim()
}

// drop closes a connection that was in use. c is nil if the connection could not be made.
func (p *pool) drop(c *conn) {
	if c != nil {
		_ = c.Close()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inUse--
}

// renew closes the owner's idle connections after a failure. The upstream may have moved, and the
// next connection resolves its name again. Other owners keep their connections, so one caller's
// failures don't affect others.
func (p *pool) renew(of owner) { closeAll(p.idleOf(of)) }

// idleOf removes and returns the owner's idle connections.
func (p *pool) idleOf(of owner) (all []*conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := p.idle[of].top; c != nil; c = p.idle[of].top {
		all = append(all, c)
		p.remove(c)
	}
	return all
}

// remove removes an idle connection from its stack.
func (p *pool) remove(c *conn) {
	s := p.idle[c.owner]
	if c.above != nil {
		c.above.below = c.below
	} else {
		s.top = c.below
	}
	if c.below != nil {
		c.below.above = c.above
	} else {
		s.bottom = c.above
	}
	c.above, c.below = nil, nil
	p.count--
	if s.size--; s.size == 0 {
		delete(p.idle, c.owner)
	} else {
		p.idle[c.owner] = s
	}
}

// trim removes and returns idle connections until there are at most max connections.
func (p *pool) trim() (excess []*conn) {
	for p.count > 0 && p.count+p.inUse > p.max {
		var largest stack
		for _, s := range p.idle {
			if s.size > largest.size || s.size == largest.size && s.bottom.since.Before(largest.bottom.since) {
				largest = s
			}
		}
		excess = append(excess, largest.bottom)
		p.remove(largest.bottom)
	}
	return excess
}

// clean closes the connections that have been idle for too long or that the upstream has closed.
func (p *pool) clean() { closeAll(p.dead(time.Now())) }

// dead removes and returns the idle connections that can't carry another exchange.
func (p *pool) dead(now time.Time) (dead []*conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.idle {
		for c := s.top; c != nil; c = c.below {
			if !c.alive(now) {
				dead = append(dead, c)
			}
		}
	}
	for _, c := range dead {
		p.remove(c)
	}
	if p.sweep = nil; p.count > 0 {
		p.sweep = time.AfterFunc(sweepInterval, p.clean)
	}
	return dead
}

// close closes the idle connections. Those in use are closed when their exchange ends.
func (p *pool) close() { closeAll(p.empty()) }

// empty removes and returns all idle connections, and makes push refuse new ones.
func (p *pool) empty() (all []*conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, s := range p.idle {
		for c := s.top; c != nil; c = c.below {
			all = append(all, c)
		}
	}
	p.idle, p.count = nil, 0
	if p.sweep != nil {
		p.sweep.Stop()
		p.sweep = nil
	}
	return all
}

func closeAll(conns []*conn) {
	for _, c := range conns {
		_ = c.Close()
	}
}
