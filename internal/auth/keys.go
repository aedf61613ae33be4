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
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gofrs/flock"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/private"
	"github.com/sheafapi/sheaf/internal/secret"
)

// The rights of a key.
const (
	Create = "create" // batches
	Read   = "read"   // status and search
	Cancel = "cancel" // stop and delete

	// Operate is to see how the whole service does, all stores together.
	Operate = "operate"
)

// Rights are all of them; CallerRights are those that have to do with batches.
var (
	Rights       = []string{Create, Read, Cancel, Operate}
	CallerRights = []string{Create, Read, Cancel}
)

// EveryStore stands for all stores in a key's list. No store is called so.
const EveryStore = "*"

// keyPrefix begins every key, so that one that leaks is recognized for what it is.
const keyPrefix = "sheaf_"

// Issued is a key that the operator has issued, as the file has it: not the key itself
// but its hash. A key is 256 random bits, so that a plain SHA-256 can't be guessed back;
// a slow hash would only slow down every call.
type Issued struct {
	ID         string     `json:"id"`         // for people: the beginning of the hash
	Name       string     `json:"name"`       // what it is for
	Hash       string     `json:"hash"`       // SHA-256 of the key, in hexadecimal digits
	Stores     []string   `json:"stores"`     // where it may be used; "*": everywhere
	Rights     []string   `json:"rights"`     // what may be done with it
	Credential []byte     `json:"credential"` // what the upstream gets in its place, sealed with the secret key
	Created    time.Time  `json:"created"`
	Expires    *time.Time `json:"expires,omitempty"` // nil: never
}

// Issue makes a key. It returns the key itself, which is nowhere else, and what goes
// into the file. The credential is sealed for this key alone.
func Issue(seal secret.Key, name string, stores, rights []string, credential string, now time.Time, expires *time.Time) (key string, issued Issued) {
	var raw [32]byte
	rand.Read(raw[:]) // never fails: crypto/rand
	key = keyPrefix + base64.RawURLEncoding.EncodeToString(raw[:])
	hash := hashOf(key)
	return key, Issued{
		ID: hash[:8], Name: name, Hash: hash, Stores: stores, Rights: rights,
		Credential: seal.Seal([]byte(credential), sealedFor(hash)),
		Created:    now.UTC().Truncate(time.Second), Expires: expires,
	}
}

func hashOf(key string) string {
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:])
}

func sealedFor(hash string) []byte { return []byte("sheaf issued key\x00" + hash) }

// check returns what is wrong with an entry.
func (k *Issued) check() error {
	switch raw, err := hex.DecodeString(k.Hash); {
	case err != nil || len(raw) != sha256.Size:
		return errors.New("hash is no SHA-256 in hexadecimal digits")
	case k.Name == "":
		return errors.New("name is empty")
	case len(k.Stores) == 0:
		return errors.New("stores is empty; \"*\" stands for all")
	case len(k.Rights) == 0:
		return errors.New("rights is empty")
	}
	for _, s := range k.Stores {
		if s != EveryStore && !batch.ValidStoreID(s) {
			return fmt.Errorf("stores names %q, which is no store id", s)
		}
	}
	for _, r := range k.Rights {
		if !slices.Contains(Rights, r) {
			return fmt.Errorf("rights names %q; there are %s", r, strings.Join(Rights, ", "))
		}
	}
	return nil
}

// keyFile is the file's form.
type keyFile struct {
	Keys []Issued `json:"keys"`
}

// maxKeyFile bounds what is read of the file, in bytes.
const maxKeyFile = 16 << 20

// ReadIssued reads the keys in a file, which may be its owner's only. An error names the
// place.
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
		return nil, fmt.Errorf("line %d or soon after: %w", line, err)
	}
	if d.More() {
		return nil, errors.New("there is more after the object")
	}
	names := map[string]bool{}
	for i := range out.Keys {
		k := &out.Keys[i]
		if err := k.check(); err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
		if names[k.Name] {
			return nil, fmt.Errorf("keys[%d]: name %q is another key's already", i, k.Name)
		}
		names[k.Name] = true
	}
	return out.Keys, nil
}

// ChangeIssued reads a file of keys, has change make another list of them, and writes that: as a whole or
// not at all, one at a time over all processes. A file that is not there yet has none.
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

// Reseal seals the credentials in a file of keys anew, with the key that seals now.
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

// Keys judges tokens by a file of issued keys. It may be used by many goroutines.
type Keys struct {
	file    string
	seal    secret.Key
	current atomic.Pointer[map[string]*opened] // by hash
}

// opened is a key with its credential.
type opened struct {
	Issued
	credential string
}

// OpenKeys reads a file of issued keys, whose credentials the secret key opens.
func OpenKeys(file string, seal secret.Key) (*Keys, error) {
	k := &Keys{file: file, seal: seal}
	return k, k.Reload()
}

// Reload reads the file again. If it can't be used, the keys stay as they were.
func (k *Keys) Reload() error {
	issued, err := ReadIssued(k.file)
	if err != nil {
		return fmt.Errorf("issued keys: %w", err)
	}
	keys := make(map[string]*opened, len(issued))
	for i := range issued {
		credential, err := k.seal.Open(issued[i].Credential, sealedFor(issued[i].Hash))
		if err != nil {
			return fmt.Errorf("issued keys: %s: the credential of %q: %w", k.file, issued[i].Name, err)
		}
		keys[issued[i].Hash] = &opened{issued[i], string(credential)}
	}
	k.current.Store(&keys)
	return nil
}

// Judge returns what goes to the upstream in a key's place, if the key may be used at the store, or at EveryStore, for what the right says. A key is found by its hash, so that
// the time that takes tells nothing about others. Errors: *Refusal.
func (k *Keys) Judge(store, key, right string) (in LetIn, err error) {
	found := (*k.current.Load())[hashOf(key)]
	switch {
	case found == nil:
		return in, &Refusal{Status: http.StatusUnauthorized, Reason: "This key is unknown or was revoked.", guess: true}
	case found.Expires != nil && !time.Now().Before(*found.Expires):
		return in, &Refusal{Status: http.StatusUnauthorized, Reason: "This key has expired."}
	case store == EveryStore && !slices.Contains(found.Stores, EveryStore):
		return in, &Refusal{Status: http.StatusForbidden, Reason: "This key is not for all stores (--store '*'), as an operator's has to be."}
	case !slices.Contains(found.Stores, store) && !slices.Contains(found.Stores, EveryStore):
		return in, &Refusal{Status: http.StatusForbidden, Reason: "This key may not be used at this store."}
	case !slices.Contains(found.Rights, right):
		return in, &Refusal{Status: http.StatusForbidden, Reason: "This key does not have the right to " + right + "."}
	}
	return LetIn{found.credential, found.Name}, nil
}
