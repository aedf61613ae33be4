package api

import (
	"strconv"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

const (
	// span is the length of an activity, in minutes; the last minute isn't over yet.
	span = 60
	// maxActive is the maximum number of batches that an activity covers, newest first.
	maxActive = 10_000
	// activityAge is how long an activity is reused for the same caller. Computing one reads many
	// batches, and every open page of the dashboard polls it.
	activityAge = 5 * time.Second
	// maxActivities is the maximum number of activities in memory, of about 8 KiB each.
	maxActivities = 1000
)

// activities holds the latest activity for each store and owner.
type activities = lru.Cache[storage.Key, *activityJSON]

func newActivities() *activities {
	latest, err := lru.New[storage.Key, *activityJSON](maxActivities)
	if err != nil {
		panic(err) //nolint:forbidigo // only for a size of 0
	}
	return latest
}

type (
	// activityJSON is the JSON form of an activity.
	activityJSON struct {
		Minutes  [span]minuteJSON `json:"minutes"`
		Complete bool             `json:"complete"` // it covers all batches

		at time.Time
	}
	minuteJSON struct {
		At        string         `json:"at"`
		Completed jsontext.Value `json:"completed"`
		Failed    jsontext.Value `json:"failed"`
		InDoubt   jsontext.Value `json:"inDoubt"`
	}
)

// activity answers with how many of the caller's requests ended in each minute of the last hour.
func (s *API) activity(c *call) error {
	key := c.Key(batch.Ticket{})
	latest, ok := s.activities.Get(key)
	if !ok || time.Since(latest.at) >= activityAge {
		var err error
		if latest, err = s.newActivity(c); err != nil {
			return err
		}
		s.activities.Add(key, latest)
	}
	return c.JSON(latest)
}

// newActivity computes an activity from the batches. The requests of a batch count as if they had
// ended at even intervals while it ran.
func (s *API) newActivity(c *call) (*activityJSON, error) {
	now := time.Now()
	since := now.Truncate(time.Minute).Add(-(span - 1) * time.Minute)
	var completed, failed, inDoubt [span]float64
	seen := 0
	open := storage.Filter{Store: c.Store, Owner: c.Owner, Status: batch.InProgress, Limit: 1000}
	ended := storage.Filter{Store: c.Store, Owner: c.Owner, Status: batch.Completed, Limit: 1000}
	for _, f := range []storage.Filter{open, ended} {
		for {
			page, err := s.Storage.Find(c.R.Context(), f)
			if err != nil {
				return nil, s.storageFailed(c, "activity", batch.Ticket{}, err)
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
	out := &activityJSON{Complete: seen < maxActive, at: now}
	tenths := func(n float64) jsontext.Value { return strconv.AppendFloat(nil, n, 'f', 1, 64) }
	for i := range out.Minutes {
		at := jsonTime(since.Add(time.Duration(i) * time.Minute))
		out.Minutes[i] = minuteJSON{at, tenths(completed[i]), tenths(failed[i]), tenths(inDoubt[i])}
	}
	return out, nil
}

// spread distributes n evenly over the minutes from one time to another. It ignores the part
// outside the counted minutes.
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
