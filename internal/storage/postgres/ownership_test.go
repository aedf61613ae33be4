//go:build postgres

package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/sheafapi/sheaf/internal/storage"
)

// turn is an event in the history of a queue's owners: a node takes the queue or gives it up.
type turn struct {
	queue storage.QueueID
	node  int
	takes bool
}

// lock models a queue as a lock with at most one owner. The owner may take it again.
var lock = porcupine.Model{
	Partition: func(history []porcupine.Operation) (parts [][]porcupine.Operation) {
		queues := map[storage.QueueID][]porcupine.Operation{}
		for _, op := range history {
			q := op.Input.(turn).queue
			queues[q] = append(queues[q], op)
		}
		for _, part := range queues {
			parts = append(parts, part)
		}
		return parts
	},
	Init: func() any { return -1 }, // no owner
	Step: func(owner, input, _ any) (bool, any) {
		switch e := input.(turn); {
		case e.takes:
			return owner == -1 || owner == e.node, e.node
		default:
			return owner == e.node, -1
		}
	},
}

// history records how nodes took queues and gave them up.
type history struct {
	begin time.Time
	mu    sync.Mutex
	ops   []porcupine.Operation
}

func (h *history) now() int64 { return int64(time.Since(h.begin)) }

func (h *history) add(from, to int64, what turn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: what.node, Input: what, Call: from, Return: to})
}

// changes returns how often a queue changed its owner.
func (h *history) changes() (n int) {
	last := map[storage.QueueID]int{}
	for _, op := range h.ops {
		if e := op.Input.(turn); e.takes {
			if before, ok := last[e.queue]; ok && before != e.node {
				n++
			}
			last[e.queue] = e.node
		}
	}
	return n
}

// TestOwnershipModel: the model detects two owners.
func TestOwnershipModel(t *testing.T) {
	for text, ok := range map[string]bool{
		"0+0-1 0-2-3 1+4-5 1-6-9":       true,  // one after the other
		"0+0-1 0-2-9 1+3-5 1-6-9":       true,  // the first one was last authorized at 2
		"0+0-1 0+2-3 0-4-9 1+5-6 1-7-9": true,  // its claim was repeated
		"0+0-1 1+2-3 0-4-9 1-5-9":       false, // the first one was still authorized when the second one claimed
		"0+0-1 0-2-3 1+4-5 0-6-7 1-8-9": false, // given up twice
		"0+0-9 1+0-9":                   false, // never given up
	} {
		var h history
		for _, word := range strings.Fields(text) {
			var node int
			var sign rune
			var from, to int64
			if _, err := fmt.Sscanf(word, "%d%c%d-%d", &node, &sign, &from, &to); err != nil {
				t.Fatal(err)
			}
			h.add(from, to, turn{queue: 1, node: node, takes: sign == '+'})
			h.add(from, to, turn{queue: storage.QueueID(node + 2), node: node, takes: sign == '+'}) // a correct one
		}
		expect(t, text, porcupine.CheckOperations(lock, h.ops), ok)
	}
}

// hasty is the timing of nodes that often lose their queues.
var hasty = timing{
	lease: 800 * time.Millisecond, send: 600 * time.Millisecond, renew: 100 * time.Millisecond,
	grace: 300 * time.Millisecond, proof: 150 * time.Millisecond,
	busyPing: 30 * time.Millisecond, idlePing: 50 * time.Millisecond, look: 50 * time.Millisecond,
}

// member is a node in the test. From time to time, it is closed and reopened.
type member struct {
	id  int
	net *proxy

	mu sync.RWMutex // held for reading while it is used
	db *DB
}

// reopen replaces the node by a new one.
func (m *member) reopen(t *testing.T) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.db != nil {
		if err := m.db.Close(); err != nil {
			t.Error(err)
		}
	}
	m.db = nil
	eventually(t, "a node does not open", func() bool {
		db, err := Open(context.WithoutCancel(t.Context()), m.net.url, Options{timing: &hasty, Logger: slog.New(slog.DiscardHandler)})
		m.db = db
		return err == nil
	})
}

