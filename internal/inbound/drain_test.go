package inbound

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"
)

// post sends a request for /refuse that announces a large body, and the given number of its bytes.
func (c *client) post(sent int, header ...string) {
	c.t.Helper()
	lines := ""
	for _, h := range header {
		lines += h + "\r\n"
	}
	head := fmt.Sprintf("POST /refuse HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%s\r\n", largeBody, lines)
	if _, err := io.Copy(c.conn, io.MultiReader(bytes.NewBufferString(head), bytes.NewReader(make([]byte, sent)))); err != nil {
		c.t.Errorf("the body was not read: %v", err)
	}
}

const largeBody = 8 << 20 // more than the connection's buffers hold

// A client that sends the whole body before it reads can read the answer of a refused request and reuse the
// connection.
func TestRefusalIsReadable(t *testing.T) {
	w := newWorld(t, nil)
	c := w.dial("127.0.0.1")
	for range 2 {
		c.post(largeBody)
		if code := c.status(); code != http.StatusUnauthorized {
			t.Fatalf("the answer is %d", code)
		}
	}
	if code := c.ask("/"); code != http.StatusOK {
		t.Errorf("the next answer is %d", code)
	}
}

// A client that waits for 100 Continue gets the answer without sending its body.
func TestRefusalBeforeBody(t *testing.T) {
	w := newWorld(t, nil)
	c := w.dial("127.0.0.1")
	c.post(0, "Expect: 100-continue")
	if code := c.status(); code != http.StatusUnauthorized || !c.closed() {
		t.Errorf("the answer is %d", code)
	}
}

// The wait for a body is limited.
func TestDrainEnds(t *testing.T) {
	w := newWorld(t, nil)
	w.all.drains.time = 10 * time.Millisecond
	c := w.dial("127.0.0.1")
	c.post(1)
	if code := c.status(); code != http.StatusUnauthorized || !c.closed() {
		t.Errorf("the answer is %d", code)
	}
}

// One address can't use up the limit of bodies that are drained.
func TestDrainsAreShared(t *testing.T) {
	w := newWorld(t, func(o *Options) { o.MaxConnections, o.MaxRequests = 1000, 900 })
	answered := make(chan int, 1)
	for range maxDrains {
		c := w.dial("127.0.0.1")
		c.post(1)
		go func() { answered <- c.status() }()
	}
	for range maxDrains / 2 { // the requests beyond its share
		if code := <-answered; code != http.StatusUnauthorized {
			t.Fatalf("the answer is %d", code)
		}
	}
	neighbor := w.dial("127.0.0.2")
	neighbor.post(largeBody)
	if code := neighbor.status(); code != http.StatusUnauthorized {
		t.Errorf("the neighbor's answer is %d", code)
	}
	if held := maxDrains/2 - len(answered); held == 0 {
		t.Error("no body is being drained")
	}
}
