//go:build postgres

package postgres

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/storage"
)

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	c, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(context.Background()) })
	return c
}

func runSQL(t *testing.T, c *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := c.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

// largeMarks returns the marks of n ended requests with large answers, starting with request first.
func largeMarks(first, n int) (out []storage.Mark) {
	body := bytes.Repeat([]byte("0123456789abcdef"), 2<<20/16)
	for i := range n {
		out = append(out, storage.Mark{
			Index: first + i, State: storage.Done, Tries: storage.Tries{Attempts: 1},
			Result: batch.Result{Status: batch.Succeeded, Code: 200, Line: "OK", Body: body, Kind: batch.TextBody},
		})
	}
	return out
}

// TestStatementsAreBounded: no statement has more than a few large answers, however much one call
// records. The end of a request and the intent of the next one are in the same statement.
func TestStatementsAreBounded(t *testing.T) {
	url := migrated.New(t)
	db := open(t, url, Options{})
	c := connect(t, url)
	runSQL(t, c, `CREATE FUNCTION check_size() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF (SELECT sum(octet_length(body)) FROM written) > 5 << 20 THEN RAISE 'too many bytes in one statement'; END IF;
			IF EXISTS (SELECT FROM written WHERE state = 1) AND NOT EXISTS (SELECT FROM written WHERE state = 3) THEN RAISE 'an intent alone'; END IF;
			RETURN NULL;
		END $$`)
	runSQL(t, c, `CREATE TRIGGER sizes AFTER INSERT ON marks REFERENCING NEW TABLE AS written FOR EACH STATEMENT EXECUTE FUNCTION check_size()`)
	b := newBatch("s", 50)
	claim := claimed(t, db, b)
	if _, err := db.Record(t.Context(), claim, append(largeMarks(0, 10), storage.Mark{Index: 10, State: storage.Begun})); err != nil {
		t.Fatal("Record:", err)
	}
	if err := db.Release(t.Context(), claim, largeMarks(10, 10), time.Time{}); err != nil {
		t.Fatal("Release:", err)
	}
	claim, err := db.Claim(t.Context(), claim.Queue)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Finish(t.Context(), claim, largeMarks(20, 30), "", true); err != nil {
		t.Fatal("Finish:", err)
	}
	s, err := db.Status(t.Context(), key(b), 1)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "completed", s.Completed, 50)
}

// TestLargeRecordsDelayNoSmallOnes: results of a third store are recorded while large answers of
// two stores can't be written, as on a slow disk.
func TestLargeRecordsDelayNoSmallOnes(t *testing.T) {
	url := migrated.New(t)
	db := open(t, url, Options{})
	other := connect(t, url)
	runSQL(t, other, "BEGIN")
	recorded := make(chan error, 2)
	var claims []*storage.Claim
	for _, store := range []string{"a", "b"} {
		claims = append(claims, claimed(t, db, newBatch(store, 1)))
	}
	small := claimed(t, db, newBatch("c", 1))
	for _, c := range claims {
		runSQL(t, other, "SELECT epoch FROM owners WHERE queue = $1 FOR UPDATE", int64(c.Queue))
		go func() {
			_, err := db.Record(context.Background(), c, largeMarks(0, 1))
			recorded <- err
		}()
	}
	for waiting := 0; waiting < 2; { // until both wait at the server
		if err := other.QueryRow(t.Context(), "SELECT count(*) FROM pg_locks WHERE NOT granted").Scan(&waiting); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := db.Record(t.Context(), small, []storage.Mark{done(0, "small")}); err != nil {
		t.Error("the small result:", err)
	}
	runSQL(t, other, "ROLLBACK")
	for range claims {
		if err := <-recorded; err != nil {
			t.Error("a large result:", err)
		}
	}
}

// TestAnswersAreCompressedCheaply: PostgreSQL's own compression is not used for answers.
func TestAnswersAreCompressedCheaply(t *testing.T) {
	url := migrated.New(t)
	db := open(t, url, Options{})
	c := claimed(t, db, newBatch("s", 1))
	if _, err := db.Record(t.Context(), c, largeMarks(0, 1)); err != nil {
		t.Fatal(err)
	}
	var method *string
	if err := connect(t, url).QueryRow(t.Context(), "SELECT pg_column_compression(body) FROM marks").Scan(&method); err != nil {
		t.Fatal(err)
	}
	if method != nil && *method == "pglz" {
		t.Error("answers are compressed by pglz")
	}
}
