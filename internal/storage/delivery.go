package storage

import (
	"cmp"
	"context"
	"math"
	"strings"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
)

// Callbacks is how the ends of batches are delivered to their callbacks.
type Callbacks interface {
	// DueDeliveries takes pending deliveries whose moment has come. Each counts one attempt
	// more, and its moment becomes lease later, so that another node tries again if no outcome
	// is stored. No two of one call are of the same store or to the same host, so a long lane
	// does not hold up the others. The call looks at a limited number of lanes and returns the
	// After of the next call; the zero lane: from the beginning.
	DueDeliveries(ctx context.Context, q DueQuery) (due []Delivery, next Lane, err error)

	// PutDelivery stores the state, next moment, code and problem of a delivery after the
	// attempt with that number. It changes nothing if a later attempt has begun or the delivery
	// was sent again meanwhile. With Spared it takes the attempt back and stores only the
	// state and the next moment.
	PutDelivery(ctx context.Context, d *Delivery) error

	// Deliveries lists deliveries.
	Deliveries(ctx context.Context, s DeliverySearch) ([]Delivery, error)

	// Redeliver makes the delivery of a creator's batch pending again, due now and as if it had
	// never been tried. Errors: ErrNotFound.
	Redeliver(ctx context.Context, key Key) error
}

// DeliveryLimit is longer than any pause between two attempts of a delivery.
const DeliveryLimit = 12 * time.Hour

// DeliveryState is how far a delivery has come.
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
	Attempts  int // that were made, or begun
	NextAt    time.Time
	CreatedAt time.Time // when the batch ended
	Code      int       // of the last answer; 0: there was none
	Problem   string    // why the last attempt failed; empty: it did not
	Spared    bool      // for PutDelivery: the attempt was not made and does not count

	Total, Completed, Failed, InDoubt int // of the batch's requests
}

// Lane is the deliveries of one store to one host. In DueQuery.Busy an empty store or host
// stands for all.
type Lane struct{ Store, Host string }

// Covers reports whether l stands for a lane.
func (l Lane) Covers(lane Lane) bool {
	return (l.Store == "" || l.Store == lane.Store) && (l.Host == "" || l.Host == lane.Host)
}

// Compare orders lanes by store and host.
func (l Lane) Compare(m Lane) int {
	return cmp.Or(strings.Compare(l.Store, m.Store), strings.Compare(l.Host, m.Host))
}

// DueQuery selects deliveries whose moment has come.
type DueQuery struct {
	Limit int
	Lease time.Duration // how long no other call takes them
	After Lane          // lanes after this one, in the database's order of lanes
	Busy  []Lane        // lanes to leave out
}

// DeliverySearch selects deliveries of one creator, newest first.
type DeliverySearch struct {
	Store  string
	Owner  batch.Owner
	Ticket batch.Ticket // zero: of all batches
	After  int64        // only those behind the one with this ID; 0: from the newest
	Limit  int
	Offset int
}

// Before returns the ID that all deliveries of the page are below.
func (s *DeliverySearch) Before() int64 {
	if s.After == 0 {
		return math.MaxInt64
	}
	return s.After
}
