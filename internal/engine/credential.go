package engine

import (
	"errors"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Errors of Unseal with a meaning of their own. After any other error the batch ends.
var (
	// ErrNoKey: this node lacks the key; another one may have it. The batch waits.
	ErrNoKey = errors.New("this node lacks the secret key of the credential")
	// ErrUnknownSeal: this build can't read the form. The batch is set aside.
	ErrUnknownSeal = errors.New("the credential has a form that this build does not know")
)

// unseal makes the batch's credential ready. A batch that starts nothing more does without,
// and one whose credential can't be read starts nothing.
func (r *run) unseal() (err error) {
	r.token, err = r.e.Unseal(r.c)
	switch {
	case err == nil:
		r.upstream = r.e.governor.Attach(batch.OwnerOf(r.token))
		r.upstream.Use(r.c.Queue, r.c.Store)
		return nil
	case r.halted:
		return nil
	case errors.Is(err, ErrNoKey), errors.Is(err, ErrUnknownSeal):
		return err
	}
	r.log.Error("the credential can't be read; nothing of the batch is sent", "error", err)
	r.halted, r.reason = true, "the credential that was stored with the batch can't be read"
	return nil
}

// keyPause is how long a batch waits for which this node lacks the key.
const keyPause = 10 * time.Second

// awaitKey gives the batch back, for a node that has its key.
func (r *run) awaitKey(err error) (*storage.Claim, next, error) {
	if n, due := r.e.keyless.count(time.Now()); due {
		r.log.Warn("a batch waits for a node that has its secret key", "error", err, "since_last_told", n)
	}
	c, n, err := r.release(time.Now().Add(keyPause))
	r.e.Storage.Offer(r.c.Queue)
	return c, n, err
}
