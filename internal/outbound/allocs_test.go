//go:build !race

package outbound

import (
	"bytes"
	"net"
	"testing"
)

// TestAllocs counts the allocations of one call, including its answer. The upstream allocates nothing.
// The race detector allocates too, so make test also runs this test without it.
func TestAllocs(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		answer := []byte("HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: 8\r\nDate: Fri, 27 Nov 2026 08:00:00 GMT\r\n\r\n{\"id\":1}")
		buf := make([]byte, 4096)
		for {
			n := 0
			for !bytes.HasSuffix(buf[:n], []byte(`{"name":"Chair"}`)) {
				m, err := conn.Read(buf[n:])
				if err != nil {
					return
				}
				n += m
			}
			if _, err := conn.Write(answer); err != nil {
				return
			}
		}
	}()
	c := newClient(t, listener.Addr().String())
	call := newCall("POST", "products", `{"name":"Chair"}`)
	run := func() { expect(t, c.Do(t.Context(), call), Answered, 201) }
	run()
	const want = 19
	if got := testing.AllocsPerRun(200, run); got != want {
		t.Errorf("%v allocations a call, want %d", got, want)
	}
	c.Close()
	listener.Close()
	<-ended
}
