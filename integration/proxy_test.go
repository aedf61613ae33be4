package integration

import (
	"net"
	"net/url"
	"sync"
	"testing"
)

// proxy is between a node and its database. While cut, it behaves like a network that drops all
// packets: it forwards nothing, and neither side notices. Once it heals, the held data passes, as
// if TCP had sent it again.
type proxy struct {
	net.Listener
	target string

	mu    sync.Mutex
	open  chan struct{} // closed while data passes
	conns map[net.Conn]bool
}

// newProxy starts a proxy to the database and returns it with the database's URL through it.
func newProxy(t *testing.T, database string) (p *proxy, through string) {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	l, err := listen()
	if err != nil {
		t.Fatal(err)
	}
	p = &proxy{Listener: l, target: u.Host, open: make(chan struct{}), conns: map[net.Conn]bool{}}
	close(p.open)
	u.Host = l.Addr().String()
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { p.serve(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.heal()
		p.mu.Lock()
		for conn := range p.conns {
			conn.Close()
		}
		p.mu.Unlock()
		serving.Wait()
	})
	return p, u.String()
}

// serve connects a node to the database.
func (p *proxy) serve(node net.Conn) {
	defer node.Close()
	p.awaitOpen()
	database, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	defer database.Close()
	p.mu.Lock()
	p.conns[node], p.conns[database] = true, true
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.pass(database, node) })
	both.Go(func() { p.pass(node, database) })
	both.Wait()
	p.mu.Lock()
	delete(p.conns, node)
	delete(p.conns, database)
	p.mu.Unlock()
}

// awaitOpen waits until data may pass.
func (p *proxy) awaitOpen() {
	p.mu.Lock()
	open := p.open
	p.mu.Unlock()
	<-open
}

// pass copies data in one direction. Like data, the end of a connection waits while the proxy is cut.
func (p *proxy) pass(to, from net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		p.awaitOpen()
		if n > 0 {
			if _, werr := to.Write(buffer[:n]); werr != nil {
				err = werr
			}
		}
		if err != nil {
			to.Close()
			from.Close()
			return
		}
	}
}

// cut stops all traffic.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.open = make(chan struct{})
}

// heal lets traffic pass again.
func (p *proxy) heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
	default:
		close(p.open)
	}
}
