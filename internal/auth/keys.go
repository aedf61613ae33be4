package auth

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gofrs/flock"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/private"
	"github.com/sheafapi/sheaf/internal/secret"
)

// keyPrefix begins every key, so that a leaked key can be recognized.
const keyPrefix = "sheaf_"

// Issued is a key that the operator has issued, as it is stored in the file. The file holds a hash
// of the key, not the key itself. A key is 256 random bits, so a plain SHA-256 can't be reversed; a
// slow hash would only slow down every call.
type Issued struct {
	ID         string     `json:"id"`         // for display: the beginning of the hash
	Name       string     `json:"name"`       // what the key is for
	Hash       string     `json:"hash"`       // SHA-256 of the key, in hexadecimal digits
	Stores     []string   `json:"stores"`     // where the key is valid; "*": everywhere
	Rights     []string   `json:"rights"`     // what the key allows
	Credential []byte     `json:"credential"` // what the upstream gets in the key's place, sealed with the secret key
	Created    time.Time  `json:"created"`
	Expires    *time.Time `json:"expires,omitempty"` // nil: never
}

// Grant is what a new key allows.
type Grant struct {
	Name       string
	Stores     []string // may be EveryStore
	Rights     []string
	Credential string     // what the upstream gets in the key's place
	Expires    *time.Time // nil: never
}

// Issue creates a key for a grant. It returns the key, which is stored nowhere, and the key's entry
// for the file. The credential is sealed for this key alone.
func Issue(seal secret.Key, grant Grant) (key string, entry Issued) {
	var raw [32]byte
	rand.Read(raw[:]) // crypto/rand.Read never returns an error
	key = keyPrefix + base64.RawURLEncoding.EncodeToString(raw[:])
	hash := hashOf(key)
	return key, Issued{
		ID: hash[:8], Name: grant.Name, Hash: hash, Stores: grant.Stores, Rights: grant.Rights,
		Credential: seal.Seal([]byte(grant.Credential), sealedFor(hash)),
		Created:    time.Now().UTC().Truncate(time.Second), Expires: grant.Expires,
	}
}

func hashOf(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

func sealedFor(hash string) []byte { return []byte("sheaf issued key\x00" + hash) }

// check returns an error if an entry is invalid.
func (k *Issued) check() error {
	switch raw, err := hex.DecodeString(k.Hash); {
	case err != nil || len(raw) != sha256.Size:
		return errors.New("hash is not a SHA-256 in hexadecimal digits")
	case k.Name == "":
		return errors.New("name is empty")
	case len(k.Stores) == 0:
		return errors.New("stores is empty; \"*\" stands for all")
	case len(k.Rights) == 0:
		return errors.New("rights is empty")
	}
	for _, s := range k.Stores {
		if s != EveryStore && !batch.ValidStoreID(s) {
			return fmt.Errorf("stores names %q, which is not a store id", s)
		}
	}
	for _, r := range k.Rights {
		if !slices.Contains(Rights, r) {
			return fmt.Errorf("rights names %q; known rights are %s", r, strings.Join(Rights, ", "))
		}
	}
	return nil
}

// keyFile is the JSON of a file of keys.
type keyFile struct {
	Keys []Issued `json:"keys"`
}

// maxKeyFile is the maximum size of the file, in bytes.
const maxKeyFile = 16 << 20

// ReadIssued reads a file of keys. It refuses a file that other users can access (see
// private.Read). An error says where the problem is.
func ReadIssued(file string) ([]Issued, error) {
	text, err := private.Read(file, maxKeyFile)
	if err != nil {
		return nil, err
	}
	keys, err := parseKeys(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return keys, nil
}

func parseKeys(text []byte) ([]Issued, error) {
	var out keyFile
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&out); err != nil {
		at := d.InputOffset()
		if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
			at = syntax.Offset
		}
		line := 1 + bytes.Count(text[:min(at, int64(len(text)))], []byte("\n"))
		return nil, fmt.Errorf("at or after line %d: %w", line, err)
	}
	if d.More() {
		return nil, errors.New("there is more text after the object")
	}
	names := map[string]bool{}
	for i := range out.Keys {
		k := &out.Keys[i]
		if err := k.check(); err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
		if names[k.Name] {
			return nil, fmt.Errorf("keys[%d]: name %q is already in use", i, k.Name)
		}
		names[k.Name] = true
	}
	return out.Keys, nil
}

