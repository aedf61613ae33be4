package strictupstream

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var (
	requestLine = regexp.MustCompile(`^(GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) [!-~]+ HTTP/1\.1$`)
	headerLine  = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\\x00-\\x08\\x0a-\\x1f\\x7f]*$")
)

// head reads a request's head.
func head(s *stream, b []byte) (int, error) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if first, n, err := line(b); err != nil || n > 0 && !requestLine.Match(first) {
		return 0, fmt.Errorf("no request begins at byte %d: %q", s.at, b[:min(len(b), 100)])
	}
	if end < 0 {
		return 0, nil
	}
	lines := strings.Split(string(b[:end]), "\r\n")
	fields := map[string][]string{}
	for _, l := range lines[1:] {
		if !headerLine.MatchString(l) {
			return 0, fmt.Errorf("malformed header line: %q", l)
		}
		name, value, _ := strings.Cut(l, ":")
		name = strings.ToLower(name)
		fields[name] = append(fields[name], strings.Trim(value, " \t"))
	}
	method, _, _ := strings.Cut(lines[0], " ")
	if err := s.accept(method, fields); err != nil {
		return 0, err
	}
	return end + len("\r\n\r\n"), nil
}

// accept checks a request's header and determines where the request ends.
func (s *stream) accept(method string, fields map[string][]string) error {
	lengths, codings := fields["content-length"], fields["transfer-encoding"]
	owner := strings.Join(fields["authorization"], ",")
	switch {
	case len(fields["host"]) != 1:
		return fmt.Errorf("a request with %d Host headers", len(fields["host"]))
	case len(lengths) > 1 || len(codings) > 1 || len(lengths)+len(codings) > 1:
		return fmt.Errorf("a request with the lengths %q and the codings %q", lengths, codings)
	case s.requests > 0 && owner != s.owner:
		return errors.New("the connection carries the requests of two credentials")
	}
	s.owner = owner
	s.last = slices.ContainsFunc(fields["connection"], func(v string) bool { return strings.EqualFold(v, "close") })
	switch {
	case len(codings) == 1:
		if codings[0] != "chunked" {
			return fmt.Errorf("the coding %q", codings[0])
		}
		s.state = chunk
	case len(lengths) == 1:
		n, err := strconv.ParseUint(lengths[0], 10, 62)
		if err != nil {
			return fmt.Errorf("the length %q", lengths[0])
		}
		if s.left, s.state = int(n), body; n == 0 {
			s.end()
			return nil
		}
	default:
		s.end()
		return nil
	}
	s.last = s.last || method != "POST" && method != "PUT" && method != "PATCH"
	return nil
}

// body reads a body of known length.
func body(s *stream, b []byte) (int, error) {
	n := min(len(b), s.left)
	if s.left -= n; s.left == 0 {
		s.end()
	}
	return n, nil
}

// chunk reads the line before a chunk.
func chunk(s *stream, b []byte) (int, error) {
	text, n, err := line(b)
	if n == 0 || err != nil {
		return 0, err
	}
	size, err := strconv.ParseUint(string(text), 16, 31)
	if err != nil {
		return 0, fmt.Errorf("a chunk's size is %q", text)
	}
	if s.left, s.state = int(size)+len("\r\n"), data; size == 0 {
		s.state = trailer
	}
	return n, nil
}

// data reads a chunk and the line ending after it.
func data(s *stream, b []byte) (int, error) {
	n := min(len(b), s.left)
	if s.left -= n; s.left > 0 {
		return n, nil
	}
	s.state = chunk
	if at := s.at + n; !bytes.HasSuffix(s.all[:at], []byte("\r\n")) {
		return 0, fmt.Errorf("a chunk does not end at byte %d", at)
	}
	return n, nil
}

// trailer reads the lines after the last chunk, up to an empty line.
func trailer(s *stream, b []byte) (int, error) {
	text, n, err := line(b)
	if n == 0 || err != nil {
		return 0, err
	}
	if len(text) == 0 {
		s.end()
	}
	return n, nil
}
