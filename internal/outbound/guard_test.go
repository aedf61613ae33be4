package outbound

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sheafapi/sheaf/internal/strictupstream"

	"golang.org/x/net/dns/dnsmessage"
)

func TestGuard(t *testing.T) {
	g := &Guard{Allow: prefixes("10.20.0.0/16", "fd00:1::/32")}
	for address, allowed := range map[string]bool{
		"1.1.1.1": true, "93.184.216.34": true, "100.63.255.255": true, "100.128.0.0": true, "172.15.255.255": true, "172.32.0.0": true,
		"198.17.255.255": true, "223.255.255.255": true, "2606:4700::1111": true, "2a00::1": true, "::ffff:1.1.1.1": true,
		"10.20.3.4": true, "::ffff:10.20.3.4": true, "fd00:1::7": true, "64:ff9b::1.1.1.1": true, "64:ff9b::10.20.0.1": true, "2002:0101:0101::1": true,

		"0.0.0.0": false, "0.1.2.3": false, "10.0.0.1": false, "10.21.0.1": false, "100.64.0.1": false, "100.100.100.200": false,
		"127.0.0.1": false, "127.255.255.254": false, "169.254.169.254": false, "172.16.0.1": false, "172.31.255.255": false,
		"192.0.0.192": false, "192.0.2.1": false, "192.88.99.1": false, "192.168.1.1": false, "198.18.0.1": false, "198.19.255.255": false,
		"198.51.100.1": false, "203.0.113.1": false, "224.0.0.1": false, "239.255.255.250": false, "240.0.0.1": false, "255.255.255.255": false,
		"::": false, "::1": false, "::127.0.0.1": false, "::ffff:127.0.0.1": false, "::ffff:169.254.169.254": false, "::ffff:0:127.0.0.1": false,
		"64:ff9b::127.0.0.1": false, "64:ff9b::a9fe:a9fe": false, "64:ff9b:1::1": false, "100::1": false, "2001::1": false, "2001:2::1": false,
		"2001:db8::1": false, "3fff::1": false, "2002:7f00:1::": false, "2002:a9fe:a9fe::": false, "2002:0a00:0001::1": false,
		"fc00::1": false, "fd00:ec2::254": false, "fe80::1": false, "febf::1": false, "fec0::1": false, "ff02::1": false, "ff0e::1": false, "4000::1": false,
	} {
		if err := g.check(netip.MustParseAddr(address)); (err == nil) != allowed {
			t.Errorf("%s: %v", address, err)
		}
	}
}

// names is a DNS server that returns the next of its answers for each IPv4 query, and then repeats the last.
type names struct {
	conn    net.PacketConn
	answers [][]string
	asked   atomic.Int64
}

func newNames(t *testing.T, answers ...[]string) *names {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &names{conn: conn, answers: answers}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		n.serve()
	}()
	t.Cleanup(func() { conn.Close(); <-ended })
	return n
}

func (n *names) serve() {
	buf := make([]byte, 1500)
	for {
		size, from, err := n.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		var m dnsmessage.Message
		if m.Unpack(buf[:size]) != nil || len(m.Questions) != 1 {
			continue
		}
		m.Response, m.Additionals = true, nil
		if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
			nth := min(int(n.asked.Add(1)), len(n.answers)) - 1
			for _, address := range n.answers[nth] {
				m.Answers = append(m.Answers, dnsmessage.Resource{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
					Body:   &dnsmessage.AResource{A: netip.MustParseAddr(address).As4()},
				})
			}
		}
		if out, err := m.Pack(); err == nil {
			n.conn.WriteTo(out, from)
		}
	}
}

// resolver returns a resolver that uses only this server.
func (n *names) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "udp", n.conn.LocalAddr().String())
	}}
}

