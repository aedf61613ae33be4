package secret

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
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
	f, err := os.Open(file)
	if err != nil {
		return Key{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return Key{}, err
	}
	if !info.Mode().IsRegular() {
		return Key{}, fmt.Errorf("%s is no regular file: %s", file, right)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" {
		return Key{}, fmt.Errorf("%s is open to other users (mode %04o) and may be to its owner only: chmod 600 %s", file, mode, file)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile))
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
	if err := publish(file, key.Encode()+"\n"); err != nil {
		return Key{}, fmt.Errorf("make the key file %s: %w", file, err)
	}
	return key, nil
}

// publish makes a file with the given content. The content is durable under another
// name first; then it gets its name by a link, which, unlike a rename, never replaces.
func publish(file, content string) error {
	dir := filepath.Dir(file)
	f, err := os.CreateTemp(dir, ".sheaf-key-*") // O_EXCL, mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Link(f.Name(), file); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes the names in a directory durable.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // it can't open a directory for that, and journals names itself
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
