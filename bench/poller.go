package main

import (
	"bufio"
	"bytes"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// poller repeats one GET on one connection. It understands only as much HTTP as the answers in this
// benchmark need, so that it is cheap.
type poller struct {
	conn    net.Conn
	in      *bufio.Reader
	request []byte
}

func newPoller(node, target string) (*poller, error) {
	address := strings.TrimPrefix(node, "http://")
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	request := fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer %s\r\n\r\n", target, address, token)
	return &poller{conn, bufio.NewReaderSize(conn, 64<<10), request}, nil
}

var (
	contentLength = []byte("Content-Length: ")
	chunked       = []byte("Transfer-Encoding: chunked")
)

// poll polls once and reads the whole answer, which must have a Content-Length or be chunked.
func (p *poller) poll() error {
	if _, err := p.conn.Write(p.request); err != nil {
		return err
	}
	length, inChunks := -1, false
	for nth := 0; ; nth++ {
		line, err := p.line()
		switch {
		case err != nil:
			return err
		case nth == 0 && !bytes.HasPrefix(line, []byte("HTTP/1.1 20")):
			return fmt.Errorf("answered %s", line)
		case len(line) == 0 && inChunks:
			return p.chunks()
		case len(line) == 0 && length < 0:
			return fmt.Errorf("the answer's length is unknown")
		case len(line) == 0:
			_, err := p.in.Discard(length)
			return err
		case bytes.Equal(line, chunked):
			inChunks = true
		case bytes.HasPrefix(line, contentLength):
			if length, err = strconv.Atoi(string(line[len(contentLength):])); err != nil {
				return err
			}
		}
	}
}

// chunks reads a body in chunks (RFC 9112, section 7.1) without extensions or trailers.
func (p *poller) chunks() error {
	for {
		line, err := p.line()
		if err != nil {
			return err
		}
		size, err := strconv.ParseInt(string(line), 16, 64)
		if err != nil {
			return err
		}
		if _, err := p.in.Discard(int(size) + len("\r\n")); err != nil || size == 0 {
			return err
		}
	}
}

// line reads a line and returns it without the line ending.
func (p *poller) line() ([]byte, error) {
	line, err := p.in.ReadSlice('\n')
	return bytes.TrimRight(line, "\r\n"), err
}
