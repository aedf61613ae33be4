package api

import (
	"errors"
	"net/http"
	"strings"

	"github.com/elnormous/contenttype"
)

// The media types of a status.
const (
	jsonType   = "application/json"
	linesType  = "application/x-ndjson"
	eventsType = "text/event-stream"
)

// statusTypes are the media types of a status, in the service's order of preference.
var statusTypes = []contenttype.MediaType{
	contenttype.NewMediaType(jsonType), contenttype.NewMediaType(linesType), contenttype.NewMediaType(eventsType),
}

// statusType returns the media type in which a client wants a status (RFC 9110, section 12.5.1): the
// type with the highest quality; among equals, the one that the client names first. A range such as
// */* stands for the first type in statusTypes. A client that accepts none of the types gets JSON,
// because an error would be JSON too.
func statusType(h http.Header) string {
	var ranges []string
	for _, field := range h.Values("Accept") {
		for _, part := range splitList(field) {
			if r := mediaRange(part); r != "" {
				ranges = append(ranges, r)
			}
		}
	}
	if len(ranges) == 0 {
		return jsonType
	}
	best, _, err := contenttype.GetAcceptableMediaTypeFromHeader(strings.Join(ranges, ","), statusTypes)
	if err != nil {
		return jsonType
	}
	return best.MIME()
}

// mediaRange returns an element of Accept with its quality and no other parameter: a client that
// names a charset still means the type. A malformed element is ignored, so that the others still
// count.
func mediaRange(part string) string {
	_, _, err := contenttype.GetAcceptableMediaTypeFromHeader(part, statusTypes)
	if err != nil && !errors.Is(err, contenttype.ErrNoAcceptableTypeFound) {
		return ""
	}
	t, err := contenttype.ParseMediaType(part)
	if err != nil {
		return ""
	}
	if q, given := t.Parameters["q"]; given {
		return t.MIME() + ";q=" + q
	}
	return t.MIME()
}

// splitList splits a header's list at its commas, except those in quoted strings.
func splitList(field string) (parts []string) {
	quoted, begin := false, 0
	for i := 0; i < len(field); i++ {
		switch c := field[i]; {
		case c == '\\' && quoted:
			i++
		case c == '"':
			quoted = !quoted
		case c == ',' && !quoted:
			parts = append(parts, field[begin:i])
			begin = i + 1
		}
	}
	return append(parts, field[begin:])
}
