// Package private reads and replaces small files that are their owner's only: keys, secrets
// and tokens.
package private

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
)

// ErrNoFile is wrapped by the error about what has the file's name and is something else.
var ErrNoFile = errors.New("is no regular file")

// Read reads a file of at most so many bytes (what is longer is cut off). On systems
// with permission bits it refuses a file that its group may write or that others may use at all;
// the error says what to do. The group may read the file, because systemd's credentials and secrets
// in a pod have mode 0440. If there is no file, the error wraps fs.ErrNotExist.
func Read(file string, most int64) ([]byte, error) {
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
		return nil, fmt.Errorf("%s %w", file, ErrNoFile)
	}
	if mode := info.Mode().Perm(); mode&0o037 != 0 && runtime.GOOS != "windows" {
		return nil, fmt.Errorf("%s is open to other users (mode %04o); only its owner may write it, and only its owner and group may read it: chmod 600 %s", file, mode, file)
	}
	return io.ReadAll(io.LimitReader(f, most))
}

// ownerOnly refuses a file that other users may read or write, where files have such a mode.
func ownerOnly(info os.FileInfo, file string) error {
	if mode := info.Mode().Perm(); mode&0o077 != 0 && runtime.GOOS != "windows" {
		return fmt.Errorf("%s is open to other users (mode %04o) and may be to its owner only: chmod 600 %s", file, mode, file)
	}
	return nil
}

// OpenSecret is Open for a file that other users must not have been able to read or write.
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

// Open opens a file for writing that nobody else can have put there: a regular file of this
// user, named directly and not by a symbolic link. flag is as in os.OpenFile; a file that is
// made gets mode 0600.
func Open(file string, flag int) (*os.File, error) {
	f, err := os.OpenFile(file, flag|NoFollow, 0o600)
	if isLink(err) {
		return nil, fmt.Errorf("%s is a symbolic link, which could lead anywhere: remove it", file)
	}
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%s %w", file, ErrNoFile)
	case !isOurs(info):
		err = fmt.Errorf("%s belongs to another user: remove it, or work in a folder of your own", file)
	default:
		return f, nil
	}
	return nil, errors.Join(err, f.Close())
}

// Replace makes a file of mode 0600 with this content, in place of the one that may be there:
// durably, and as a whole or not at all.
func Replace(file string, content []byte) error {
	return put(file, content, os.Rename)
}

// Create is Replace for a file that is not there yet: it never replaces one. The error wraps
// fs.ErrExist then.
func Create(file string, content []byte) error {
	return put(file, content, os.Link) // which, unlike a rename, never replaces
}

// put makes the content durable under another name, and then gives it its own.
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
		return nil // it can't open a directory for that, and journals names itself
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
