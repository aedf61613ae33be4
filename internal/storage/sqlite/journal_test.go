package sqlite

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/storagetest"
	"pgregory.net/rapid"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// smallBounds are so low that everything that can happen to a journal happens often.
var smallBounds = []bounds{
	{table: 300, call: 1 << 20, trimAfter: 1},
	{table: 1 << 20, call: 40, trimAfter: 2},
	{table: 100, call: 60, trimAfter: 3},
}

// TestSmallJournal: what reads and claims see doesn't depend on where the marks are.
func TestSmallJournal(t *testing.T) {
	t.Parallel() // takes most of the package's time, half of it waiting for the disk
	for i, b := range smallBounds {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			open := func(t *testing.T) storage.Storage {
				db := openNew(t).(*DB)
				db.journal.bounds = b
				return db
			}
			if i == len(smallBounds)-1 { // these limit everything; the suite takes long
				storagetest.Run(t, open)
			}
			storagetest.RunModel(t, open)
		})
	}
}

// crash copies a database as it would be if the process died now, and opens the copy.
func crash(t rapid.TB, path, to string) *DB {
	t.Helper()
	for _, suffix := range []string{"", "-wal"} {
		content, err := os.ReadFile(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to+suffix, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	db, err := Open(context.Background(), to, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// TestJournalCrash: the next process claims exactly what a process that died had acknowledged,
// whatever was recorded, given up, ended and moved before.
func TestJournalCrash(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "journal")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		path := filepath.Join(dir, "sheaf.db")
		db, err := Open(t.Context(), path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		db.journal.bounds = rapid.SampledFrom(append(smallBounds, usualBounds)).Draw(t, "bounds")
		ctx := t.Context()
		const requests = 4
		var claims []*storage.Claim
		recorded := map[storage.QueueID]map[int]storage.Mark{}
		for i := range 3 {
			b := newBatch(requests)
			b.Queue = fmt.Sprint(i)
			created, err := db.Create(ctx, b)
			if err != nil {
				t.Fatal(err)
			}
			c, err := db.Claim(ctx, created.Queue)
			if err != nil {
				t.Fatal(err)
			}
			claims = append(claims, c)
			recorded[c.Queue] = map[int]storage.Mark{}
		}
		record := func(t *rapid.T, q storage.QueueID) (marks []storage.Mark) {
			for range rapid.IntRange(1, 3).Draw(t, "marks") {
				m := drawMark(t, requests)
				earlier := recorded[q][m.Index]
				if m.State != storage.Begun && (m.State == storage.Waiting || earlier.Result.Status != 0) && rapid.Bool().Draw(t, "the answer stays") {
					m.Result = batch.Result{}
				}
				marks = append(marks, m)
				if earlier.State != storage.Done {
					recorded[q][m.Index] = storage.Over(earlier, m)
				}
			}
			return marks
		}
		crashes := 0
		t.Repeat(map[string]func(*rapid.T){
			"record": func(t *rapid.T) {
				c := rapid.SampledFrom(claims).Draw(t, "claim")
				if _, err := db.Record(ctx, c, record(t, c.Queue)); err != nil {
					t.Fatal(err)
				}
			},
			"release": func(t *rapid.T) {
				i := rapid.IntRange(0, len(claims)-1).Draw(t, "claim")
				if err := db.Release(ctx, claims[i], record(t, claims[i].Queue), time.Time{}); err != nil {
					t.Fatal(err)
				}
				if claims[i], err = db.Claim(ctx, claims[i].Queue); err != nil {
					t.Fatal(err)
				}
			},
			"finish": func(t *rapid.T) {
				if len(claims) == 1 {
					redraw(t) // at least one must be left
				}
				i := rapid.IntRange(0, len(claims)-1).Draw(t, "claim")
				if _, err := db.Finish(ctx, claims[i], nil, "", true); err != nil {
					t.Fatal(err)
				}
				delete(recorded, claims[i].Queue)
				claims = slices.Delete(claims, i, i+1)
			},
			"crash": func(t *rapid.T) {
				if rapid.IntRange(0, 3).Draw(t, "one in four") > 0 {
					redraw(t) // rarely, because opening a file takes much longer than everything else here
				}
				crashes++
				next := filepath.Join(dir, fmt.Sprintf("crash%d.db", crashes))
				after := crash(t, path, next)
				if err := db.Close(); err != nil {
					t.Fatal(err)
				}
				after.journal.bounds = db.journal.bounds
				db, path = after, next
				for i, c := range claims {
					if claims[i], err = db.Claim(ctx, c.Queue); err != nil {
						t.Fatal(err)
					}
				}
			},
			"": func(t *rapid.T) {
				for _, c := range claims {
					again, err := db.Claim(ctx, c.Queue)
					if err != nil {
						t.Fatal(err)
					}
					if err := db.Load(ctx, again); err != nil {
						t.Fatal(err)
					}
					*c = *again
					results, err := db.Results(ctx, c.ID, 0, 1<<30)
					if err != nil {
						t.Fatal(err)
					}
					var want []storage.Mark
					for i := range requests {
						m, ok := recorded[c.Queue][i]
						if !ok {
							continue
						}
						want = append(want, m.Unread())
						if m.State != storage.Done {
							continue
						}
						if len(results) == 0 || results[0].Index != i || !reflect.DeepEqual(results[0].Result, m.Result) {
							t.Fatalf("the results from %d on are %+v, recorded was %+v", i, results, m.Result)
						}
						results = results[1:]
					}
					if !reflect.DeepEqual(again.Marks, want) {
						t.Fatalf("claimed %+v, recorded were %+v", again.Marks, want)
					}
				}
			},
		})
		if err := db.Close(); err != nil {
			t.Error(err)
		}
		if n := journalRows(t, path); n != 0 {
			t.Errorf("after Close the journal has %d rows", n)
		}
	})
}

// redraw rejects an action that doesn't apply in this state, so that rapid draws another one. It
// doesn't skip the test.
func redraw(t *rapid.T) { t.Skip("another action") }

func drawMark(t *rapid.T, requests int) storage.Mark {
	moment := rapid.Custom(func(t *rapid.T) time.Time {
		return storage.FromMillis(rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(1, 1<<45)).Draw(t, "moment"))
	})
	count := rapid.IntRange(0, 1000)
	m := storage.Mark{
		Index: rapid.IntRange(0, requests-1).Draw(t, "index"),
		State: rapid.SampledFrom([]storage.MarkState{storage.Begun, storage.Waiting, storage.Done}).Draw(t, "state"),
		Tries: storage.Tries{
			Attempts: count.Draw(t, "attempts"), Retries: count.Draw(t, "retries"), Throttles: count.Draw(t, "throttles"),
			ThrottledSince: moment.Draw(t, "throttled"), MaybeDone: rapid.Bool().Draw(t, "maybe done"), InDoubt: rapid.Bool().Draw(t, "in doubt"),
			StartedAt: moment.Draw(t, "started"), EndedAt: moment.Draw(t, "ended"),
		},
		NotBefore: moment.Draw(t, "not before"),
	}
	if m.State != storage.Begun {
		m.Result = batch.Result{
			Status: rapid.SampledFrom([]batch.ResultStatus{batch.Succeeded, batch.Failed, batch.NotExecuted}).Draw(t, "status"),
			Code:   rapid.IntRange(0, 999).Draw(t, "code"),
			Kind:   batch.JSONBody,
			Line:   rapid.StringN(0, 20, 40).Draw(t, "line"),
			Body:   rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "body"),
		}
		if len(m.Result.Body) == 0 {
			m.Result.Body = nil
		}
		for range rapid.IntRange(0, 2).Draw(t, "headers") {
			m.Result.Headers = append(m.Result.Headers, batch.Header{Name: rapid.String().Draw(t, "name"), Value: rapid.String().Draw(t, "value")})
		}
	}
	return m
}

