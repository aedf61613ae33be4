// Package secret encrypts what the database keeps but must not tell: the
// credentials of batches that have not ended (wire contract, "What stands behind
// it").
//
// A sealed value can be read only with the same key and the same context, so that
// whoever can write to the database but has no key can neither read a credential,
// nor change it, nor move it to another batch. What a value is sealed with is
// AES-256-GCM with a random nonce, good for 2³² values under one key.
package secret

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
)

// keySize is the length of a key in bytes: AES-256.
const keySize = 32

// version is the first byte of a sealed value, so that another way of sealing can
// be told from this one.
const version = 1

// Key is a secret key. Its zero value seals and opens nothing; keys come from New,
// Read and Create. It may be used by many goroutines. However it is formatted or
// logged, only its ID shows.
type Key struct {
	aead cipher.AEAD
	raw  [keySize]byte
}

// New makes a random key.
func New() Key {
	var raw [keySize]byte
	rand.Read(raw[:]) // never fails: crypto/rand
	key, err := newKey(raw[:])
	if err != nil {
		panic(err) //nolint:forbidigo // can't be: AES takes every key of this length
	}
	return key
}

// newKey returns the key that consists of the given bytes.
func newKey(raw []byte) (Key, error) {
	if len(raw) != keySize {
		return Key{}, fmt.Errorf("the key has %d bytes, not %d", len(raw), keySize)
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return Key{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return Key{}, err
	}
	return Key{aead: aead, raw: [keySize]byte(raw)}, nil
}

// Encode returns the key as a key file holds it: base64, one line, without the
// line's end. It is the secret itself.
func (k Key) Encode() string { return base64.StdEncoding.EncodeToString(k.raw[:]) }

// ID names the key without giving anything of it away: 16 hexadecimal digits.
func (k Key) ID() string {
	h := sha256.New()
	h.Write([]byte("sheaf secret key id\x00"))
	h.Write(k.raw[:])
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// Seal encrypts plain. The context, which is not stored, says what the value is
// for; Open needs the same one.
func (k Key) Seal(plain, context []byte) []byte {
	sealed := slices.Grow([]byte{version}, k.aead.Overhead()+len(plain))
	return k.aead.Seal(sealed, nil, plain, context)
}

// Open decrypts what Seal returned. It returns an error if the value was changed or
// cut, or was sealed with another key or for another context.
func (k Key) Open(sealed, context []byte) ([]byte, error) {
	switch {
	case k.aead == nil:
		return nil, errors.New("there is no secret key")
	case len(sealed) == 0:
		return nil, errors.New("the sealed value is empty")
	case sealed[0] != version:
		return nil, fmt.Errorf("the sealed value has version %d; this build knows version %d only", sealed[0], version)
	}
	plain, err := k.aead.Open(nil, nil, sealed[1:], context)
	if err != nil {
		return nil, errors.New("the sealed value is damaged, or was sealed with another key or for another purpose")
	}
	return plain, nil
}

// String returns words that name the key and do not hold it.
func (k Key) String() string { return "secret key " + k.ID() }

// Format writes String for every verb: %d and %#v would print the fields.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// LogValue returns String for log/slog.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }
