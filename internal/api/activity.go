package api

import (
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

const (
	// span is what an activity covers, in minutes; the last one is under way.
	span = 60
	// maxActive is how many batches it is made of, at most: the newest.
	maxActive = 10_000
)

// activityFor is how long an activity is told again: it takes looking at many batches, and pages
// that are open ask for it all the time.
const activityFor = 5 * time.Second

// activities are those that were told last.
type activities struct {
	mu   sync.Mutex
	last *simplelru.LRU[storage.Key, told] // by store and owner
}

// told is an activity as it was told.
type told struct {
	at   time.Time
	body []byte
}

// maxActivities is how many are kept, each in 4 KiB.
const maxActivities = 1000

func newActivities() activities {
	last, err := simplelru.NewLRU[storage.Key, told](maxActivities, nil)
	if err != nil {
		panic(err) //nolint:forbidigo // only for a size of 0
	}
	return activities{last: last}
}

func (a *activities) get(key storage.Key) (told, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t, ok := a.last.Get(key)
	return t, ok && time.Since(t.at) < activityFor
}

func (a *activities) put(key storage.Key, t told) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last.Add(key, t)
}

// activity tells how many of the caller's requests ended in each minute of the last hour.
func (s *API) activity(c *call) error {
	key := c.key(batch.Ticket{})
	t, ok := s.activities.get(key)
	if !ok {
		var err error
		if t, err = s.newActivity(c); err != nil {
			return err
		}
		s.activities.put(key, t)
	}
	c.send(http.StatusOK, t.body)
	return nil
}

// newActivity makes it of the batches: the requests of each are taken to have ended evenly over
// the time in which it ran.
func (s *API) newActivity(c *call) (told, error) {
	now := time.Now()
	since := now.Truncate(time.Minute).Add(-(span - 1) * time.Minute)
	var completed, failed, inDoubt [span]float64
	seen := 0
	open := storage.Filter{Store: c.store, Owner: c.owner, Status: batch.InProgress, Limit: 1000}
	ended := storage.Filter{Store: c.store, Owner: c.owner, Status: batch.Completed, Limit: 1000}
	for _, f := range []storage.Filter{open, ended} {
		for {
			page, err := s.Storage.Find(c.r.Context(), f)
			if err != nil {
				return told{}, s.storageFailed(c, "activity", batch.Ticket{}, err)
			}
			recent := false
			for i := range page.Batches {
				b := &page.Batches[i]
				end := b.EndedAt
				if end.IsZero() {
					end = now
				}
				recent = recent || end.After(since)
				spread(&completed, since, b.StartedAt, end, b.Completed-b.Failed)
				spread(&failed, since, b.StartedAt, end, b.Failed)
				spread(&inDoubt, since, b.StartedAt, end, b.InDoubt)
			}
			seen += len(page.Batches)
			if f.After = page.Next; f.After == 0 || !recent || seen >= maxActive {
				break
			}
		}
	}
	body := append([]byte(nil), `{"minutes":[`...)
	for i := range span {
		if i > 0 {
			body = append(body, ',')
		}
		at := since.Add(time.Duration(i) * time.Minute).UTC().Format(batch.Moment)
		body = fmt.Appendf(body, `{"at":"%s","completed":%.1f,"failed":%.1f,"inDoubt":%.1f}`, at, completed[i], failed[i], inDoubt[i])
	}
	return told{now, fmt.Appendf(body, `],"complete":%t}`, seen < maxActive)}, nil
}

// spread adds n evenly to the minutes between two moments; nothing where none of it is seen.
func spread(minutes *[span]float64, since, from, to time.Time, n int) {
	if n <= 0 || from.IsZero() || !to.After(since) {
		return
	}
	whole := max(to.Sub(from), time.Millisecond)
	first := max(from.Sub(since), 0)
	for i := int(first / time.Minute); i < span; i++ {
		begin := max(time.Duration(i)*time.Minute, from.Sub(since))
		end := min(time.Duration(i+1)*time.Minute, from.Sub(since)+whole)
		if end <= begin {
			return
		}
		minutes[i] += float64(n) * float64(end-begin) / float64(whole)
	}
}
