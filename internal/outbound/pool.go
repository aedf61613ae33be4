package outbound

import (
	"crypto/sha256"
	"sync"
	"time"
)

// How long connections live. An upstream or a balancer before it may drop an idle connection
// at any moment: what must not be repeated is written only to one that was used just now.
const (
	idleTimeout   = 90 * time.Second // an idle connection is closed after this
	freshTimeout  = 4 * time.Second  // a POST or PATCH takes no connection that was idle for longer
	maxAge        = 5 * time.Minute  // no connection is used for longer: names may resolve anew
	sweepInterval = 15 * time.Second // how often idle connections are looked at
)

// owner says whose a connection is. Connections are never shared between owners: whatever one
// caller gets an upstream to read or to say out of turn stays with that caller. It is a
// hash, so that the pool holds nobody's token.
type owner [sha256.Size]byte

// pool holds the idle connections, and counts those in use. Both together are bounded: when
// there are too many, idle ones are closed, the oldest of the owner that has most of them
// first. An owner without idle connections leaves nothing behind.
type pool struct {
	most int

	mu     sync.Mutex
	idle   map[owner]stack
	count  int // idle connections
	inUse  int
	closed bool
	sweep  *time.Timer // runs while there are idle ones
}

// stack holds the idle connections of one owner, the one that was used last on top.
type stack struct {
	top, bottom *conn
	size        int
}

// take returns an idle connection of the owner; nil: there is none, and a new one may be made.
// Either way a connection is in use from now on: put or drop ends that. maxIdle bounds how
// long the connection may have been idle. Whether it is quiet is not known yet.
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

// pop takes the owner's topmost connection if it was used after since. If there is none,
// it makes room for a new one, and returns the connections to close for that.
func (p *pool) pop(of owner, since time.Time) (c *conn, excess []*conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inUse++
	if c = p.idle[of].top; c != nil && c.since.After(since) {
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

// push adds a connection, and returns those to close for that, which may include c itself.
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

// drop closes a connection that was in use; nil: one that could not be made.
func (p *pool) drop(c *conn) {
	if c != nil {
		_ = c.Close()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inUse--
}

// renew closes the owner's idle connections: the upstream may be somewhere else by now, and the
// next connection resolves its name again. Other owners keep their connections,
// so that nobody's failures cost others theirs.
func (p *pool) renew(of owner) { closeAll(p.idleOf(of)) }

// idleOf takes out the owner's idle connections.
func (p *pool) idleOf(of owner) (all []*conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := p.idle[of].top; c != nil; c = p.idle[of].top {
		all = append(all, c)
		p.remove(c)
	}
	return all
}

// remove takes an idle connection out, wherever it is in its stack.
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

// trim takes idle connections out until there are no more than the most, and returns them.
func (p *pool) trim() (excess []*conn) {
	for p.count > 0 && p.count+p.inUse > p.most {
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

// clean closes the connections that have been idle for too long, or that the upstream
// has closed.
func (p *pool) clean() { closeAll(p.dead(time.Now())) }

// dead takes out the idle connections that can carry no exchange any more.
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

// empty takes out all idle connections, for good.
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
