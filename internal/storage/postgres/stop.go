package postgres

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

// Stop implements storage.Storage.
func (db *DB) Stop(ctx context.Context, sel storage.Selection) (storage.StopResult, error) {
	const what = "stop batches"
	l := creates(storage.Caller{Store: sel.Store, Owner: sel.Owner})
	var ids, queues []int64
	row := func(r pgx.Rows) error {
		var id, queue int64
		err := r.Scan(&id, &queue)
		ids, queues = append(ids, id), append(queues, queue)
		return err
	}
	selected := get("open_of_group", row, sel.Store, sel.Owner[:], []byte(sel.GroupID))
	if sel.Ticket != uuid.Nil {
		selected = get("open_by_ticket", row, sel.Ticket, sel.Store, sel.Owner[:], []byte(sel.GroupID))
	}
	selected = selected.anew(func() { ids, queues = nil, nil })
	if err := db.read(ctx, l, what, selected); err != nil || len(ids) == 0 {
		return storage.StopResult{}, err
	}
	slices.Sort(queues)
	var hit stopRows
	steps := []step{do("lock_queues", slices.Compact(queues)), get("stop", hit.row, ids).anew(hit.forget)}
	err := db.write(ctx, l, what, append(steps, endAside(ids)...)...)
	if err != nil {
		return storage.StopResult{}, err
	}
	db.tell(&hit)
	return storage.StopResult{Count: hit.count, Queues: hit.queues}, nil
}

// stopRows is the rows that the statements "stop" and "delete" return.
type stopRows struct {
	count   int
	queues  []storage.QueueID // queues in which a batch may be running
	runners []int64           // the nodes that own these queues; 0: none
}

func (s *stopRows) forget() { *s = stopRows{} }

func (s *stopRows) row(r pgx.Rows) error {
	var q storage.QueueID
	var started bool
	var node *int64
	if err := r.Scan(&q, &started, &node); err != nil {
		return err
	}
	s.count++
	if !started || slices.Contains(s.queues, q) {
		return nil
	}
	runner := int64(0)
	if node != nil {
		runner = *node
	}
	s.queues, s.runners = append(s.queues, q), append(s.runners, runner)
	return nil
}

// tell notifies the nodes that run the stopped batches.
func (db *DB) tell(s *stopRows) {
	for i, q := range s.queues {
		if n := s.runners[i]; n != 0 && n != db.lease.node() {
			db.hints.send(hint{told, q})
		}
	}
}

// Delete implements storage.Storage.
func (db *DB) Delete(ctx context.Context, key storage.Key) (storage.QueueID, error) {
	const what = "delete a batch"
	l := creates(callerOf(key))
	var id int64
	var queue storage.QueueID
	var store string
	var owner []byte
	found := false
	err := db.read(ctx, l, what, get("batch_by_ticket", scan(&found, &id, &queue, &store, &owner), key.Ticket).anew(func() { found = false }))
	if err != nil {
		return 0, err
	}
	if !found || !key.Covers(store, owner) {
		return 0, storage.ErrNotFound
	}
	var hit stopRows
	steps := []step{do("lock_queues", []int64{int64(queue)}), get("delete", hit.row, id).anew(hit.forget)}
	err = db.write(ctx, l, what, append(steps, endAside([]int64{id})...)...)
	switch {
	case err != nil:
		return 0, err
	case hit.count == 0:
		return 0, storage.ErrNotFound // deleted by a concurrent call
	}
	db.tell(&hit)
	return queue, nil
}

// Abandon implements storage.Storage.
func (db *DB) Abandon(ctx context.Context, inDoubt batch.Result, reason string) (int, error) {
	const what = "abandon credentials"
	if err := db.awaitAlone(ctx); err != nil {
		return 0, db.failure(ctx, what, err)
	}
	count := 0
	err := db.write(ctx, claims, what,
		do("lock_open_queues"),
		do("end_begun", inDoubt.Status, inDoubt.Code, inDoubt.Kind, []byte(inDoubt.Line), inDoubt.Body),
		do("end_waiting"),
		get("end_open", func(pgx.Rows) error { count++; return nil }, []byte(reason)).anew(func() { count = 0 }),
		do("close_queues"))
	return count, err
}

// awaitAlone returns once no other node is registered. It waits for dead nodes to be removed, and
// returns an error if another node renews its registration.
func (db *DB) awaitAlone(ctx context.Context) error {
	if err := db.gate.Enter(); err != nil {
		return err
	}
	defer db.gate.Leave()
	ctx, cancel := context.WithTimeout(ctx, db.lease.timing.lease+2*db.lease.look+callTimeout)
	defer cancel()
	renewals := map[int64]int64{}
	for {
		others, err := db.otherNodes(ctx)
		if err != nil || len(others) == 0 {
			return err
		}
		for _, o := range others {
			if before, known := renewals[o.node]; known && before != o.renewals {
				return fmt.Errorf("%d other nodes run on this database: stop them first", len(others))
			}
			renewals[o.node] = o.renewals
		}
		if !wait(ctx, reconnect) {
			return ctx.Err()
		}
	}
}
