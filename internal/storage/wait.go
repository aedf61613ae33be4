package storage

import (
	"context"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
)

// WaitReason says what a queue waits for, apart from its turn and its notBefore time.
type WaitReason uint8

// The reasons.
const (
	NoWait        WaitReason = iota
	ForUpstream              // the upstream is unavailable
	ForCredential            // the upstream no longer accepts the credential
)

// String returns the word of the wire format; empty for NoWait.
func (w WaitReason) String() string {
	switch w {
	case ForUpstream:
		return "upstream"
	case ForCredential:
		return "credential"
	case NoWait:
	}
	return ""
}

// Wait is what a queue waits for.
type Wait struct {
	For   WaitReason
	Since time.Time // when the queue was first released for this reason; zero for NoWait
}

// WaitSince returns a wait; the zero value for NoWait.
func WaitSince(reason WaitReason, since time.Time) Wait {
	if reason == NoWait {
		return Wait{}
	}
	return Wait{reason, since}
}

// Outages lets nodes share outages of an upstream.
type Outages interface {
	// Outages lists the outages that haven't ended.
	Outages(ctx context.Context) ([]Outage, error)

	// PutOutage stores the beginning of an outage, with Probes 0, or its next probe, with Probes one
	// more than before. It reports whether it stored this; otherwise another node has done the same.
	// So each probe belongs to one node. A repeated call may report false although the first call
	// stored the outage.
	PutOutage(ctx context.Context, o Outage) (bool, error)

	// EndOutage removes the upstream's outage, if there is one.
	EndOutage(ctx context.Context, upstream string) error
}

// Outage is a period in which an upstream is unavailable and receives only probes.
type Outage struct {
	Upstream string
	Since    time.Time
	Probes   int       // how many probes have been sent
	ProbeAt  time.Time // when the next one may be sent
}

// Credentials lets nodes share which credentials the upstream accepts.
type Credentials interface {
	// Renew gives one batch a new credential, and with it a new owner. If the batch has ended, it only
	// gets the new owner. If its queue waits for a credential, the queue becomes runnable at once. If
	// the new owner has another batch with the same deduplication key, the batch loses its key.
	// Errors: ErrNotFound.
	Renew(ctx context.Context, r Renewal) (QueueID, error)

	// Accepted records that the upstream has accepted a credential. It undoes Expire.
	Accepted(ctx context.Context, credential batch.Owner) error

	// WasAccepted reports whether the upstream has accepted a credential. It may have forgotten this
	// after CredentialMemory.
	WasAccepted(ctx context.Context, credential batch.Owner) (bool, error)

	// Expire records that the upstream no longer accepts a credential, unless that is known already.
	Expire(ctx context.Context, credential batch.Owner) error

	// Expired lists the credentials that have expired since the given time, and when they did.
	Expired(ctx context.Context, since time.Time) (map[batch.Owner]time.Time, error)
}

// CredentialMemory is how long storage remembers that a credential was accepted or has expired.
const CredentialMemory = 7 * 24 * time.Hour

// Renewal is a new credential for a batch.
type Renewal struct {
	Key
	Credential []byte // sealed
	NewOwner   batch.Owner
	NewQueue   string // the new name of the batch's queue, unless another queue has that name; empty: it keeps its name
}