// ChangeIssued replaces the keys in a file with those that change returns. It replaces the whole
// file or nothing. Meanwhile, a lock keeps other processes from changing the file. A missing file
// counts as one without keys.
func ChangeIssued(file string, change func([]Issued) ([]Issued, error)) (err error) {
	lock := flock.New(file+".lock", flock.SetPermissions(0o600))
	if err := lock.Lock(); err != nil {
		return fmt.Errorf("lock %s: %w", file, err)
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	keys, err := ReadIssued(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if keys, err = change(keys); err != nil {
		return err
	}
	text, err := json.MarshalIndent(keyFile{keys}, "", "  ")
	if err != nil {
		return err
	}
	return private.Replace(file, append(text, '\n'))
}

// Reseal encrypts the credentials in a file of keys again, with the current secret key. It returns
// the number of keys.
func Reseal(file string, key secret.Key) (n int, err error) {
	err = ChangeIssued(file, func(keys []Issued) ([]Issued, error) {
		for i := range keys {
			credential, err := key.Open(keys[i].Credential, sealedFor(keys[i].Hash))
			if err != nil {
				return nil, fmt.Errorf("%s: the credential of %q: %w", file, keys[i].Name, err)
			}
			keys[i].Credential = key.Seal(credential, sealedFor(keys[i].Hash))
		}
		n = len(keys)
		return keys, nil
	})
	return n, err
}

// keys judges tokens against a file of issued keys. It is safe for concurrent use.
type keys struct {
	file    string
	seal    secret.Key
	guesses *guesses
	current atomic.Pointer[map[string]*openKey] // by hash
}

// openKey is an issued key with its credential.
type openKey struct {
	Issued
	credential string
}

// openKeys reads a file of issued keys, and decrypts their credentials with the secret key.
func openKeys(file string, seal secret.Key) (*keys, error) {
	k := &keys{file: file, seal: seal, guesses: newGuesses()}
	return k, k.reload()
}

// reload reads the file again. If it can't be used, the old keys stay in effect.
func (k *keys) reload() error {
	issued, err := ReadIssued(k.file)
	if err != nil {
		return fmt.Errorf("issued keys: %w", err)
	}
	keys := make(map[string]*openKey, len(issued))
	for i := range issued {
		credential, err := k.seal.Open(issued[i].Credential, sealedFor(issued[i].Hash))
		if err != nil {
			return fmt.Errorf("issued keys: %s: the credential of %q: %w", k.file, issued[i].Name, err)
		}
		keys[issued[i].Hash] = &openKey{issued[i], string(credential)}
	}
	k.current.Store(&keys)
	return nil
}

// judge returns the issued key that matches a token, if the key has the right at the store. The
// store may be EveryStore. Unknown keys count as guesses by the address. Errors: *Refusal.
func (k *keys) judge(from netip.Addr, store, token, right string) (*openKey, error) {
	key, err := k.find(store, token, right)
	return key, k.guesses.limit(from, err)
}

// find looks a key up by its hash, so that the time it takes reveals nothing about other keys.
func (k *keys) find(store, token, right string) (*openKey, error) {
	found := (*k.current.Load())[hashOf(token)]
	switch {
	case found == nil:
		return nil, &Refusal{Status: http.StatusUnauthorized, Reason: "This key is unknown or was revoked.", guess: true}
	case found.Expires != nil && !time.Now().Before(*found.Expires):
		return nil, &Refusal{Status: http.StatusUnauthorized, Reason: "This key has expired."}
	case store == EveryStore && !slices.Contains(found.Stores, EveryStore):
		return nil, &Refusal{Status: http.StatusForbidden, Reason: "This key is not for all stores. Operators need a key for all stores (--store '*')."}
	case !slices.Contains(found.Stores, store) && !slices.Contains(found.Stores, EveryStore):
		return nil, &Refusal{Status: http.StatusForbidden, Reason: "This key may not be used at this store."}
	case !slices.Contains(found.Rights, right):
		return nil, &Refusal{Status: http.StatusForbidden, Reason: "This key does not have the right to " + right + "."}
	}
	return found, nil
}
