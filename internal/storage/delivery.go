package storage

import (
	"cmp"
	"context"
	"math"
	"strings"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
)

// Callbacks is how nodes call back when batches end.
type Callbacks interface {
	// DueDeliveries takes pending deliveries that are due. It counts an attempt for each and
	// postpones it by the lease, so that another node tries again if no outcome is stored. It
	// returns at most one delivery for each store and for each host, so a long lane doesn't hold up
	// the others. It looks at a limited number of lanes and returns the After of the next call; the
	// zero lane means to start over.
	DueDeliveries(ctx context.Context, q DueQuery) (due []Delivery, next Lane, err error)

	// PutDelivery stores the state, next time, code and problem of a delivery after the attempt
	// with that number. It changes nothing if a later attempt has begun or Redeliver was called
	// since. With Spared, it takes the attempt back and stores only the state and the next time.
	PutDelivery(ctx context.Context, d *Delivery) error

	// Deliveries lists deliveries.
	Deliveries(ctx context.Context, s DeliverySearch) ([]Delivery, error)

	// Redeliver makes the delivery for a creator's batch pending again, due now and without any
	// attempts. Errors: ErrNotFound.
	Redeliver(ctx context.Context, key Key) error
}

// DeliveryLimit is longer than any pause between two attempts of a delivery.
const DeliveryLimit = 12 * time.Hour

// DeliveryState is the progress of a delivery.
type DeliveryState uint8

// The states of a delivery.
const (
	Pending   DeliveryState = iota + 1 // to be tried at NextAt
	Delivered                          // the receiver has accepted it
	GivenUp                            // there are no more attempts
)

// Delivery reports a batch's end to its callback. It is created in the transaction that ends the
// batch, and removed with the batch.
type Delivery struct {
	ID        int64
	Ticket    batch.Ticket
	Store     string
	GroupID   string
	URL       string
	Host      string // the URL's, with its port, in lower case
	State     DeliveryState
	Attempts  int // including one that has only begun
	NextAt    time.Time
	CreatedAt time.Time // when the batch ended
	Code      int       // of the last answer; 0: there was none
	Problem   string    // why the last attempt failed; empty: it didn't
	Spared    bool      // for PutDelivery: the attempt wasn't made and doesn't count

	Total, Completed, Failed, InDoubt int // of the batch's requests
}

// Lane is the deliveries of one store to one host. In DueQuery.Busy, an empty store or host matches
// every one.
type Lane struct{ Store, Host string }

// Covers reports whether l matches a lane.
func (l Lane) Covers(lane Lane) bool {
	return (l.Store == "" || l.Store == lane.Store) && (l.Host == "" || l.Host == lane.Host)
}

// Compare orders lanes by store and host.
func (l Lane) Compare(m Lane) int {
	return cmp.Or(strings.Compare(l.Store, m.Store), strings.Compare(l.Host, m.Host))
}

// DueQuery selects deliveries that are due.
type DueQuery struct {
	Limit int
	Lease time.Duration // how long other calls leave them out
	After Lane          // lanes after this one, in the database's order of lanes
	Busy  []Lane        // lanes to leave out
}

// DeliverySearch selects deliveries of one creator, newest first.
type DeliverySearch struct {
	Store  string
	Owner  batch.Owner
	Ticket batch.Ticket // zero: of all batches
	After  int64        // only those after the one with this ID; 0: from the newest
	Limit  int
	Offset int
}

// Before returns an ID that is larger than those of all deliveries on the page.
func (s *DeliverySearch) Before() int64 {
	if s.After == 0 {
		return math.MaxInt64
	}
	return s.After
}