// The guard checks the address of every connection, so a name that first resolves to an allowed address and
// later to another is refused. Of several addresses, the allowed one is used.
func TestGuardRebinding(t *testing.T) {
	var calls [2]atomic.Int64
	listeners := listenOnOnePort(t, "127.0.0.2", "127.0.0.1")
	for i := range listeners {
		server := &httptest.Server{Listener: strictupstream.Watch(t, listeners[i]), Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			calls[i].Add(1)
			w.Header().Set("Connection", "close")
		})}}
		server.Start()
		defer server.Close()
	}
	_, port, _ := net.SplitHostPort(listeners[0].Addr().String())
	dns := newNames(t, []string{"127.0.0.2"}, []string{"127.0.0.1"}, []string{"127.0.0.1", "127.0.0.2"}, []string{"127.0.0.1"})
	c := newClient(t, "rebinding.example:"+port, func(o *Options) { o.Guard = &Guard{Allow: prefixes("127.0.0.2/32")} })
	c.network.Resolver = dns.resolver()
	call := newCall("POST", "orders", "{}")
	for i, allowed := range []bool{true, false, true, false} {
		a := c.Do(t.Context(), call)
		if allowed {
			expect(t, a, Answered, 200)
		} else {
			expect(t, a, Refused, 502, "address is not allowed")
		}
		if n := dns.asked.Load(); n != int64(i+1) {
			t.Errorf("attempt %d: the name was resolved %d times", i, n)
		}
	}
	if allowed, other := calls[0].Load(), calls[1].Load(); allowed != 2 || other != 0 {
		t.Errorf("%d calls to the allowed address, %d to the other one", allowed, other)
	}
}

// listenOnOnePort listens on two addresses at the same port. Another process may hold a port that is
// free at the first address, so it tries other ports.
func listenOnOnePort(t *testing.T, first, second string) [2]net.Listener {
	t.Helper()
	var err error
	for range 100 {
		var a, b net.Listener
		if a, err = net.Listen("tcp", first+":0"); err != nil {
			break
		}
		_, port, _ := net.SplitHostPort(a.Addr().String())
		if b, err = net.Listen("tcp", net.JoinHostPort(second, port)); err == nil {
			return [2]net.Listener{a, b}
		}
		a.Close()
	}
	t.Fatal(err)
	return [2]net.Listener{}
}

// Without a guard, all addresses are allowed. With a guard, literal addresses are checked too.
func TestGuardLiterals(t *testing.T) {
	server, _ := strictupstream.Start(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	address := strings.TrimPrefix(server.URL, "http://")
	expect(t, newClient(t, address).Do(t.Context(), newCall("GET", "/", "")), Answered, 200)
	guarded := newClient(t, address, func(o *Options) { o.Guard = &Guard{} })
	expect(t, guarded.Do(t.Context(), newCall("POST", "/", "{}")), Refused, 502, "address is not allowed")
}

// Connections over TLS use the authorities and the certificate of the options.
func TestTLSOptions(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.TLS.PeerCertificates[0].Subject.Organization[0])
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MaxVersion: tls.VersionTLS12} // in TLS 1.2, the refusal comes during the handshake
	server.StartTLS()
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	of := func(config *tls.Config) *Client {
		return newClient(t, "", func(o *Options) { o.Template, o.TLS = server.URL+"/{storeId}", config })
	}
	expect(t, of(nil).Do(t.Context(), newCall("POST", "/", "{}")), NotSent, 502, "TLS certificate not trusted")
	expect(t, of(&tls.Config{RootCAs: roots}).Do(t.Context(), newCall("POST", "/", "{}")), NotSent, 502, "TLS handshake failed")
	config := &tls.Config{RootCAs: roots, Certificates: server.TLS.Certificates}
	a := of(config).Do(t.Context(), newCall("POST", "/", "{}"))
	expect(t, a, Answered, 200)
	if string(a.Body) != "Acme Co" {
		t.Errorf("the upstream saw %q", a.Body)
	}
	if config.NextProtos != nil || config.MinVersion != 0 {
		t.Error("the caller's config was changed")
	}
}

// A server with an old version of TLS is refused.
func TestTLSVersion(t *testing.T) {
	server := httptest.NewUnstartedServer(nil)
	server.TLS = &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}
	server.StartTLS()
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())
	c := newClient(t, "", func(o *Options) {
		o.Template, o.TLS = server.URL+"/{storeId}", &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS10}
	})
	expect(t, c.Do(t.Context(), newCall("POST", "/", "{}")), NotSent, 502, "TLS handshake failed")
}
