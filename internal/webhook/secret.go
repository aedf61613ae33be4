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
	secretSize   = 32      // bytes of one that is made here
	leastSecret  = 24      // bytes of any (Standard Webhooks, "Signature scheme")
	maxFile      = 4 << 10 // bytes of a file of secrets
	mostSecrets  = 2       // one, and the one before while receivers change over
)

// NewSecret makes a secret, in the form in which receivers' libraries take it.
func NewSecret() string {
	var raw [secretSize]byte
	rand.Read(raw[:]) // never fails: crypto/rand
	return secretPrefix + base64.StdEncoding.EncodeToString(raw[:])
}

// Signer signs deliveries (Standard Webhooks). It may be used by many goroutines.
type Signer struct {
	file    string
	secrets atomic.Pointer[[]string]
}

// ReadSecrets reads a file of one or two secrets, a line each: each signs, so that a
// receiver may know either of them. The file may be its owner's only. Errors never quote it.
func ReadSecrets(file string) (*Signer, error) {
	s := &Signer{file: file}
	return s, s.Reload()
}

// Reload reads the file again. If it can't be used, the secrets stay as they were.
func (s *Signer) Reload() error {
	lines, err := readLines(s.file)
	if err != nil {
		return err
	}
	s.secrets.Store(&lines)
	return nil
}

// StoreSecrets returns the secrets that sign what is sent for a store, newest first.
func (s *Signer) StoreSecrets(store string) (out []string) {
	for _, secret := range *s.secrets.Load() {
		out = append(out, storeSecret(secret, store))
	}
	return out
}

// storeSecret derives the secret of a store, so that a caller who knows the secret of one
// store can't sign for another one. The empty store is the operator, whose secret it is.
func storeSecret(secret, store string) string {
	if store == "" {
		return secret
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, secretPrefix))
	if err == nil {
		raw, err = hkdf.Key(sha256.New, raw, nil, "sheaf webhook secret of store "+store, secretSize)
	}
	if err != nil {
		panic(err) //nolint:forbidigo // it can't happen: readLines has decoded it, and the length is constant
	}
	return secretPrefix + base64.StdEncoding.EncodeToString(raw)
}

var errForm = errors.New("each line has to be whsec_ and at least 24 bytes in base64, one or two lines; make one with: sheaf webhooks new-secret")

func readLines(file string) ([]string, error) {
	text, err := private.Read(file, maxFile)
	if err != nil {
		return nil, err
	}
	lines := strings.Fields(string(text))
	for _, line := range lines {
		encoded, ok := strings.CutPrefix(line, secretPrefix)
		raw, err := base64.StdEncoding.DecodeString(encoded)
		if !ok || err != nil || len(raw) < leastSecret {
			return nil, fmt.Errorf("%s holds no webhook secret: %w", file, errForm)
		}
	}
	if len(lines) == 0 || len(lines) > mostSecrets {
		return nil, fmt.Errorf("%s holds %d webhook secrets: %w", file, len(lines), errForm)
	}
	return lines, nil
}

// CreateSecret makes a file of mode 0600 with a new secret. It never replaces one.
func CreateSecret(file string) error {
	return private.Create(file, []byte(NewSecret()+"\n"))
}

// RotateSecret puts a new secret before the one in a file, so that both sign; or with
// finish drops the older one. The file is replaced as a whole or not at all.
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
		return fmt.Errorf("%s holds one secret: there is no older one to drop", file)
	case finish:
		lines = lines[:1]
	case len(lines) == mostSecrets:
		return fmt.Errorf("%s holds two secrets: a rotation is under way; end it with --finish", file)
	default:
		lines = append([]string{NewSecret()}, lines...)
	}
	return private.Replace(file, []byte(strings.Join(lines, "\n")+"\n"))
}
