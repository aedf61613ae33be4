package outbound

import (
	"bufio"
	"net"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/sheafapi/sheaf/internal/batch"
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
		t.Errorf("%d headers are kept, more than 8 KiB", len(got))
	}
	if got := (&Answer{}).Kept(); got != nil {
		t.Errorf("got %v without an answer", got)
	}
}

// TestHeadersAreCheckedAgain checks that stored headers are validated again before a request is sent, and
// that a request with an invalid header isn't sent.
func TestHeadersAreCheckedAgain(t *testing.T) {
	change := func(o *Options) { o.RequestHeaders = []string{"X-Tenant"} }
	socket := newClient(t, "127.0.0.1:1", change)
	served := newClient(t, "upstream.invalid", change, func(o *Options) {
		o.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("the handler was called with %v", r.Header) })
	})
	for _, h := range []batch.Header{
		{Name: "A B", Value: "1"},
		{Name: "X-Tenant", Value: "1\r\nB: 2"},
		{Name: "", Value: "1"},
		{Name: "X-Other", Value: "1"},
		{Name: "X_Tenant", Value: "1"},
		{Name: "X-Forwarded-For", Value: "1"},
		{Name: "content-length", Value: "1"},
	} {
		call := newCall("GET", "products", "")
		call.Headers = []batch.Header{{Name: "If-Match", Value: "*"}, h}
		expect(t, socket.Do(t.Context(), call), Refused, 502, "header", strconv.Quote(h.Name), "was not sent")
		expect(t, served.Do(t.Context(), call), Refused, 502, "header", strconv.Quote(h.Name), "was not sent")
	}
}

// A header that would change where a request ends, or how its connection is used, is not sent.
func TestFramingHeadersAreNotSent(t *testing.T) {
	u := newRaw(t, func(int, net.Conn, *bufio.Reader) {})
	c := newClient(t, u.addr())
	for _, name := range []string{"content-length", "Transfer-Encoding", "CONNECTION", "Host", "Upgrade", "Expect", "Te", "Trailer", "Keep-Alive", "authorization"} {
		call := newCall("POST", "/a", "{}")
		call.Headers = []batch.Header{{Name: name, Value: "1"}}
		expect(t, c.Do(t.Context(), call), Refused, 502, "can't be set", "was not sent")
	}
	if n := u.conns.Load(); n > 0 {
		t.Errorf("%d connections were made", n)
	}
}
