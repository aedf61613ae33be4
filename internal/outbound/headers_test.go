package outbound

import (
	"bufio"
	"net"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/sheafapi/sheaf/batch"
)

func TestKept(t *testing.T) {
	a := Answer{Header: http.Header{
		"Etag": {`"1"`}, "Link": {"<a>", "<b>"}, "X-Bad": {"\xff"}, "Empty": {}, "Set-Cookie": {"session=1"}, "Connection": {"close"},
		"Content-Length": {"5"}, "Date": {"now"}, "Transfer-Encoding": {"chunked"}, "Content-Type": {"application/json"},
	}}
	want := []batch.Header{{Name: "Content-Type", Value: "application/json"}, {Name: "Etag", Value: `"1"`}, {Name: "Link", Value: "<a>, <b>"}, {Name: "X-Bad", Value: "\ufffd"}}
	if got := a.Kept(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	a.Header = http.Header{"A": {strings.Repeat("x", 5000)}, "B": {strings.Repeat("x", 5000)}, "C": {"x"}}
	if got := a.Kept(); len(got) != 1 {
		t.Errorf("%d headers are kept of more than 8 KiB", len(got))
	}
	if got := (&Answer{}).Kept(); got != nil {
		t.Errorf("got %v of no answer", got)
	}
}

// TestHeadersAtTheLastDoor: what was stored is not believed.
func TestHeadersAtTheLastDoor(t *testing.T) {
	c := newClient(t, "127.0.0.1:1")
	for _, h := range []batch.Header{{Name: "A B", Value: "1"}, {Name: "A", Value: "1\r\nB: 2"}, {Name: "", Value: "1"}} {
		call := newCall("GET", "products", "")
		call.Headers = []batch.Header{h}
		expect(t, c.Do(t.Context(), call), NotSent, 502, "header")
	}
}

// A header that would end a request elsewhere, or give its connection another use, is not sent.
func TestFramingHeadersAreNotSent(t *testing.T) {
	u := newRaw(t, func(int, net.Conn, *bufio.Reader) {})
	c := newClient(t, u.addr())
	for _, name := range []string{"content-length", "Transfer-Encoding", "CONNECTION", "Host", "Upgrade", "Expect", "Te", "Trailer", "Keep-Alive", "authorization"} {
		call := newCall("POST", "/a", "{}")
		call.Headers = []batch.Header{{Name: name, Value: "1"}}
		expect(t, c.Do(t.Context(), call), NotSent, 502, "a header of the request is not valid")
	}
	if n := u.conns.Load(); n > 0 {
		t.Errorf("%d connections were made", n)
	}
}
