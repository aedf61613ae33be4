package main

import "time"

const (
	// recorders is how many transactions with results a node has under way.
	recorders = 2
	// mostRecords is how many stores' results one of them holds.
	mostRecords = 256
)

// what says which operation of storage an item is.
type what uint8

const (
	creation   what = iota // of a batch; item.id is the batch, in all others the store
	claim                  // take a store and its first batch
	record                 // answers, and intents of the next requests
	finish                 // the last answers, the batch's end, and the next batch
	finishTurn             // the same, but give the store up
	release                // answers; give the store up
)

// item is one operation that waits for its commit.
type item struct {
	what    what
	id      int32
	begins  int16 // intents
	results int16
}

// rows returns about how many rows the item writes.
func (i *item) rows() int {
	marks := int(i.begins) + int(i.results)
	switch i.what {
	case record:
		return marks
	case creation, claim, finish, finishTurn, release:
		return marks + 3 // batch, queue, owner or requests
	}
	return marks
}

// transaction is what one connection of a node commits at once: the results of many
// stores, or one other operation.
type transaction struct {
	node  int16
	items []item // empty: it is over
}

// write has an operation committed. Results are written together with what else is
// there by the time a recorder is free.
func (s *sim) write(n int16, i item) {
	nd := &s.nodes[n]
	if i.what == record {
		nd.records = append(nd.records, i)
		s.gather(n)
		return
	}
	id := s.newTransaction(n)
	s.transactions[id].items = append(s.transactions[id].items, i)
	s.send(n, id)
}

// writeRun writes an operation of a store's run, with the answers that are not recorded
// yet. One is under way at a time.
func (s *sim) writeRun(id int32, what what, begins int16) {
	r := &s.stores[id].run
	r.recording = true
	i := item{what: what, id: id, begins: begins, results: r.pending}
	r.pending = 0
	s.write(s.stores[id].owner, i)
}

// gather has free recorders take the results that wait.
func (s *sim) gather(n int16) {
	nd := &s.nodes[n]
	for nd.recorders > 0 && len(nd.records) > 0 {
		nd.recorders--
		id := s.newTransaction(n)
		t := &s.transactions[id]
		count := min(len(nd.records), mostRecords)
		t.items = append(t.items, nd.records[:count]...)
		nd.records = nd.records[:copy(nd.records, nd.records[count:])]
		s.send(n, id)
	}
}

// send starts a transaction, or puts it into the line for a connection.
func (s *sim) send(n int16, id int32) {
	nd := &s.nodes[n]
	if nd.connections == 0 {
		nd.unsent = append(nd.unsent, id)
		return
	}
	nd.connections--
	rows := 0
	for _, i := range s.transactions[id].items {
		rows += i.rows()
	}
	s.commitCount++
	// The database's part is done one after the other, the rest of a lone commit's time
	// (the network, the disk) side by side.
	work := s.perCommit + time.Duration(rows)*s.perRow
	done := s.database.serve(s.now, work) + moment(max(s.o.CommitTime-s.perCommit, 0))
	s.agenda.add(event{at: done, kind: commits, id: id})
}

func (s *sim) newTransaction(n int16) int32 {
	if last := len(s.spare) - 1; last >= 0 {
		id := s.spare[last]
		s.spare = s.spare[:last]
		s.transactions[id].node = n
		return id
	}
	s.transactions = append(s.transactions, transaction{node: n})
	return int32(len(s.transactions) - 1)
}

// committed lets everything that was in a transaction go on.
func (s *sim) committed(id int32) {
	n := s.transactions[id].node
	nd := &s.nodes[n]
	if nd.lost {
		return // rolled back; see lose
	}
	nd.connections++
	if len(nd.unsent) > 0 {
		first := nd.unsent[0]
		nd.unsent = nd.unsent[1:]
		s.send(n, first)
	}
	items := s.transactions[id].items
	recorded := items[0].what == record
	for _, i := range items {
		s.goOn(n, i)
	}
	s.transactions[id].items = items[:0]
	s.spare = append(s.spare, id)
	if recorded {
		nd.recorders++
		s.gather(n)
	}
}

// goOn does what follows an operation.
func (s *sim) goOn(n int16, i item) {
	switch i.what {
	case creation:
		s.created(n, i.id)
	case claim:
		s.begin(i.id)
	case record:
		s.recorded(i.id, i.begins, i.results)
	case finish:
		s.finished(i.id, i.results, false)
	case finishTurn:
		s.finished(i.id, i.results, true)
	case release:
		s.released(i.id, i.results)
	}
}