func journalRows(t rapid.TB, path string) (n int64) {
	t.Helper()
	c, err := sqlite.OpenConn(path, sqlite.OpenReadWrite)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	err = sqlitex.ExecuteTransient(c, "SELECT count(*) FROM journal", &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
		n = s.ColumnInt64(0)
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestJournalBound: while a slow batch runs and others come and go, neither the journal nor its
// part in memory grows without limit.
func TestJournalBound(t *testing.T) {
	db := open(t, filepath.Join(t.TempDir(), "sheaf.db"))
	db.journal.bounds = bounds{table: 20_000, call: 10_000, trimAfter: 8}
	slow := newBatch(2)
	slow.Queue = "slow"
	c := claim(t, db, create(t, db, slow))
	if _, err := db.Record(t.Context(), c, []storage.Mark{{Index: 0, State: storage.Begun}}); err != nil {
		t.Fatal(err)
	}
	body := []byte(strings.Repeat("x", 500))
	for range 100 {
		q := claim(t, db, create(t, db, newBatch(3)))
		for i := range 3 {
			m := storage.Mark{Index: i, State: storage.Done, Result: batch.Result{Status: batch.Succeeded, Body: body}}
			if _, err := db.Record(t.Context(), q, []storage.Mark{m}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := db.Finish(t.Context(), q, nil, "", true); err != nil {
			t.Fatal(err)
		}
	}
	held := 0
	db.journal.mu.RLock()
	for _, f := range db.journal.batches {
		for _, m := range f.marks {
			held += len(m.mark)
		}
	}
	db.journal.mu.RUnlock()
	if held > 20_000 || db.journal.bytes > 21_000 {
		t.Errorf("%d bytes are held, the table has %d", held, db.journal.bytes)
	}
	if n, err := tableBytes(t, db); err != nil || n != int64(db.journal.bytes) {
		t.Errorf("the table has %d bytes; %d are counted; %v", n, db.journal.bytes, err)
	}
	again := claim(t, db, c.Queue)
	if len(again.Marks) != 1 || again.Marks[0].State != storage.Begun {
		t.Errorf("the slow batch has %+v", again.Marks)
	}
}

func claim(t *testing.T, db *DB, q storage.QueueID) *storage.Claim {
	t.Helper()
	c, err := db.Claim(t.Context(), q)
	if err == nil {
		err = db.Load(t.Context(), c)
	}
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func tableBytes(t *testing.T, db *DB) (n int64, err error) {
	err = db.write(t.Context(), "measure the journal", func(c *sqlite.Conn) error {
		return sqlitex.ExecuteTransient(c, "SELECT total(length(marks)) FROM journal", &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
			n = s.ColumnInt64(0)
			return nil
		}})
	})
	return n, err
}

// TestDamagedJournal: a file with an unreadable journal is neither opened nor changed.
func TestDamagedJournal(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sheaf.db")
	if err := open(t, path).Close(); err != nil {
		t.Fatal(err)
	}
	script(t, path, "INSERT INTO journal (marks) VALUES (x'0101ffffff7f01')")
	db, err := Open(t.Context(), path, Options{})
	if !errors.Is(err, errDamagedJournal) {
		t.Errorf("got %v, %v", db, err)
	}
	if n := journalRows(t, path); n != 1 {
		t.Errorf("the journal has %d rows", n)
	}
}

func FuzzJournal(f *testing.F) {
	j := newJournal()
	j.begin()
	marks := []storage.Mark{
		{Index: 7, State: storage.Begun, Tries: storage.Tries{Attempts: 1, StartedAt: storage.FromMillis(1 << 40)}},
		{Index: 499, State: storage.Done, Result: batch.Result{Status: batch.Failed, Code: 404, Line: "not found", Body: []byte("{}")}},
	}
	if err := j.record(nil, 300, marks); err != nil {
		f.Fatal(err)
	}
	j.entry(300, 0)
	f.Add(j.buf)
	f.Add([]byte{})
	f.Add([]byte{1, 1, 0xff, 0xff, 0xff, 0xff, 0})
	f.Fuzz(func(t *testing.T, row []byte) {
		got := map[storage.BatchID]*fresh{}
		if err := takeUp(got, row); err != nil {
			return
		}
		for id, held := range got {
			for _, h := range held.marks {
				m, err := unpackMark(h.mark)
				if err != nil || m.Index != h.index || id < 0 && len(row) < 10 {
					t.Fatalf("batch %d, %+v: %v", id, m, err)
				}
				again, err := unpackMark(packMark(nil, &m))
				if err != nil || !reflect.DeepEqual(again, m) {
					t.Fatalf("%+v became %+v, %v", m, again, err)
				}
			}
		}
	})
}
