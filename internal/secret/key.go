// Package secret encrypts the credentials of unfinished batches in the database
// (docs/contract.md#storage-credentials-and-retention).
//
// A sealed value can only be opened with the same key and the same context. So somebody who can write
// to the database but doesn't have the key can't read a credential, change it, or move it to another
// batch. Values are sealed with AES-256-GCM and a random nonce, which is safe for 2³² values per key.
//
// During a rotation there are several keys, each on its own line of the key file. The first one seals.
// Each key opens the values that it has sealed. A sealed value contains the ID of its key.
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

// Errors that callers of Open can check for.
var (
	// ErrUnknownKey means that the value was sealed with a key that isn't in the key file.
	ErrUnknownKey = errors.New("the key file does not have the key")
	// ErrUnknownVersion means that the value has a format that this build doesn't support.
	ErrUnknownVersion = errors.New("the sealed value has an unknown version")
)

// keySize is the length of a key in bytes: AES-256.
const keySize = 32

// The first byte of a sealed value is its version.
const (
	unnamed = 1 // nonce and ciphertext; written by builds without key rotation
	named   = 2 // key ID, nonce and ciphertext
)

// idSize is the length of a key's ID in bytes.
const idSize = 8

// MarkSize is how many bytes at the beginning of a sealed value SealedBy needs.
const MarkSize = 1 + idSize

// Key is a secret key with the older keys that it replaces. Use New, Read or Create to get one: the
// zero value can't seal or open anything. It is safe for concurrent use. If a Key is formatted or
// logged, only its ID appears.
type Key struct {
	aead  cipher.AEAD
	raw   [keySize]byte
	id    [idSize]byte
	older []Key // only open values
}

// New returns a random key.
func New() Key {
	var raw [keySize]byte
	rand.Read(raw[:]) // never fails
	key, err := newKey(raw[:])
	if err != nil {
		panic(err) //nolint:forbidigo // can't happen: AES accepts every key of this length
	}
	return key
}

// newKey returns the key with the given bytes.
func newKey(raw []byte) (Key, error) {
	if len(raw) != keySize {
		return Key{}, fmt.Errorf("the key has %d bytes instead of %d", len(raw), keySize)
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

// Encode returns the key itself, without older keys, in base64 as on a line of a key file. The result
// is secret.
func (k Key) Encode() string { return base64.StdEncoding.EncodeToString(k.raw[:]) }

// ID returns the key's ID, 16 hexadecimal digits that don't reveal the key.
func (k Key) ID() string { return hex.EncodeToString(k.id[:]) }

// all returns the key and the older keys.
func (k Key) all() []Key { return append([]Key{k}, k.older...) }

// Count returns the number of keys, including older ones.
func (k Key) Count() int { return 1 + len(k.older) }

// Has reports whether the key or an older one has the ID.
func (k Key) Has(id string) bool {
	return slices.ContainsFunc(k.all(), func(o Key) bool { return o.ID() == id })
}

// SealedBy returns the ID of the key that sealed a value; "": unknown. The first MarkSize bytes of the
// value are enough.
func SealedBy(sealed []byte) string {
	if len(sealed) < MarkSize || sealed[0] != named {
		return ""
	}
	return hex.EncodeToString(sealed[1:MarkSize])
}

// Seal encrypts plain. The context says what the value is for. It isn't stored, and Open needs the same
// context.
func (k Key) Seal(plain, context []byte) []byte {
	sealed := append(make([]byte, 0, MarkSize+k.aead.Overhead()+len(plain)), named)
	return k.aead.Seal(append(sealed, k.id[:]...), nil, plain, context)
}

// Open decrypts a value that Seal returned. It returns an error if the value was changed or truncated,
// or if it was sealed with another key or for another context.
func (k Key) Open(sealed, context []byte) ([]byte, error) {
	switch {
	case k.aead == nil:
		return nil, errors.New("there is no secret key")
	case len(sealed) == 0:
		return nil, errors.New("the sealed value is empty")
	case sealed[0] != unnamed && sealed[0] != named:
		return nil, fmt.Errorf("%w: %d; this build supports only versions %d and %d", ErrUnknownVersion, sealed[0], unnamed, named)
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

// String returns the key's ID in words.
func (k Key) String() string { return "secret key " + k.ID() }

// Format writes String for every verb, because %d and %#v would print the key.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) }

// LogValue returns String for log/slog.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }
