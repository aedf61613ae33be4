package database

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/sqlite"
)

// TestExpire: a batch is readable for the retention after its end, and is removed within a minute
// after that. An unfinished batch stays.
func TestExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := slog.New(slog.DiscardHandler)
		db, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "sheaf.db"), sqlite.Options{Logger: log})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		create := func() (storage.Key, storage.QueueID) {
			key := storage.Key{Store: "s", Owner: batch.OwnerOf("token"), Ticket: uuid.New()}
			c, err := db.Create(t.Context(), &storage.NewBatch{
				Ticket: key.Ticket, Store: key.Store, Owner: key.Owner, Queue: "q",
				Requests: []batch.Request{{Method: "GET", Path: "p"}}, Credential: []byte("sealed"),
			})
			if err != nil {
				t.Fatal(err)
			}
			return key, c.Queue
		}
		ended, queue := create()
		c, err := db.Claim(t.Context(), queue)
		if err == nil {
			_, err = db.Finish(t.Context(), c, nil, "", true)
		}
		if err != nil {
			t.Fatal(err)
		}
		open, _ := create()
		read := func(key storage.Key) error {
			_, err := db.Status(t.Context(), key, 0)
			return err
		}

		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { Expire(ctx, db, time.Hour, log) })
		<-time.After(time.Hour - time.Second)
		if err := read(ended); err != nil {
			t.Errorf("the batch within its retention: %v", err)
		}
		<-time.After(2 * time.Minute)
		if err := read(ended); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("the batch after its retention: %v", err)
		}
		if err := read(open); err != nil {
			t.Errorf("the unfinished batch: %v", err)
		}
		stop()
		running.Wait()
	})
}
