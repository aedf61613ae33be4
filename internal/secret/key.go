// Package secret encrypts what the database keeps but must not tell: the
// credentials of batches that have not ended
// (docs/contract.md#storage-credentials-and-retention).
//
// A sealed value can be read only with the same key and the same context, so that
// whoever can write to the database but has no key can neither read a credential,
// nor change it, nor move it to another batch. What a value is sealed with is
// AES-256-GCM with a random nonce, good for 2³² values under one key.
//
// During a rotation there are several keys, a line of the key file each: the first one
// seals, and each opens what it has sealed. A sealed value names its key.
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

// Errors of Open with a meaning of their own.
var (
	// ErrUnknownKey: the value names a key that is not among these.
	ErrUnknownKey = errors.New("the key file does not hold the key")
	// ErrUnknownVersion: the value has a form that this build does not know.
	ErrUnknownVersion = errors.New("the sealed value has an unknown version")
)

// keySize is the length of a key in bytes: AES-256.
const keySize = 32

// The first byte of a sealed value says how it was sealed.
const (
	unnamed = 1 // nonce and ciphertext; written by builds that knew no rotation
	named   = 2 // the key's id, nonce and ciphertext
)

// idSize is the length of a key's id in bytes.
const idSize = 8

// MarkSize is how many bytes of a sealed value SealedBy needs.
const MarkSize = 1 + idSize

// Key is a secret key, with those that it follows. Its zero value seals and opens nothing;
// keys come from New, Read and Create. It may be used by many goroutines. However it is
// formatted or logged, only its ID shows.
type Key struct {
	aead  cipher.AEAD
	raw   [keySize]byte
	id    [idSize]byte
	older []Key // open what they have sealed
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
	key := Key{aead: aead, raw: [keySize]byte(raw)}
	h := sha256.New()
	h.Write([]byte("sheaf secret key id\x00"))
	h.Write(raw)
	key.id = [idSize]byte(h.Sum(nil))
	return key, nil
}

// Encode returns the key as a key file holds it: base64, one line, without the
// line's end, and without those that it follows. It is the secret itself.
func (k Key) Encode() string { return base64.StdEncoding.EncodeToString(k.raw[:]) }

// ID names the key without giving anything of it away: 16 hexadecimal digits.
func (k Key) ID() string { return hex.EncodeToString(k.id[:]) }

// all returns the key and those that it follows.
func (k Key) all() []Key { return append([]Key{k}, k.older...) }

// Count returns how many keys these are.
func (k Key) Count() int { return 1 + len(k.older) }

// Has reports whether the key, or one that it follows, has the id.
func (k Key) Has(id string) bool {
	return slices.ContainsFunc(k.all(), func(o Key) bool { return o.ID() == id })
}

// SealedBy returns the id of the key that has sealed a value, of which the first MarkSize
// bytes are enough; empty: the value does not say.
func SealedBy(sealed []byte) string {
	if len(sealed) < MarkSize || sealed[0] != named {
		return ""
	}
	return hex.EncodeToString(sealed[1:MarkSize])
}

// Seal encrypts plain. The context, which is not stored, says what the value is
// for; Open needs the same one.
func (k Key) Seal(plain, context []byte) []byte {
	sealed := append(make([]byte, 0, MarkSize+k.aead.Overhead()+len(plain)), named)
	return k.aead.Seal(append(sealed, k.id[:]...), nil, plain, context)
}

// Open decrypts what Seal returned. It returns an error if the value was changed or
// cut, or was sealed with another key or for another context.
func (k Key) Open(sealed, context []byte) ([]byte, error) {
	switch {
	case k.aead == nil:
		return nil, errors.New("there is no secret key")
	case len(sealed) == 0:
		return nil, errors.New("the sealed value is empty")
	case sealed[0] != unnamed && sealed[0] != named:
		return nil, fmt.Errorf("%w: %d; this build knows versions %d and %d only", ErrUnknownVersion, sealed[0], unnamed, named)
	}
	body, id := sealed[1:], SealedBy(sealed)
	if id != "" {
		body = sealed[MarkSize:]
		if !k.Has(id) {
			return nil, fmt.Errorf("%w that the value was sealed with: %s", ErrUnknownKey, id)
		}
	}
	for _, key := range k.all() {
		if id != "" && id != key.ID() {
			continue
		}
		if plain, err := key.aead.Open(nil, nil, body, context); err == nil {
			return plain, nil
		}
	}
	return nil, errors.New("the sealed value is damaged, or was sealed with another key or for another purpose")
}

// String returns words that name the key and do not hold it.
func (k Key) String() string { return "secret key " + k.ID() }

// Format writes String for every verb: %d and %#v would print the fields.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// LogValue returns String for log/slog.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }
