package sqlite

import (
	"os"
	"time"

	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

const (
	checkpointEvery = 16                     // commits after which the log's length is checked
	shortenEvery    = 256                    // commits after which a log that is too long is restarted
	blockedWait     = 100 * time.Millisecond // how long to wait for readers of the log; every commit waits too
	silence         = time.Minute            // between two log messages about the database's log
)

// checkpoints is the writer's state for moving the log into the file.
type checkpoints struct {
	commits int
	warned  time.Time // time of the last warning that the log stays long
}

// checkpoint moves the log into the file when it has grown long. The next commit then restarts the
// log, unless a reader still uses it. If readers have made the log too long, it is restarted as
// soon as they have ended.
func (w *writer) checkpoint() {
	if w.commits++; w.commits%checkpointEvery != 0 || w.conn == nil {
		return
	}
	state, err := moveLog(w.conn, "NOOP")
	if err == nil && state.frames >= checkpointPages && state.moved < state.frames {
		state, err = moveLog(w.conn, "PASSIVE")
	}
	if err == nil && w.commits%shortenEvery == 0 {
		state, err = w.shorten(state)
	}
	if err != nil {
		w.noteMove(err)
	}
	if (err != nil || state.busy) && time.Since(w.warned) >= silence {
		w.warned = time.Now()
		w.warn(state, err)
	}
}

// shorten restarts a log that is longer than its limit. It waits for running reads, which are
// short, but only briefly for a long one, such as a backup's.
func (w *writer) shorten(state logState) (logState, error) {
	size, err := logSize(w.path)
	if err != nil || size <= logLimit {
		return state, err
	}
	w.conn.SetBusyTimeout(blockedWait)
	defer w.conn.SetBusyTimeout(busyTimeout)
	return moveLog(w.conn, "RESTART")
}

// warn logs why the log stays long.
func (w *writer) warn(state logState, err error) {
	size, _ := logSize(w.path)
	about := []any{"file", w.path + "-wal", "bytes", size, "pages", state.frames, "moved", state.moved}
	if err != nil {
		w.log.Error("the database's log can't be moved into the file", append(about, "error", explain(err))...)
		return
	}
	w.log.Warn("the database's log stays long because a program reads the file in one long transaction, such as a backup or a shell; stop that program before the disk is full", about...)
}

// logSize returns the length of a database's log on disk. It is never much shorter than
// logReserve.
func logSize(path string) (int64, error) {
	info, err := os.Stat(path + "-wal")
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// logState is the row that a checkpoint returns.
type logState struct {
	busy   bool // another connection kept the checkpoint from completing
	frames int  // pages in the log
	moved  int  // how many of them are in the file
}

// moveLog runs a checkpoint of the given mode, which moves pages from the log into the file.
func moveLog(c *sqlite.Conn, mode string) (state logState, err error) {
	err = sqlitex.ExecuteTransient(c, "PRAGMA wal_checkpoint("+mode+")", &sqlitex.ExecOptions{ResultFunc: func(s *sqlite.Stmt) error {
		state = logState{s.ColumnInt(0) != 0, s.ColumnInt(1), s.ColumnInt(2)}
		return nil
	}})
	if sqlite.ErrCode(err).ToPrimary() == sqlite.ResultBusy {
		return logState{busy: true}, nil
	}
	return state, err
}

// move moves the log into the file on each signal, until moving is closed. Commits don't wait for
// it. If the log is still too long afterwards, the writer moves the rest, which is little by then.
func (w *writer) move(c *sqlite.Conn) {
	var failed bool
	for range w.moving {
		if w.dead() != nil {
			continue
		}
		_, err := moveLog(c, "PASSIVE")
		if err != nil && !failed {
			w.log.Warn("the database's log can't be moved into its file", "file", w.path, "error", explain(err))
		}
		w.noteMove(err)
		failed = err != nil
	}
	if err := c.Close(); err != nil {
		w.log.Warn("the connection that moves the database's log can't be closed", "error", err)
	}
}
