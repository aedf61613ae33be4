package sqlite

import (
	"fmt"
	"log/slog"
	"sync"

	"zombiezen.com/go/sqlite"
)

// syncs counts the syncs that failed. The second one of the log ends the process. Of the file
// itself the first one does: this process would not write again what it has moved there, and
// would begin the log anew that still has it.
type syncs struct {
	path  string
	log   *slog.Logger
	fatal func(error) // see Options

	mu     sync.Mutex
	failed int
	last   error // after the second
}

// note takes an error of the database, and ends the process if it is the second of a sync.
func (s *syncs) note(err error) {
	switch sqlite.ErrCode(err) {
	case sqlite.ResultIOErrFsync, sqlite.ResultIOErrDirFsync:
	default:
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed++; s.failed == 1 {
		s.log.Error("the disk could not sync the database; what was being stored may be lost, and its callers get an error. The next time ends this process", "file", s.path, "error", err)
		return
	}
	s.end(err)
}

// noteMove takes an error of moving the log into the file, and ends the process unless the disk
// is full or the file is locked.
func (s *syncs) noteMove(err error) {
	if sqlite.ErrCode(err).ToPrimary() != sqlite.ResultIOErr {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.end(err)
}

// end ends the process. s.mu is held.
func (s *syncs) end(err error) {
	if s.last != nil {
		return
	}
	s.last = fmt.Errorf("the disk has failed to sync the database %s; nothing is written any more: %w", s.path, err)
	s.log.Error("the disk has failed to sync the database for the second time, or its file at all; nobody knows what of it is on the disk, and this process ends, as after a crash: see the system's log for the disk's errors, mend or replace it, then start again", "file", s.path, "error", err)
	s.fatal(s.last)
}

// dead returns why nothing may be written any more; nil: it may.
func (s *syncs) dead() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}
