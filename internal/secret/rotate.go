package secret

import (
	"errors"
	"fmt"
	"strings"

	"github.com/gofrs/flock"
	"github.com/sheafapi/sheaf/internal/private"
)

// Step is one step of a rotation of the secret key.
type Step string

// The steps. For a single node: Begin, restart, Finish. If several nodes share a database, all of them
// must know the new key before one seals with it: Prepare, restart all, Activate, restart all, Finish.
const (
	Begin    Step = ""         // Prepare and Activate at once
	Prepare  Step = "prepare"  // add a new key that only opens
	Activate Step = "activate" // seal with the newest key
	Finish   Step = "finish"   // remove all keys except the one that seals
)

// ErrStep is wrapped by the error that Rotate returns if the file isn't ready for the step.
var ErrStep = errors.New("this step does not come next")

// Rotate carries out one step of a rotation of the keys in a file, and returns the new keys. It
// replaces the file atomically and locks out other processes that rotate it. Finish saves the removed
// keys in a file whose name ends in ".old", which the user should delete.
func Rotate(file string, step Step) (key Key, err error) {
	lock := flock.New(file+".lock", flock.SetPermissions(0o600))
	if err := lock.Lock(); err != nil {
		return Key{}, fmt.Errorf("lock %s: %w", file, err)
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	if key, err = Read(file); err != nil {
		return Key{}, err
	}
	keys := key.all()
	one, newest := len(keys) == 1, len(keys)-1
	switch {
	case step == Begin && one:
		keys = []Key{New(), keys[0]}
	case step == Prepare && one:
		keys = append(keys, New())
	case step == Activate && len(keys) == 2:
		keys[0], keys[newest] = keys[newest], keys[0]
	case step == Finish && !one:
		if err := replace(file+".old", keys[1:]); err != nil {
			return Key{}, err
		}
		keys = keys[:1]
	case step == Begin || step == Prepare:
		return Key{}, fmt.Errorf("%w: %s has %d keys: a rotation is in progress; end it with the step %s", ErrStep, file, len(keys), Finish)
	default:
		return Key{}, fmt.Errorf("%w: %s has %d keys, but the step %s needs 2", ErrStep, file, len(keys), step)
	}
	if err := replace(file, keys); err != nil {
		return Key{}, err
	}
	keys[0].older = keys[1:]
	return keys[0], nil
}

// replace replaces the file with one that has these keys.
func replace(file string, keys []Key) error {
	var text strings.Builder
	for _, k := range keys {
		text.WriteString(k.Encode() + "\n")
	}
	return private.Replace(file, []byte(text.String()))
}
