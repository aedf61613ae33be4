package client

import (
	"context"
	"net/http"
	"time"
)

// Operator asks how a whole service does, with a key that has the right to operate. Its
// methods may be called from many goroutines.
type Operator struct{ c *Client }

// NewOperator returns a client for operators; the options' store does not matter. It makes no
// call yet.
func NewOperator(o Options) (*Operator, error) {
	base, err := o.check()
	if err != nil {
		return nil, err
	}
	return &Operator{newClient(o, base.JoinPath("operator").String())}, nil
}

// Overview is how a service does: its nodes and stores, and of the node that was asked, what
// it knows of itself.
type Overview struct {
	At       time.Time `json:"at"`
	Nodes    []Node    `json:"nodes"`
	Stores   Stores    `json:"stores"`
	Database struct {
		Bytes int64 `json:"bytes"`
	} `json:"database"`
	Node NodeState `json:"node"`
}

// Node is a node that is alive.
type Node struct {
	Name      string    `json:"name"` // empty: the one node of an embedded database
	Self      bool      `json:"self"` // the one that was asked
	StartedAt time.Time `json:"startedAt"`
	RenewedAt time.Time `json:"renewedAt"` // when it last said that it lives; zero: it need not
	Stores    int       `json:"stores"`    // that it has
}

// Stores are the stores that have unfinished batches.
type Stores struct {
	WithWork          int         `json:"withWork"`
	AtWork            int         `json:"atWork"` // that a node has
	UnfinishedBatches int         `json:"unfinishedBatches"`
	Deepest           []StoreLoad `json:"deepest"` // those with the most
	Slowest           []StoreLoad `json:"slowest"` // those whose oldest has waited longest
}

// StoreLoad is a store with unfinished batches.
type StoreLoad struct {
	Store             string    `json:"store"`
	Caller            string    `json:"caller"` // where a queue belongs to a token: the beginning of its SHA-256
	UnfinishedBatches int       `json:"unfinishedBatches"`
	OldestCreatedAt   time.Time `json:"oldestCreatedAt"`
	AtWork            bool      `json:"atWork"`
	Paused            bool      `json:"paused"`
	WaitsUntil        time.Time `json:"waitsUntil"` // zero: it does not
}

// NodeState is what a node knows of itself.
type NodeState struct {
	Version          string `json:"version"`
	StoresAtWork     int    `json:"storesAtWork"`
	StoresAtOnce     int    `json:"storesAtOnce"` // at most
	RequestsUnderWay int    `json:"requestsUnderWay"`
	Upstream         struct {
		WindowSeconds   int            `json:"windowSeconds"`
		Requests        int            `json:"requests"` // attempts within the window
		Codes           map[string]int `json:"codes"`    // by class: 2xx, throttled, none and so on
		MedianMs        float64        `json:"medianMs"`
		P99Ms           float64        `json:"p99Ms"`
		CredentialsHeld int            `json:"credentialsHeld"` // that have to wait
		HeldUntil       time.Time      `json:"heldUntil"`       // zero: none has to
	} `json:"upstream"`
}

// Overview asks how the service does.
func (o *Operator) Overview(ctx context.Context) (*Overview, error) {
	var out Overview
	if err := o.c.ask(ctx, &call{method: http.MethodGet}, &out); err != nil {
		return nil, err
	}
	return &out, nil
}
