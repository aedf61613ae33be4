package sheaf

import (
	"errors"
	"fmt"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/engine"
	"github.com/sheafapi/sheaf/internal/secret"
	"github.com/sheafapi/sheaf/internal/storage"
)

// sealer encrypts the credentials that are stored with batches. A credential is bound to its batch
// and store, so it can't be moved to another batch inside the database.
type sealer struct{ key secret.Key }

func boundTo(ticket batch.Ticket, store string) []byte {
	return append(ticket[:], store...)
}

// seal encrypts a batch's token.
func (s sealer) seal(ticket batch.Ticket, store, token string) ([]byte, error) {
	return s.key.Seal([]byte(token), boundTo(ticket, store)), nil
}

// unseal decrypts the token of a claimed batch. Errors: engine.ErrNoKey, engine.ErrUnknownSeal.
func (s sealer) unseal(c *storage.Claim) (string, error) {
	token, err := s.key.Open(c.Credential, boundTo(c.Ticket, c.Store))
	switch {
	case errors.Is(err, secret.ErrUnknownKey):
		err = fmt.Errorf("%w: %w", engine.ErrNoKey, err)
	case errors.Is(err, secret.ErrUnknownVersion):
		err = fmt.Errorf("%w: %w", engine.ErrUnknownSeal, err)
	}
	return string(token), err
}
