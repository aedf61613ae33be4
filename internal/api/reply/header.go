package reply

import (
	"mime"
	"net/http"
	"strconv"
	"strings"
)

// The media types of a status.
const (
	jsonType   = "application/json"
	linesType  = "application/x-ndjson"
	eventsType = "text/event-stream"
)

// elements returns the elements of a header that is a list (RFC 9110, section 5.6.1). Commas in
// quoted strings don't separate elements.
func elements(lines []string) (out []string) {
	for _, line := range lines {
		for line != "" {
			end := elementEnd(line)
			if element := strings.TrimSpace(line[:end]); element != "" {
				out = append(out, element)
			}
			line = line[min(end+1, len(line)):]
		}
	}
	return out
}

// elementEnd returns the index of the comma after the first element.
func elementEnd(line string) int {
	quoted := false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			return i
		}
	}
	return len(line)
}

// preference is an element of a header in which each has a quality (RFC 9110, section 12.4.2).
type preference struct {
	value   string // in lower case, without parameters
	quality int    // in thousandths
}

// preferences returns the elements of a header. It skips malformed ones, so that the others still
// count.
func preferences(lines []string) (out []preference) {
	for _, element := range elements(lines) {
		p := preference{strings.ToLower(element), 1000}
		if strings.Contains(element, ";") {
			value, params, err := mime.ParseMediaType(element)
			if q, given := params["q"]; given && err == nil {
				p.quality, err = parseQuality(q)
			}
			if err != nil {
				continue
			}
			p.value = value
		}
		out = append(out, p)
	}
	return out
}

// parseQuality reads a quality, a number from 0 to 1 with at most three decimals, and returns it in
// thousandths.
func parseQuality(s string) (int, error) {
	q, err := strconv.ParseFloat(s, 64)
	if err != nil || !(q >= 0 && q <= 1) || len(s) > len("0.001") {
		return 0, strconv.ErrSyntax
	}
	return int(q*1000 + 0.5), nil
}

// mediaType returns the media type in which a client wants a status (RFC 9110, section 12.5.1): the
// type with the highest quality; among equals, the one that the client names first. If one range
// such as */* covers several types, JSON comes first, then lines. A client that accepts none of the
// types gets JSON, because an error would be JSON too.
func mediaType(h http.Header) string {
	accept := preferences(h["Accept"])
	best, bestQuality, bestPlace := jsonType, 0, 0
	for _, t := range [...]string{jsonType, linesType, eventsType} {
		family, _, _ := strings.Cut(t, "/")
		quality, specific, place := 0, 0, 0
		for i, p := range accept {
			s := 0
			switch {
			case p.value == t:
				s = 3
			case p.value == family+"/*":
				s = 2
			case p.value == "*/*":
				s = 1
			}
			if s > specific {
				quality, specific, place = p.quality, s, i
			}
		}
		if quality > bestQuality || quality == bestQuality && quality > 0 && place < bestPlace {
			best, bestQuality, bestPlace = t, quality, place
		}
	}
	return best
}

// Negotiate returns the coding that a client prefers (RFC 9110, section 12.5.3): the one with the
// highest quality; among equals zstd, then gzip. Without the header, an answer isn't compressed. A
// client that refuses even an uncompressed answer gets one anyway, because it could not read an
// error either.
func Negotiate(h http.Header) Coding {
	gzip, zstd, identity, others := -1, -1, 0, 0
	for _, p := range preferences(h["Accept-Encoding"]) {
		switch p.value {
		case "gzip", "x-gzip":
			gzip = p.quality
		case "zstd":
			zstd = p.quality
		case "identity":
			identity = p.quality
		case "*":
			others = p.quality
		}
	}
	if gzip < 0 {
		gzip = others
	}
	if zstd < 0 {
		zstd = others
	}
	switch {
	case zstd > 0 && zstd >= gzip && zstd >= identity:
		return Zstd
	case gzip > 0 && gzip >= identity:
		return Gzip
	}
	return Identity
}

// Unchanged reports whether the client already has the status with this tag (RFC 9110, section
// 13.1.2).
func Unchanged(h http.Header, tag string) bool {
	for _, known := range elements(h["If-None-Match"]) {
		if known == "*" || strings.TrimPrefix(known, "W/") == strings.TrimPrefix(tag, "W/") {
			return true
		}
	}
	return false
}

// PreferredWait returns the client's preference for how long to wait, in seconds (RFC 7240, section
// 4.3). A preference that can't be read is ignored.
func PreferredWait(h http.Header) (seconds uint64, given bool) {
	for _, wish := range elements(h["Prefer"]) {
		_, params, err := mime.ParseMediaType("prefer;" + wish)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseUint(params["wait"], 10, 32); err == nil {
			return n, true
		}
	}
	return 0, false
}
