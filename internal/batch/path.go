package batch

import (
	"errors"
	"strings"
)

var errLongPath = errors.New("must not be longer than 8192 bytes")

// CheckPath returns an error if a request with this path could leave its store's root
// (docs/contract.md#paths). The error completes the sentence "$[3].path …". An accepted path reaches the
// upstream unchanged.
//
// Segments are percent-decoded until nothing changes, because it is unknown how often the servers behind
// the upstream decode them. Each segment ends at a ';' or an encoded '?' or '#', because some servers
// read what follows as a parameter, a query or a fragment.
func CheckPath(path string) error {
	if path == "" {
		return errors.New("must not be empty")
	}
	if len(path) > MaxPath {
		return errLongPath
	}
	for i := range len(path) {
		switch c := path[i]; {
		case c == '#':
			return errors.New("must not contain a fragment (#)")
		case c == ' ':
			return errors.New("must not contain a raw space; write %20")
		case c < ' ' || c == 0x7f:
			return errors.New("must not contain a control character")
		case c >= 0x80:
			return errors.New("must not contain raw non-ASCII characters; percent-encode them")
		case c == '\\':
			return errors.New(`must not contain a backslash`)
		}
	}
	path, _, _ = strings.Cut(path, "?")
	if i := strings.Index(path, "://"); i >= 0 && !strings.Contains(path[:i], "/") {
		return errors.New("must be relative to the store's root, not an absolute URL")
	}
	// The path is appended to the root's slash, so a literal slash at its beginning is removed. An
	// encoded slash there stays, and makes an empty segment.
	decoded, err := decodePath(strings.TrimPrefix(path, "/"))
	if err != nil {
		return err
	}
	return checkSegments(decoded)
}

// checkSegments checks the decoded segments of a path without its leading slash.
func checkSegments(path string) error {
	first := true
	for rest, more := path, true; more; first = false {
		var segment string
		segment, rest, more = strings.Cut(rest, "/")
		name := segment
		if i := strings.IndexAny(segment, ";?#"); i >= 0 {
			name = segment[:i]
		}
		switch {
		case segment == "" && more:
			return errors.New("must not contain //")
		case name == "." || name == "..":
			return errors.New(`must not contain a "." or ".." segment`)
		case first && strings.EqualFold(name, "batch"):
			return errors.New("must not lead to the batch endpoint itself")
		case name == "" && segment != "":
			return errors.New("must not contain a segment that begins with ;, ? or #")
		}
	}
	return nil
}

// decodePath percent-decodes a path until nothing changes, in one pass. A decoded character may complete
// an escape with the characters before it, so the end of the output is decoded again.
func decodePath(path string) (string, error) {
	if !strings.Contains(path, "%") {
		return path, nil
	}
	out := make([]byte, 0, len(path))
	for i := 0; i < len(path); i++ {
		if path[i] == '%' && (i+2 >= len(path) || !isHex(path[i+1]) || !isHex(path[i+2])) {
			return "", errors.New("must not contain a % that is not followed by two hexadecimal digits")
		}
		out = append(out, path[i])
		for n := len(out); n >= 3 && out[n-3] == '%' && isHex(out[n-2]) && isHex(out[n-1]); n = len(out) {
			c := unhex(out[n-2])<<4 | unhex(out[n-1])
			switch {
			case c == '\\':
				return "", errors.New("must not contain an encoded backslash")
			case c < ' ' || c == 0x7f:
				return "", errors.New("must not contain an encoded control character")
			case overlong(out[:n-3], c):
				return "", errors.New("must not contain an overlong UTF-8 sequence")
			}
			out = append(out[:n-3], c)
		}
	}
	return string(out), nil
}

// overlong reports whether the byte c, after the byte before, shows that a UTF-8 sequence is longer than
// its character needs (RFC 3629, section 3). Some decoders read such a sequence as a dot or a slash.
func overlong(before []byte, c byte) bool {
	var last byte
	if len(before) > 0 {
		last = before[len(before)-1]
	}
	return c == 0xC0 || c == 0xC1 || last == 0xE0 && c >= 0x80 && c < 0xA0 || last == 0xF0 && c >= 0x80 && c < 0x90
}

func isHex(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}
