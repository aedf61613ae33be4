package api

import (
	"bytes"
	"net/url"
	"slices"
)

// maxForm is the maximum size of a form, in bytes. Reading a form never waits for memory, because
// every body may take this much at once.
const maxForm = freeBody

// readForm adds the parameters of a form in the body to those of the query. It refuses any other
// body: if a ticket in it were ignored, a call that should pause one batch would pause the whole
// queue.
func (s *API) readForm(c *call) error {
	if c.R.ContentLength == 0 {
		return nil
	}
	mediaType, charset := mediaTypeOf(c.R.Header)
	isForm := mediaType == "application/x-www-form-urlencoded"
	body, release, err := s.readBody(c, maxForm)
	defer release()
	body = bytes.TrimSpace(bytes.TrimPrefix(body, byteOrderMark))
	switch {
	case err == nil && (len(body) == 0 || isJSONType(mediaType) && isEmptyJSON(body)):
		return nil
	case isTooLarge(err) && isForm:
		return fail(payloadTooLarge, "The form in the body is larger than %d bytes.", maxForm)
	case err != nil && !isTooLarge(err):
		return err
	case !isForm || body[0] == '{' || body[0] == '[':
		return fail(unsupportedMediaType, "This call takes its parameters in the query or in a form. Send no body, or one of the type application/x-www-form-urlencoded.")
	}
	values, err := url.ParseQuery(string(body))
	if err != nil {
		return fail(wrongParameter, "The form in the body is malformed: %v.", err)
	}
	for name, given := range values {
		for i := range given {
			if given[i], err = decodeText(given[i], charset); err != nil {
				return err
			}
		}
		c.query.values[name] = slices.Concat(c.query.values[name], given)
	}
	return nil
}

// isEmptyJSON reports whether a JSON text is an empty value. Some clients send one instead of no
// body.
func isEmptyJSON(body []byte) bool {
	return slices.Contains([]string{"{}", "[]", "null", `""`}, string(body))
}

// decodeText decodes a value of a form in one of the charsets that clients declare.
func decodeText(value, charset string) (string, error) {
	switch charset {
	case utf8Charset, "us-ascii":
		return value, nil
	case "iso-8859-1": // each byte is the code point
		runes := make([]rune, len(value))
		for i := range len(value) {
			runes[i] = rune(value[i])
		}
		return string(runes), nil
	}
	return "", fail(unsupportedMediaType, "The charset of the form in the body must be utf-8 or iso-8859-1.")
}
