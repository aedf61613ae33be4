package api

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
)

// The rights that Authorize is asked about.
const (
	rightCreate = "create"
	rightRead   = "read"
	rightCancel = "cancel"
)

// Caller is who was let in.
type Caller struct {
	Owner batch.Owner // whose batches it sees
	Token string      // what the upstream gets
	Name  string      // for an audit; empty: the beginning of its token's SHA-256
}

// Denial is Authorize's error for a caller that is not let in.
type Denial struct {
	Status int           // 401, 403, 429 or 503
	Reason string        // a sentence for the caller
	Wait   time.Duration // 429: until it is worth asking again
}

func (d *Denial) Error() string { return d.Reason }

// authorize finds out whose batches the caller may see.
func (s *API) authorize(c *call, right string) error {
	if s.Authorize == nil {
		c.owner = batch.OwnerOf(c.token)
		return nil
	}
	caller, err := s.Authorize(c.r, c.store, c.token, right)
	var denial *Denial
	switch {
	case err == nil:
		c.owner, c.token, c.who = caller.Owner, caller.Token, caller.Name
		return nil
	case !errors.As(err, &denial):
		s.report(c, "authorize", batch.Ticket{}, err)
		return fail(unavailable, "The service could not find out whether this token is let in. Ask again in a second.")
	}
	return denial.answer()
}

// answer returns the answer for a caller that is not let in.
func (d *Denial) answer() error {
	code := map[int]code{
		http.StatusUnauthorized: refusedToken, http.StatusForbidden: invalidToken, http.StatusTooManyRequests: rateLimited,
	}[d.Status]
	if code == "" {
		code = unavailable
	}
	return &apiError{code: code, message: d.Reason, wait: d.Wait}
}

// bearer returns the caller's token (RFC 6750, section 2.1; docs/contract.md#authorization).
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
