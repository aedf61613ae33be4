package webhook

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/gofrs/flock"
	"github.com/sheafapi/sheaf/internal/private"
)

const (
	secretPrefix = "whsec_"
	secretSize   = 32      // the size of a new secret, in bytes
	minSecret    = 24      // the size of any secret, in bytes (Standard Webhooks, "Signature scheme")
	maxFile      = 4 << 10 // the size of a file of secrets, in bytes
	maxSecrets   = 2       // the secret, and the previous one while receivers switch
)

// NewSecret returns a random secret in the format that receivers' libraries accept.
func NewSecret() string {
	var raw [secretSize]byte
	rand.Read(raw[:]) // never fails
	return secretPrefix + base64.StdEncoding.EncodeToString(raw[:])
}

// Signer signs deliveries as Standard Webhooks specifies. It is safe for concurrent use.
type Signer struct {
	file    string
	secrets atomic.Pointer[[]string]
}

// ReadSecrets reads a file of one or two secrets, each on its own line. Each secret signs, so receivers
// may use either. Other users must not have access to the file. Errors never quote it.
func ReadSecrets(file string) (*Signer, error) {
	s := &Signer{file: file}
	return s, s.Reload()
}

// Reload reads the file again. If that fails, the secrets don't change.
func (s *Signer) Reload() error {
	lines, err := readLines(s.file)
	if err != nil {
		return err
	}
	s.secrets.Store(&lines)
	return nil
}

// StoreSecrets returns the secrets that sign a store's deliveries, newest first.
func (s *Signer) StoreSecrets(store string) (out []string) {
	for _, secret := range *s.secrets.Load() {
		out = append(out, storeSecret(secret, store))
	}
	return out
}

// storeSecret derives a store's secret, so that a caller who knows one store's secret can't sign for
// another store. The empty store stands for the operator, who uses the secret itself.
func storeSecret(secret, store string) string {
	if store == "" {
		return secret
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, secretPrefix))
	if err == nil {
		raw, err = hkdf.Key(sha256.New, raw, nil, "sheaf webhook secret of store "+store, secretSize)
	}
	if err != nil {
		panic(err) //nolint:forbidigo // can't happen: readLines has decoded it, and the length is constant
	}
	return secretPrefix + base64.StdEncoding.EncodeToString(raw)
}

var errForm = errors.New("it must have one or two lines, each with whsec_ followed by at least 24 bytes in base64; create one with: sheaf webhooks new-secret")

func readLines(file string) ([]string, error) {
	text, err := private.Read(file, maxFile)
	if err != nil {
		return nil, err
	}
	lines := strings.Fields(string(text))
	for _, line := range lines {
		encoded, ok := strings.CutPrefix(line, secretPrefix)
		raw, err := base64.StdEncoding.DecodeString(encoded)
		if !ok || err != nil || len(raw) < minSecret {
			return nil, fmt.Errorf("%s is not a file of webhook secrets: %w", file, errForm)
		}
	}
	if len(lines) == 0 || len(lines) > maxSecrets {
		return nil, fmt.Errorf("%s has %d webhook secrets: %w", file, len(lines), errForm)
	}
	return lines, nil
}

// CreateSecret creates a file of mode 0600 with a new secret. It never replaces a file.
func CreateSecret(file string) error {
	return private.Create(file, []byte(NewSecret()+"\n"))
}

// RotateSecret adds a new secret to a file in front of the old one, so that both sign. With finish, it
// removes the old secret. It replaces the file atomically.
func RotateSecret(file string, finish bool) (err error) {
	lock := flock.New(file+".lock", flock.SetPermissions(0o600))
	if err := lock.Lock(); err != nil {
		return fmt.Errorf("lock %s: %w", file, err)
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	lines, err := readLines(file)
	switch {
	case err != nil:
		return err
	case finish && len(lines) == 1:
		return fmt.Errorf("%s has one secret: there is no older one to remove", file)
	case finish:
		lines = lines[:1]
	case len(lines) == maxSecrets:
		return fmt.Errorf("%s has two secrets: a rotation is in progress; end it with --finish", file)
	default:
		lines = append([]string{NewSecret()}, lines...)
	}
	return private.Replace(file, []byte(strings.Join(lines, "\n")+"\n"))
}
