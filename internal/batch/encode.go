package batch

import (
	"bytes"
	"encoding/base64"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// KindOf returns how an answer's body is embedded in a status. A body is JSON if it is one JSON value,
// whatever its Content-Type says. Repeated keys are allowed.
func KindOf(body []byte) BodyKind {
	switch {
	case len(body) == 0:
		return NoBody
	case jsontext.Value(body).IsValid(jsontext.AllowDuplicateNames(true)):
		return JSONBody
	case utf8.Valid(body):
		return TextBody
	}
	return BinaryBody
}

// AppendHead appends the beginning of a status. The caller must close the object.
func AppendHead(dst []byte, s Status, total, completed int) []byte {
	dst = append(dst, `{"status":"`...)
	dst = append(dst, s.String()...)
	dst = append(dst, `","totalRequests":`...)
	dst = strconv.AppendInt(dst, int64(total), 10)
	dst = append(dst, `,"completedRequests":`...)
	return strconv.AppendInt(dst, int64(completed), 10)
}

// AppendResult appends one element of a status's responses. The body is embedded as its kind says or, if
// escaped is set, as a string with its exact text. A body that isn't UTF-8 is base64 in both forms.
// Empty fields are left out. If a request was not executed, its line says why.
func AppendResult(dst []byte, id string, r *Result, escaped bool) []byte {
	return (&Form{Escaped: escaped}).AppendResult(dst, id, r, false)
}

// Form says how bodies are written.
type Form struct {
	Escaped bool // as strings with their exact text; see AppendResult
	Most    int  // in bytes; only the beginning of a longer body is written, as with Escaped; 0: no limit
	// Flush, if set, is called after each piece of a body and returns the buffer for the next piece, so
	// that the buffer never holds the whole of a long body.
	Flush func(dst []byte) []byte
}

// AppendResult is the function AppendResult in this form. inDoubt means that the request failed and it is
// unknown whether it was carried out.
func (f *Form) AppendResult(dst []byte, id string, r *Result, inDoubt bool) []byte {
	return append(f.appendResult(append(dst, '{'), id, r, inDoubt), '}')
}

// Details are the fields that a response has with details=true (docs/contract.md#reading-and-waiting).
type Details struct {
	Request     *Request
	Attempts    int
	Throttles   int       // refusals because of a rate limit
	ThrottledAt time.Time // the time of the first of these; zero: none
	StartedAt   time.Time // the start of the first attempt; zero: the request was not sent
	EndedAt     time.Time // the end of the last attempt
}

// AppendIndexed is AppendResult with the request's index in the batch and, unless d is nil, the details.
func (f *Form) AppendIndexed(dst []byte, index int, id string, r *Result, inDoubt bool, d *Details) []byte {
	dst = append(dst, `{"index":`...)
	dst = strconv.AppendInt(dst, int64(index), 10)
	dst = append(dst, ',')
	dst = f.appendResult(dst, id, r, inDoubt)
	if d != nil {
		dst = d.append(dst, r)
	}
	return append(dst, '}')
}

// Moment is the format of times in JSON: RFC 3339 in UTC, with milliseconds.
const Moment = "2006-01-02T15:04:05.000Z"

func (d *Details) append(dst []byte, r *Result) []byte {
	dst = append(dst, `,"method":"`...)
	dst = append(dst, d.Request.Method...)
	dst = append(dst, `","path":`...)
	dst = AppendString(dst, d.Request.Path)
	if len(r.Headers) > 0 {
		dst = append(dst, `,"headers":{`...)
		for i := range r.Headers {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = AppendString(dst, r.Headers[i].Name)
			dst = append(dst, ':')
			dst = AppendString(dst, r.Headers[i].Value)
		}
		dst = append(dst, '}')
	}
	dst = append(dst, `,"attempts":`...)
	dst = strconv.AppendInt(dst, int64(d.Attempts), 10)
	if d.StartedAt.IsZero() {
		return dst
	}
	dst = append(dst, `,"startedAt":"`...)
	dst = d.StartedAt.UTC().AppendFormat(dst, Moment)
	dst = append(dst, `","durationMs":`...)
	dst = strconv.AppendInt(dst, max(d.EndedAt.Sub(d.StartedAt).Milliseconds(), 0), 10)
	if d.Throttles == 0 {
		return dst
	}
	dst = append(dst, `,"throttles":`...)
	dst = strconv.AppendInt(dst, int64(d.Throttles), 10)
	dst = append(dst, `,"throttledAt":"`...)
	return append(d.ThrottledAt.UTC().AppendFormat(dst, Moment), '"')
}

// AppendRequest appends a request as it was created, with its index in the batch. ids holds the ids of
// all requests of the batch. If a body is longer than the form allows, its beginning is written as text.
func (f *Form) AppendRequest(dst []byte, index int, r *Request, ids []string) []byte {
	dst = append(dst, `{"index":`...)
	dst = strconv.AppendInt(dst, int64(index), 10)
	if r.ID != "" {
		dst = AppendString(append(dst, `,"id":`...), r.ID)
	}
	dst = append(dst, `,"method":"`...)
	dst = append(dst, r.Method...)
	dst = AppendString(append(dst, `","path":`...), r.Path)
	switch {
	case r.Body == nil:
	case f.cuts(r.Body):
		dst = f.appendText(append(dst, `,"bodyText":`...), textHead(r.Body, f.Most))
		dst = strconv.AppendInt(append(dst, `,"bodyBytes":`...), int64(len(r.Body)), 10)
	case KindOf(r.Body) == JSONBody:
		dst = f.pieces(append(dst, `,"body":`...), bytes.Trim(r.Body, " \t\r\n"), appendPlain)
	default:
		dst = f.appendText(append(dst, `,"body":`...), r.Body)
	}
	if l := r.Links; l != nil {
		dst = l.append(dst, ids)
	}
	return append(dst, '}')
}

// append appends the fields of the links, which refer to other requests by id.
func (l *Links) append(dst []byte, ids []string) []byte {
	object := func(name string, n int, field func(i int) (key, value string)) {
		if n == 0 {
			return
		}
		dst = append(AppendString(append(dst, ','), name), ':', '{')
		for i := range n {
			key, value := field(i)
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(AppendString(dst, key), ':')
			dst = AppendString(dst, value)
		}
		dst = append(dst, '}')
	}
	object("headers", len(l.Headers), func(i int) (string, string) { return l.Headers[i].Name, l.Headers[i].Value })
	if len(l.DependsOn) > 0 {
		dst = append(dst, `,"dependsOn":[`...)
		for i, on := range l.DependsOn {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = AppendString(dst, ids[on])
		}
		dst = append(dst, ']')
	}
	if l.RunIf != IfSuccess {
		dst = AppendString(append(dst, `,"runIf":`...), l.RunIf.String())
	}
	object("refs", len(l.Refs), func(i int) (string, string) {
		r := &l.Refs[i]
		from := ids[r.From] + "#" + r.Path
		if r.Field != "" {
			from = ids[r.From] + "@" + r.Field
		}
		return r.Where.String() + ":" + r.Name, from
	})
	return dst
}

func (f *Form) appendResult(dst []byte, id string, r *Result, inDoubt bool) []byte {
	if id != "" {
		dst = append(dst, `"id":`...)
		dst = AppendString(dst, id)
		dst = append(dst, ',')
	}
	dst = append(dst, `"status":"`...)
	dst = append(dst, r.Status.String()...)
	dst = append(dst, '"')
	if r.Status == NotExecuted {
		if r.Line != "" {
			dst = append(dst, `,"reason":`...)
			dst = AppendString(dst, r.Line)
		}
		return dst
	}
	if inDoubt {
		dst = append(dst, `,"inDoubt":true`...)
	}
	dst = f.appendBody(dst, r)
	dst = append(dst, `,"httpStatusCode":`...)
	dst = strconv.AppendInt(dst, int64(r.Code), 10)
	if r.Line != "" {
		dst = append(dst, `,"httpStatusLine":`...)
		dst = AppendString(dst, r.Line)
	}
	return dst
}

func (f *Form) appendBody(dst []byte, r *Result) []byte {
	if r.Kind == NoBody {
		return dst
	}
	body, escaped := r.Body, f.Escaped
	if f.cuts(body) {
		body, escaped = textHead(body, f.Most), true
	}
	if escaped {
		dst = append(dst, `,"escapedHttpBody":`...)
	} else {
		dst = append(dst, `,"httpBody":`...)
	}
	switch {
	case r.Kind == BinaryBody:
		dst = f.pieces(append(dst, '"'), body, base64.StdEncoding.AppendEncode)
		dst = append(dst, `","httpBodyEncoding":"base64"`...)
	case r.Kind == JSONBody && !escaped:
		dst = f.pieces(dst, bytes.Trim(body, " \t\r\n"), appendPlain)
	default:
		dst = f.appendText(dst, body)
	}
	if f.cuts(r.Body) {
		dst = strconv.AppendInt(append(dst, `,"httpBodyBytes":`...), int64(len(r.Body)), 10)
	}
	return dst
}

// cuts reports whether only the beginning of a body is written.
func (f *Form) cuts(body []byte) bool { return f.Most > 0 && len(body) > f.Most }

// appendText appends text as a JSON string.
func (f *Form) appendText(dst, text []byte) []byte {
	if f.Flush == nil || len(text) <= pieceBytes {
		return AppendString(dst, text)
	}
	dst = append(dst, '"')
	for len(text) > pieceBytes {
		piece := textHead(text, pieceBytes)
		dst = f.Flush(appendContent(dst, piece))
		text = text[len(piece):]
	}
	return append(appendContent(dst, text), '"')
}

// pieceBytes is the size of the pieces of long bodies. Base64 needs a multiple of 3.
const pieceBytes = 48 << 10

// pieces appends body with add, which it calls several times if the body is long.
func (f *Form) pieces(dst, body []byte, add func(dst, piece []byte) []byte) []byte {
	for f.Flush != nil && len(body) > pieceBytes {
		dst = f.Flush(add(dst, body[:pieceBytes]))
		body = body[pieceBytes:]
	}
	return add(dst, body)
}

// textHead returns at most the first n bytes of text. It doesn't split a character.
func textHead(text []byte, n int) []byte {
	end := n
	for end > 0 && end > n-utf8.UTFMax && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end]
}

func appendPlain(dst, piece []byte) []byte { return append(dst, piece...) }

// AppendString appends s as a JSON string. Bytes that aren't UTF-8 become U+FFFD.
func AppendString[T string | []byte](dst []byte, s T) []byte {
	dst, _ = jsontext.AppendQuote(dst, s) // the only error is invalid UTF-8
	return dst
}

// appendContent appends s as a JSON string without its quotation marks.
func appendContent(dst, s []byte) []byte {
	begin := len(dst)
	dst = AppendString(dst, s)
	return append(dst[:begin], dst[begin+1:len(dst)-1]...)
}
