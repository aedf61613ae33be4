package client

import (
	"context"
	"net/http"
	"net/url"
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
	WithWork           int         `json:"withWork"`
	AtWork             int         `json:"atWork"` // that a node has
	UnfinishedBatches  int         `json:"unfinishedBatches"`
	QuarantinedBatches int         `json:"quarantinedBatches"` // that were set aside and wait for an operator
	Deepest            []StoreLoad `json:"deepest"`            // those with the most
	Slowest            []StoreLoad `json:"slowest"`            // those whose oldest has waited longest
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

// Quarantined is a batch that was set aside because it can't be run.
type Quarantined struct {
	Ticket        string    `json:"ticket"`
	Store         string    `json:"storeId"`
	GroupID       string    `json:"groupId"`
	TotalRequests int       `json:"totalRequests"`
	CreatedAt     time.Time `json:"createdAt"`
	QuarantinedAt time.Time `json:"quarantinedAt"`
	Reason        string    `json:"reason"`
}

// Quarantine lists the batches that were set aside, oldest first.
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

// ReleaseQuarantined lets a batch that was set aside run again.
func (o *Operator) ReleaseQuarantined(ctx context.Context, ticket string) error {
	return o.unquarantine(ctx, "release", ticket)
}

// EndQuarantined ends a batch that was set aside. What was recorded of it stays.
func (o *Operator) EndQuarantined(ctx context.Context, ticket string) error {
	return o.unquarantine(ctx, "end", ticket)
}

func (o *Operator) unquarantine(ctx context.Context, what, ticket string) error {
	var changed struct{}
	return o.c.ask(ctx, &call{method: http.MethodPost, path: "/quarantine/" + what, query: url.Values{"ticket": {ticket}}}, &changed)
}
