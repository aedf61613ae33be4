package storage

import (
	"context"
	"time"
)

// WaitReason says what a queue waits for, apart from its turn and a set time.
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
	}
	return ""
}

// Wait is what a queue waits for.
type Wait struct {
	For   WaitReason
	Since time.Time // when the queue was first released for this reason; zero for NoWait
}

// Outages is how nodes share that an upstream is unavailable.
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

// Outage is a time in which an upstream is unavailable and receives only probes.
type Outage struct {
	Upstream string
	Since    time.Time
	Probes   int       // how many probes have been sent
	ProbeAt  time.Time // when the next one may be sent
}
