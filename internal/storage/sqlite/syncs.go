package sqlite

import (
	"fmt"
	"log/slog"
	"sync"

	"zombiezen.com/go/sqlite"
)

// syncs counts failed syncs. The second failed sync of the log ends the process. For the file
// itself, the first one does, because this process would not write the moved pages again, and would
// restart the log that still has them.
type syncs struct {
	path  string
	log   *slog.Logger
	fatal func(error) // see Options

	mu     sync.Mutex
	failed int
	last   error // why nothing more may be written; nil: it may
}

// note counts an error of the database if it is a failed sync. The second one ends the process.
func (s *syncs) note(err error) {
	switch sqlite.ErrCode(err) {
	case sqlite.ResultIOErrFsync, sqlite.ResultIOErrDirFsync:
	default:
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed++; s.failed == 1 {
		s.log.Error("the disk could not sync the database; the changes in this commit may be lost, and their callers get an error; a second failure ends this process", "file", s.path, "error", err)
		return
	}
	s.end(err)
}

// noteMove handles an error of moving the log into the file. It ends the process unless the disk is
// full or the file is locked.
func (s *syncs) noteMove(err error) {
	if sqlite.ErrCode(err).ToPrimary() != sqlite.ResultIOErr {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(err)
}

// end ends the process. The caller holds s.mu.
func (s *syncs) end(err error) {
	if s.last != nil {
		return
	}
	s.last = fmt.Errorf("the disk has failed to sync the database %s; no more changes are accepted: %w", s.path, err)
	s.log.Error("the disk has failed to sync the database for the second time, or could not write its file; it is unknown what is on the disk, so this process ends, as in a crash; check the system's log for disk errors, repair or replace the disk, then start again", "file", s.path, "error", err)
	s.fatal(s.last)
}

// dead returns the reason why nothing more may be written; nil if writing is allowed.
func (s *syncs) dead() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}
