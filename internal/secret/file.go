package secret

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/sheafapi/sheaf/internal/private"
)

// right says what a key file must contain. Every error about its content ends with it.
const right = "it must be 32 bytes in base64 on one line; create one with: sheaf secret new"

// maxFile is how much of a key file is read, in bytes. A key's line has 44 characters.
const maxFile = 4 << 10

// Read reads the key on the first line of a file, and the older keys on the lines that follow. It
// refuses a file that other users may access. Errors name the file and say what to do. If the file
// doesn't exist, the error wraps fs.ErrNotExist.
func Read(file string) (Key, error) {
	text, err := private.Read(file, maxFile)
	if errors.Is(err, private.ErrNotRegular) {
		err = fmt.Errorf("%w: %s", err, right)
	}
	if err != nil {
		return Key{}, err
	}
	key, err := decode(text)
	if err != nil {
		return Key{}, fmt.Errorf("%s is not a secret key file (%w): %s", file, err, right)
	}
	return key, nil
}

// decode decodes the content of a key file. Its errors never quote the content, because a wrong file
// may contain another secret.
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

// Create creates a random key and a file of mode 0600 with it, durably and atomically. If the file
// already exists, Create doesn't change it and returns an error that wraps fs.ErrExist.
func Create(file string) (Key, error) {
	key := New()
	if err := private.Create(file, []byte(key.Encode()+"\n")); err != nil {
		return Key{}, fmt.Errorf("create the key file %s: %w", file, err)
	}
	return key, nil
}
