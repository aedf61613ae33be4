package api

import (
	"errors"
	"net/http"
	"strings"

	"github.com/sheafapi/sheaf/internal/auth"
	"github.com/sheafapi/sheaf/internal/batch"
)

// authorize checks that the caller has a right at the call's store: auth.Create, auth.Read or
// auth.Cancel. It stores in c the owner whose batches the caller may use.
func (s *API) authorize(c *call, right string) error {
	caller, err := s.Authorize(c.R, c.Store, c.token, right)
	if err != nil {
		return s.refused(c, err)
	}
	c.Owner, c.shared, c.token, c.who = caller.Owner, caller.Shared, caller.Token, caller.Name
	return nil
}

// authorizeOperator checks that the caller is an operator.
func (s *API) authorizeOperator(c *call) (err error) {
	if c.token, err = bearer(c.R.Header); err != nil {
		return err
	}
	if err = s.AuthorizeOperator(c.R, c.token); err != nil {
		return s.refused(c, err)
	}
	return nil
}

// refused turns an error of the authorization into the error to answer with.
func (s *API) refused(c *call, err error) error {
	refusal, ok := errors.AsType[*auth.Refusal](err)
	if !ok {
		s.report(c, "authorize", batch.Ticket{}, err)
		return fail(unavailable, "The service could not verify this token. Retry in a second.")
	}
	code := unavailable
	switch refusal.Status { // docs/contract.md#errors: INVALID_API_TOKEN is the code for 403, not for 401
	case http.StatusUnauthorized:
		code = refusedToken
	case http.StatusForbidden:
		code = invalidToken
	case http.StatusTooManyRequests:
		code = rateLimited
	}
	return &apiError{code: code, message: refusal.Reason, wait: refusal.Wait}
}

// bearer returns the caller's token (RFC 6750, section 2.1; docs/contract.md#authorization). It
// checks only the form of the token.
func bearer(h http.Header) (string, error) {
	values := h.Values("Authorization")
	switch len(values) {
	case 0:
		return "", fail(missingToken, "The header Authorization is missing. Send: Authorization: Bearer TOKEN")
	case 1:
	default:
		return "", fail(wrongParameter, "The header Authorization was sent %d times. Send it once.", len(values))
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
		return "", fail(invalidToken, "The token contains characters that aren't allowed in a Bearer token. Allowed are A-Z a-z 0-9 - . _ ~ + / and = at the end.")
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
