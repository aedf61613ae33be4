// Package private reads and replaces small files that other users must not read: keys, secrets and
// tokens.
package private

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// ErrNotRegular is wrapped by the error for a directory or anything else that isn't a regular file.
var ErrNotRegular = errors.New("is not a regular file")

// credentialsVariable names the directory where systemd puts the files of LoadCredential.
const credentialsVariable = "CREDENTIALS_DIRECTORY"

// Name returns the name of the file that a setting names. The text may begin with
// $CREDENTIALS_DIRECTORY/ for systemd's credentials, so that a settings file can refer to them. Errors
// complete a sentence that begins with the setting's name.
func Name(text string) (string, error) {
	if text == "" {
		return "", errors.New(`is "" but must be the name of a file`)
	}
	for _, prefix := range []string{"$" + credentialsVariable + "/", "${" + credentialsVariable + "}/"} {
		name, ok := strings.CutPrefix(text, prefix)
		if !ok {
			continue
		}
		dir := os.Getenv(credentialsVariable)
		if dir == "" {
			return "", fmt.Errorf("is %q but must be a name without %s, which is not set: systemd sets it for LoadCredential", text, credentialsVariable)
		}
		return filepath.Join(dir, name), nil
	}
	return text, nil
}

// Read reads at most limit bytes of a file. Except on Windows, it refuses a file that its group may
// write or that other users may access; the error says what to do. The group may read the file, because
// systemd credentials and the secrets of a pod have mode 0440. If the file doesn't exist, the error
// wraps fs.ErrNotExist.
func Read(file string, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s %w", file, ErrNotRegular)
	}
	if mode := info.Mode().Perm(); mode&0o037 != 0 && runtime.GOOS != "windows" {
		return nil, fmt.Errorf("%s is open to other users (mode %04o); only its owner may write it, and only its owner and group may read it; run: chmod 600 %s", file, mode, file)
	}
	return io.ReadAll(io.LimitReader(f, limit))
}

// ownerOnly returns an error if other users may access a file, except on Windows.
func ownerOnly(info os.FileInfo, file string) error {
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" {
		return fmt.Errorf("%s is open to other users (mode %04o); only its owner may have access; run: chmod 600 %s", file, mode, file)
	}
	return nil
}

// OpenSecret is like Open, but also refuses a file that other users may access.
func OpenSecret(file string, flag int) (*os.File, error) {
	f, err := Open(file, flag)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		err = ownerOnly(info, file)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Open opens a file for writing. It refuses a file that another user may have planted: the file must be
// a regular file that belongs to this user, and not a symbolic link. flag is as in os.OpenFile. A new
// file gets mode 0600.
func Open(file string, flag int) (*os.File, error) {
	f, err := os.OpenFile(file, flag|NoFollow, 0o600)
	if isLink(err) {
		return nil, fmt.Errorf("%s is a symbolic link, which could point anywhere: remove it", file)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%s %w", file, ErrNotRegular)
	case !isOurs(info):
		err = fmt.Errorf("%s belongs to another user: remove it, or work in your own directory", file)
	default:
		return f, nil
	}
	return nil, errors.Join(err, f.Close())
}

// Replace writes a file of mode 0600, durably and atomically. It replaces an existing file.
func Replace(file string, content []byte) error {
	return put(file, content, os.Rename)
}

// Create is like Replace, but never replaces a file. If the file exists, the error wraps fs.ErrExist.
func Create(file string, content []byte) error {
	return put(file, content, os.Link) // unlike os.Rename, it never replaces a file
}

// put writes the content durably to a temporary file, which it then links or renames to file.
func put(file string, content []byte, name func(from, to string) error) error {
	f, err := os.CreateTemp(filepath.Dir(file), ".sheaf-*") // O_EXCL, mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := name(f.Name(), file); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(file))
}

// SyncDir makes the names in a directory durable.
func SyncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil // Windows can't sync a directory, and journals names itself
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