// own claims queues and gives them up until ctx ends, and records the history.
func (m *member) own(ctx context.Context, h *history, store string) {
	q := storage.QueueID(0)
	for ctx.Err() == nil {
		m.mu.RLock()
		if q == 0 {
			if c, err := m.db.Create(ctx, newBatch(store, 1)); err == nil {
				q = c.Queue
			}
		} else if err := m.once(ctx, h, q); errors.Is(err, storage.ErrNothing) {
			q = 0
		}
		m.mu.RUnlock()
		wait(ctx, time.Duration(rand.IntN(10))*time.Millisecond)
	}
}

// once claims a queue if it is free, uses it for a while, and gives it up.
func (m *member) once(ctx context.Context, h *history, q storage.QueueID) error {
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	from := h.now()
	c, err := m.db.Claim(short, q)
	if err != nil {
		return err
	}
	h.add(from, h.now(), turn{q, m.id, true})
	last := from // the latest time at which the node could have sent
	for end := time.Now().Add(time.Duration(rand.IntN(60)) * time.Millisecond); time.Now().Before(end); wait(ctx, time.Millisecond) {
		if now := h.now(); m.db.Authorized(c) {
			last = now
		}
	}
	switch rand.IntN(4) {
	case 0:
		_, err = m.db.Finish(ctx, c, []storage.Mark{done(0, "")}, "", true)
	case 1: // the queue is free once this node is considered dead, or claims it again
		_, err = m.db.Record(ctx, c, []storage.Mark{done(0, "")})
	default:
		err = m.db.Release(ctx, c, nil, time.Time{})
	}
	// If the outcome is unknown, the node may own the queue for as long as it may send.
	for now := h.now(); !errors.Is(err, storage.ErrNotOwner) && err != nil && m.db.Authorized(c) && ctx.Err() == nil; now = h.now() {
		last = now
		err = m.db.Release(ctx, c, nil, time.Time{})
	}
	h.add(last, h.now(), turn{q, m.id, false})
	return err
}

// fault disturbs a node.
func (m *member) fault(ctx context.Context, t *testing.T, url string) string {
	m.mu.RLock()
	process, node := m.db.process, m.db.lease.node()
	m.mu.RUnlock()
	switch what := rand.IntN(5); what {
	case 0:
		execute(t, url, `SELECT pg_terminate_backend(pid) FROM pg_locks JOIN nodes ON nodes.id = $1
			WHERE locktype = 'advisory' AND granted AND classid::bigint << 32 | objid::bigint = lock`, node)
		return "its session ends"
	case 1:
		execute(t, url, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1", process)
		return "its connections end"
	case 2, 3:
		pause, text := hasty.lease/4, "it is cut off for a moment"
		if what == 3 {
			pause, text = hasty.lease*3/2, "it is cut off"
		}
		m.net.freeze()
		wait(ctx, pause)
		m.net.thaw()
		return text
	default:
		m.reopen(t)
		return "it is closed"
	}
}

// TestOwnership: nodes claim, use and give up the same queues, while their connections break and
// freeze and the nodes are closed. No node claims a queue before the last time at which another one
// could have sent for it.
func TestOwnership(t *testing.T) {
	const nodes, queues = 3, 4
	url := migrated.New(t)
	h := &history{begin: time.Now()}
	members := make([]*member, nodes)
	for i := range members {
		m := &member{id: i, net: newProxy(t, url)}
		m.reopen(t)
		t.Cleanup(func() { m.db.Close() })
		members[i] = m
	}
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for _, m := range members {
		for q := range queues {
			wg.Go(func() { m.own(ctx, h, fmt.Sprint("s", q)) })
		}
	}
	faults := map[string]int{}
	for ctx.Err() == nil {
		faults[members[rand.IntN(nodes)].fault(ctx, t, url)]++
		wait(ctx, 100*time.Millisecond)
	}
	wg.Wait()
	if result, info := porcupine.CheckOperationsVerbose(lock, h.ops, time.Minute); result != porcupine.Ok {
		path := t.ArtifactDir() + "/ownership.html"
		t.Errorf("a queue had two owners (%s): %v, %s", result, porcupine.VisualizePath(lock, info, path), path)
	}
	t.Logf("queues were taken or given up %d times and changed nodes %d times; faults: %v", len(h.ops), h.changes(), faults)
	if h.changes() < 20 {
		t.Errorf("queues changed nodes only %d times", h.changes())
	}
}
