package strictupstream

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

const (
	get  = "GET /a HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\n\r\n"
	post = "POST /a HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\nContent-Length: 2\r\n\r\n{}"
	many = "POST /a HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\nTransfer-Encoding: chunked\r\n\r\n2;\r\n"
)

// Valid streams are accepted and faults are found, no matter how a stream is divided into reads.
func TestStream(t *testing.T) {
	chunked := strings.Replace(many, ";", "", 1) + "{}\r\n0\r\nX: y\r\n\r\n"
	const answer = "" // stands for an answer in the lists below
	for name, v := range map[string]struct {
		pieces []string
		fault  string
	}{
		"requests":         {[]string{get, answer, post, answer, chunked, answer, get}, ""},
		"half a head":      {[]string{get[:20]}, "request 1 is incomplete"},
		"half a body":      {[]string{get, answer, post[:len(post)-1]}, "request 2 is incomplete"},
		"half a chunk":     {[]string{chunked[:len(chunked)-20]}, "request 1 is incomplete"},
		"body twice":       {[]string{post + "{}"}, "belongs to no request"},
		"body twice later": {[]string{post, answer, "{}" + post}, "no request begins"},
		"digit before":     {[]string{post, answer, "1" + post}, "no request begins"},
		"line behind":      {[]string{post + "\r\n"}, "belongs to no request"},
		"line before":      {[]string{"\r\n" + post}, "no request begins"},
		"request early":    {[]string{get + get}, "belongs to no request"},
		"after GET, body":  {[]string{strings.Replace(post, "POST", "GET", 1), answer, get}, "must be the last"},
		"after close":      {[]string{strings.Replace(get, "\r\n", "\r\nconnection: close\r\n", 1), answer, get}, "must be the last"},
		"two credentials":  {[]string{get, answer, strings.Replace(get, "x", "y", 1)}, "two credentials"},
		"one credential":   {[]string{get, answer, strings.Replace(get, "Authorization: Bearer x\r\n", "", 1)}, "two credentials"},
		"two lengths":      {[]string{strings.Replace(post, "Host", "Content-Length: 2\r\nHost", 1)}, "lengths"},
		"length, chunked":  {[]string{strings.Replace(post, "Host", "Transfer-Encoding: chunked\r\nHost", 1)}, "codings"},
		"no Host":          {[]string{strings.Replace(get, "Host", "Hosts", 1)}, "0 Host headers"},
		"bare LF":          {[]string{strings.Replace(get, "\r\n", "\n", 1)}, "no request begins"},
		"space in a name":  {[]string{strings.Replace(get, "Host:", "Host :", 1)}, "malformed"},
		"chunk's size":     {[]string{many}, "a chunk's size"},
		"chunk's end":      {[]string{strings.Replace(many, ";", "", 1) + "{}xx"}, "does not end"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, most := range []int{1, 7, 1 << 20} {
				s := &stream{}
				for _, piece := range v.pieces {
					s.answered = s.answered || piece == answer
					for p := []byte(piece); len(p) > 0; p = p[min(most, len(p)):] {
						s.read(p[:min(most, len(p))])
					}
				}
				err := s.err
				if err == nil {
					err = s.whole()
				}
				if v.fault == "" && err != nil || v.fault != "" && !strings.Contains(fmt.Sprint(err), v.fault) {
					t.Errorf("in pieces of %d: %v, want %q", most, err, v.fault)
				}
			}
		})
	}
}

// recorder is a testing.TB that records errors.
type recorder struct {
	testing.TB
	ends   []func()
	faults []string
}

func (r *recorder) Helper()          {}
func (r *recorder) Cleanup(f func()) { r.ends = append(r.ends, f) }
func (r *recorder) Errorf(format string, args ...any) {
	r.faults = append(r.faults, fmt.Sprintf(format, args...))
}

// Faults are found even if the server tolerates everything.
func TestWatch(t *testing.T) {
	for stream, faulty := range map[string]bool{post: false, post + "\r\n" + get: true} {
		r := &recorder{TB: t}
		s, w := Start(r, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
		c, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, stream); err != nil {
			t.Fatal(err)
		}
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
		c.Close()
		for i := len(r.ends) - 1; i >= 0; i-- {
			r.ends[i]()
		}
		if (len(r.faults) > 0) != faulty {
			t.Errorf("%q: %q", stream, r.faults)
		}
		if got := strings.Join(w.Streams(), "|"); got != stream || w.Requests() == 0 {
			t.Errorf("the streams are %q with %d requests", got, w.Requests())
		}
	}
}
