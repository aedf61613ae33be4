package secret

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/sheafapi/sheaf/internal/private"
)

// right says what a key file has to hold; every error about its content ends with it.
const right = "it has to be 32 bytes in base64 on one line; make one with: sheaf secret new"

// maxFile bounds what is read of a key file, in bytes. A key's line has 44 characters.
const maxFile = 4 << 10

// Read reads the key in a file, and on further lines those that it follows. It refuses a file that others than its owner may
// read (on systems that have permission bits) and one that holds no key, in words
// that name the file and say what to do. Without a file the error wraps
// fs.ErrNotExist.
func Read(file string) (Key, error) {
	text, err := private.Read(file, maxFile)
	if errors.Is(err, private.ErrNoFile) {
		err = fmt.Errorf("%w: %s", err, right)
	}
	if err != nil {
		return Key{}, err
	}
	key, err := decode(text)
	if err != nil {
		return Key{}, fmt.Errorf("%s holds no secret key (%w): %s", file, err, right)
	}
	return key, nil
}

// decode reads a key file's content. Its errors never quote it: a mistaken file may
// hold another secret.
func decode(text []byte) (Key, error) {
	text = bytes.TrimSpace(text)
	if len(text) == 0 {
		return Key{}, errors.New("it is empty")
	}
	var keys []Key
	for line := range bytes.Lines(text) {
		raw, err := base64.StdEncoding.Strict().AppendDecode(nil, bytes.TrimSpace(line))
		if err != nil {
			return Key{}, fmt.Errorf("line %d is not base64", len(keys)+1)
		}
		key, err := newKey(raw)
		if err != nil {
			return Key{}, fmt.Errorf("line %d: %w", len(keys)+1, err)
		}
		if len(keys) > 0 && keys[0].Has(key.ID()) {
			return Key{}, fmt.Errorf("line %d repeats a key", len(keys)+1)
		}
		keys = append(keys, key)
		keys[0].older = keys[1:len(keys):len(keys)]
	}
	return keys[0], nil
}

// Create makes a random key and a file of mode 0600 that holds it. When it returns
// without an error, the file is durable; whatever happens, the file is there as a
// whole or not at all. A file that is there already is left alone: the error wraps
// fs.ErrExist.
func Create(file string) (Key, error) {
	key := New()
	if err := private.Create(file, []byte(key.Encode()+"\n")); err != nil {
		return Key{}, fmt.Errorf("make the key file %s: %w", file, err)
	}
	return key, nil
}
