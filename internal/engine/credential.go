package engine

import (
	"errors"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Errors that Unseal may return. After any other error the batch ends.
var (
	// ErrNoKey means that this node lacks the secret key. The batch waits, because another node may
	// have the key.
	ErrNoKey = errors.New("this node lacks the secret key of the credential")
	// ErrUnknownSeal means that this build can't read the credential's format. The batch is
	// quarantined.
	ErrUnknownSeal = errors.New("the credential has a format that this build does not know")
)

// unseal decrypts the batch's credential. If the credential can't be read, unseal halts the batch. A
// batch that is already halted doesn't need its credential.
func (r *run) unseal() (err error) {
	r.token, err = r.e.Unseal(r.c)
	switch {
	case err == nil:
		r.upstream = r.e.Governor.Attach(batch.OwnerOf(r.token))
		r.upstream.Use(r.c.Queue, r.c.Store)
		r.routes = newRouting(r.e.Governor.Routes(batch.OwnerOf(r.token), r.c.Store), len(r.requests))
		return nil
	case r.phase == halted:
		return nil
	case errors.Is(err, ErrNoKey), errors.Is(err, ErrUnknownSeal):
		return err
	}
	r.log.Error("the credential can't be read; nothing of the batch is sent", "error", err)
	r.enter(halted)
	r.reason = "the credential that was stored with the batch can't be read"
	return nil
}

// keyPause is how long a batch whose secret key this node lacks waits before it is claimed again.
const keyPause = 10 * time.Second

// awaitKey releases the batch, so that a node that has its secret key can run it.
func (r *run) awaitKey(err error) (*storage.Claim, followUp, error) {
	if n, due := r.e.keyless.Failed(time.Now()); due {
		r.log.Warn("a batch waits for a node that has its secret key", "error", err, "since_last_log", n)
	}
	c, n, err := r.release(time.Now().Add(keyPause))
	r.e.Storage.Offer(r.c.Queue)
	return c, n, err
}

// awaitCredential returns the batch to storage until its creator has sent a new credential, or until the
// given time.
func (r *run) awaitCredential(until time.Time) (*storage.Claim, followUp, error) {
	r.c.Waits = storage.ForCredential
	return r.release(until)
}
