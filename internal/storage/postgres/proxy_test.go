//go:build postgres

package postgres

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"
)

// proxy is the network between a node and its server. It can lose and delay calls.
type proxy struct {
	url      string // the database's URL through the proxy
	listener net.Listener
	target   string
	ended    sync.WaitGroup
	closed   chan struct{}

	mu    sync.Mutex
	pairs map[*pair]struct{}
	open  chan struct{} // closed while the network isn't frozen
	rule  *rule
	alter func(call []byte) []byte
}

// pair is a connection through the proxy.
type pair struct {
	client, server net.Conn
	breaks         chan fate     // at the next answer
	ended          chan struct{} // closed once the server has finished everything that it received
}

// rule says what happens to the next call with a statement.
type rule struct {
	name []byte // of the prepared statement
	text []byte // its SQL
	fate fate
	hit  chan *heldCall
}

// fate is what happens to a call. In all cases except hangs, its connection breaks.
type fate int

const (
	isLate      fate = iota // the call is held back
	losesAnswer             // the call is carried out, but its answer is lost
	losesRest               // the call is carried out, but only the first part of its answer arrives
	hangs                   // the call is lost silently; the connection stays open
)

// heldCall is a call that is held in the network. Its node has lost the connection.
type heldCall struct {
	pair    *pair
	deliver chan struct{}
}

// newProxy returns a proxy in front of a database's server.
func newProxy(t *testing.T, address string) *proxy {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{target: u.Host, pairs: map[*pair]struct{}{}, open: make(chan struct{}), closed: make(chan struct{})}
	close(p.open)
	if p.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	u.Host = p.listener.Addr().String()
	p.url = u.String()
	p.ended.Go(p.accept)
	t.Cleanup(func() {
		p.listener.Close()
		close(p.closed)
		p.thaw()
		p.cut()
		p.ended.Wait()
	})
	return p
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", p.target)
		if err != nil {
			client.Close()
			continue
		}
		c := &pair{client: client, server: server, breaks: make(chan fate, 1), ended: make(chan struct{})}
		p.mu.Lock()
		p.pairs[c] = struct{}{}
		p.mu.Unlock()
		p.ended.Go(func() { p.up(c) })
		p.ended.Go(func() { p.down(c) })
	}
}

// up forwards what the node sends.
func (p *proxy) up(c *pair) {
	defer c.server.(*net.TCPConn).CloseWrite()
	buffer := make([]byte, 1<<20) // the node sends a call in one write
	for {
		n, err := c.client.Read(buffer)
		if err != nil {
			return
		}
		call, r := p.pass(buffer[:n])
		if r != nil && r.fate == hangs {
			r.hit <- nil
			continue
		}
		if r != nil && r.fate == isLate {
			c.client.Close()
			h := &heldCall{pair: c, deliver: make(chan struct{})}
			r.hit <- h
			select {
			case <-h.deliver:
			case <-p.closed:
			}
		} else if r != nil {
			c.breaks <- r.fate
			r.hit <- nil
		}
		if _, err := c.server.Write(call); err != nil {
			c.client.Close()
			return
		}
	}
}

// down forwards what the server sends.
func (p *proxy) down(c *pair) {
	defer func() {
		c.client.Close()
		c.server.Close()
		p.mu.Lock()
		delete(p.pairs, c)
		p.mu.Unlock()
		close(c.ended)
	}()
	buffer := make([]byte, 1<<16)
	for {
		n, err := c.server.Read(buffer)
		if err != nil {
			return
		}
		<-p.gate()
		select {
		case f := <-c.breaks: // the server has answered; after a short answer, the transaction has ended
			if f == losesRest {
				c.client.Write(buffer[:n])
			}
			c.client.Close()
		default:
			c.client.Write(buffer[:n]) // the client may be gone; the server continues
		}
	}
}

func (p *proxy) gate() chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open
}

// pass waits while the network is frozen. It returns the call and the rule that applies to it.
func (p *proxy) pass(call []byte) ([]byte, *rule) {
	<-p.gate()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.alter != nil {
		call = p.alter(call)
	}
	r := p.rule
	if r == nil || !bytes.Contains(call, r.name) || bytes.Contains(call, r.text) {
		return call, nil // no rule applies, or the call only prepares the statement
	}
	p.rule = nil
	return call, r
}

// prepared returns the name that pgx gives to a prepared statement.
func prepared(statement string) []byte {
	sum := sha256.Sum256([]byte(queries[statement]))
	return []byte("stmtcache_" + hex.EncodeToString(sum[:24]))
}

// next sets what happens to the next call with a statement.
func (p *proxy) next(statement string, f fate) *rule {
	r := &rule{name: prepared(statement), text: []byte(queries[statement]), fate: f, hit: make(chan *heldCall, 1)}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rule = r
	return r
}

// loseAnswer loses the answer to the next call with a statement. The call is carried out.
func (p *proxy) loseAnswer(statement string) *rule { return p.next(statement, losesAnswer) }

// delay holds back the next call with a statement. Its connection breaks.
func (p *proxy) delay(statement string) *rule { return p.next(statement, isLate) }

// breakOff cuts off the answer to the next call with a statement after its first part.
func (p *proxy) breakOff(statement string) *rule { return p.next(statement, losesRest) }

// hang loses the next call with a statement, on a connection that stays open.
func (p *proxy) hang(statement string) *rule { return p.next(statement, hangs) }

// wait waits until the rule was applied.
func (r *rule) wait(t *testing.T) *heldCall {
	t.Helper()
	select {
	case h := <-r.hit:
		return h
	case <-time.After(30 * time.Second):
		t.Fatal("the call did not come")
		return nil
	}
}

// arrive delivers the call and waits until the server has carried it out.
func (h *heldCall) arrive() {
	close(h.deliver)
	<-h.pair.ended
}

// freeze stops all traffic; thaw lets it continue.
func (p *proxy) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
		p.open = make(chan struct{})
	default:
	}
}

func (p *proxy) thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.open:
	default:
		close(p.open)
	}
}

// cut breaks all connections.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.pairs {
		c.client.Close()
		c.server.Close()
	}
}
