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

// The steps. A service alone takes Begin, is restarted, and takes Finish. Where several
// share a database, each must know the new key before one of them seals with it: Prepare,
// restart all, Activate, restart all, Finish.
const (
	Begin    Step = ""         // Prepare and Activate at once
	Prepare  Step = "prepare"  // add a new key that opens
	Activate Step = "activate" // let the newest key seal
	Finish   Step = "finish"   // drop all keys but the one that seals
)

// ErrStep is wrapped by the error of a step that does not follow from what the file holds.
var ErrStep = errors.New("this step does not come next")

// Rotate takes a step of a rotation of the key in a file, and returns what the file holds
// then. The file is replaced as a whole or not at all, one process at a time. What Finish
// drops is in the file's name with ".old" appended, until it is removed by hand.
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
		return Key{}, fmt.Errorf("%w: %s holds %d keys: a rotation is under way; end it with the step %s", ErrStep, file, len(keys), Finish)
	default:
		return Key{}, fmt.Errorf("%w: %s holds %d keys, and the step %s needs 2", ErrStep, file, len(keys), step)
	}
	if err := replace(file, keys); err != nil {
		return Key{}, err
	}
	keys[0].older = keys[1:]
	return keys[0], nil
}

// replace writes a file that holds the keys in place of the one that is there.
func replace(file string, keys []Key) error {
	var text strings.Builder
	for _, k := range keys {
		text.WriteString(k.Encode() + "\n")
	}
	return private.Replace(file, []byte(text.String()))
}
