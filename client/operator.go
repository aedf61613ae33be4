package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Operator is a client for operators of a service. It needs a token with the operate right. Its
// methods are safe for concurrent use.
type Operator struct{ c *Client }

// NewOperator returns a client for operators. It ignores Options.Store and does not connect to the
// server. The error says which option is invalid.
func NewOperator(o Options) (*Operator, error) {
	base, err := o.check()
	if err != nil {
		return nil, err
	}
	return &Operator{newClient(o, base.JoinPath("operator").String())}, nil
}

// Overview is the state of a service: its nodes, its stores, and details of the node that answered.
type Overview struct {
	At       time.Time `json:"at"`
	Nodes    []Node    `json:"nodes"`
	Stores   Stores    `json:"stores"`
	Database struct {
		Bytes int64 `json:"bytes"`
	} `json:"database"`
	Node NodeState `json:"node"`
}

// Node is a live node.
type Node struct {
	Name      string    `json:"name"` // empty with an embedded database, which has one node
	Self      bool      `json:"self"` // this node answered
	StartedAt time.Time `json:"startedAt"`
	RenewedAt time.Time `json:"renewedAt"` // its last heartbeat; zero with an embedded database
	Stores    int       `json:"stores"`    // the number of stores that it owns
}

// Stores describes the stores that have unfinished batches.
type Stores struct {
	WithWork           int         `json:"withWork"`
	AtWork             int         `json:"atWork"` // stores that a node owns
	UnfinishedBatches  int         `json:"unfinishedBatches"`
	QuarantinedBatches int         `json:"quarantinedBatches"` // batches that can't be run and wait for an operator
	Deepest            []StoreLoad `json:"deepest"`            // the stores with the most unfinished batches
	Slowest            []StoreLoad `json:"slowest"`            // the stores whose oldest batch has waited longest
}

// StoreLoad is a store with unfinished batches.
type StoreLoad struct {
	Store             string    `json:"store"`
	Caller            string    `json:"caller"` // the beginning of the token's SHA-256, if the queue belongs to one token
	UnfinishedBatches int       `json:"unfinishedBatches"`
	OldestCreatedAt   time.Time `json:"oldestCreatedAt"`
	AtWork            bool      `json:"atWork"`
	Paused            bool      `json:"paused"`
	WaitsUntil        time.Time `json:"waitsUntil"` // zero: no wait

	WaitingFor   WaitReason `json:"waitingFor"`   // "": nothing
	WaitingSince time.Time  `json:"waitingSince"` // zero: no wait
}

// NodeState is the state of the node that answered.
type NodeState struct {
	Version          string `json:"version"`
	StoresAtWork     int    `json:"storesAtWork"`
	StoresAtOnce     int    `json:"storesAtOnce"`     // the limit of StoresAtWork
	RequestsUnderWay int    `json:"requestsUnderWay"` // requests in flight
	Upstream         struct {
		WindowSeconds   int            `json:"windowSeconds"` // the time that the figures below cover
		Requests        int            `json:"requests"`      // the number of attempts
		Codes           map[string]int `json:"codes"`         // attempts by class: 2xx, throttled, none and so on
		MedianMs        float64        `json:"medianMs"`
		P99Ms           float64        `json:"p99Ms"`
		CredentialsHeld int            `json:"credentialsHeld"` // credentials that must wait
		HeldUntil       time.Time      `json:"heldUntil"`       // when the last of these waits ends; zero: none
		OutageSince     time.Time      `json:"outageSince"`     // when the API became unavailable; zero: it is available
		StoresParked    int            `json:"storesParked"`    // stores that wait on this node for the end of the outage
	} `json:"upstream"`
}

// Overview returns the state of the service.
func (o *Operator) Overview(ctx context.Context) (*Overview, error) {
	var out Overview
	if err := o.c.ask(ctx, &call{method: http.MethodGet}, &out); err != nil {
		return nil, err
	}
	return &out, nil
}

// Quarantined is a batch that can't be run and waits for an operator.
type Quarantined struct {
	Ticket        string    `json:"ticket"`
	Store         string    `json:"storeId"`
	GroupID       string    `json:"groupId"`
	TotalRequests int       `json:"totalRequests"`
	CreatedAt     time.Time `json:"createdAt"`
	QuarantinedAt time.Time `json:"quarantinedAt"`
	Reason        string    `json:"reason"`
}

// Quarantine lists the quarantined batches, oldest first.
func (o *Operator) Quarantine(ctx context.Context) ([]Quarantined, error) {
	var all []Quarantined
	for after := ""; ; {
		var page struct {
			Batches []Quarantined `json:"batches"`
			Next    string        `json:"next"`
		}
		query := url.Values{}
		if after != "" {
			query.Set("after", after)
		}
		if err := o.c.ask(ctx, &call{method: http.MethodGet, path: "/quarantine", query: query}, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Batches...)
		if after = page.Next; after == "" {
			return all, nil
		}
	}
}

// ReleaseQuarantined puts a quarantined batch first in its store's queue.
func (o *Operator) ReleaseQuarantined(ctx context.Context, ticket string) error {
	return o.unquarantine(ctx, "release", ticket)
}

// EndQuarantined ends a quarantined batch. Recorded results are kept.
func (o *Operator) EndQuarantined(ctx context.Context, ticket string) error {
	return o.unquarantine(ctx, "end", ticket)
}

func (o *Operator) unquarantine(ctx context.Context, what, ticket string) error {
	var changed struct{}
	return o.c.ask(ctx, &call{method: http.MethodPost, path: "/quarantine/" + what, query: url.Values{"ticket": {ticket}}}, &changed)
}
