package api

import (
	"net/http"
	"strings"

	"github.com/sheafapi/sheaf/batch"
)

// bearer returns the caller's token (RFC 6750, section 2.1; wire contract, "Base").
// Whether the token is any good is for the upstream to say.
func bearer(h http.Header) (string, error) {
	values := h.Values("Authorization")
	switch len(values) {
	case 0:
		return "", fail(missingToken, "The header Authorization is missing. Send: Authorization: Bearer TOKEN")
	case 1:
	default:
		return "", fail(wrongParameter, "The header Authorization was sent %d times; send it once.", len(values))
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	token = strings.Trim(token, " \t")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return "", fail(missingToken, "The header Authorization has no Bearer token. Send: Authorization: Bearer TOKEN")
	}
	if len(token) > batch.MaxToken {
		return "", fail(invalidToken, "The token is longer than %d bytes.", batch.MaxToken)
	}
	if !validToken(token) {
		return "", fail(invalidToken, "The token has characters that a Bearer token can't have; allowed are A-Z a-z 0-9 - . _ ~ + / and = at the end.")
	}
	return token, nil
}

// validToken reports whether s is a b64token (RFC 6750, section 2.1).
func validToken(s string) bool {
	s = strings.TrimRight(s, "=")
	if s == "" {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("-._~+/", rune(c)) {
			return false
		}
	}
	return true
}
