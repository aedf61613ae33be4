package submit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/google/uuid"
	"github.com/sheafapi/sheaf/internal/private"
)

// journal is what a submission has done so far, in a file beside the input: a line of JSON
// for the submission, and one for each step, fsynced before the next. A line that a crash
// broke off is as if it had not been begun.
type journal struct {
	Header
	path string
	file *os.File
	lock *flock.Flock

	mu     sync.Mutex // of what is below, and of writing
	states []state
	done   int  // chunks, from the first on, whose results are written
	ends   step // of the last one of these
}

// Header is what a submission consists of.
type Header struct {
	Version   int       `json:"sheafRun"`
	ID        uuid.UUID `json:"id"`
	Server    string    `json:"server"`
	Store     string    `json:"store"`
	GroupID   string    `json:"groupId"`
	Format    Format    `json:"format"`
	Encoding  string    `json:"encoding,omitempty"`
	Template  string    `json:"template,omitempty"`
	Delimiter string    `json:"delimiter,omitempty"`

	DecimalComma bool `json:"decimalComma,omitempty"`
	Raw          bool `json:"raw,omitempty"`
	Blank        int  `json:"blank,omitempty"` // rows that were skipped

	Parallel      bool   `json:"parallel,omitempty"`
	StopOnFailure bool   `json:"stopOnFailure,omitempty"`
	Results       string `json:"results"`
	ResultsFormat Format `json:"resultsFormat"`
	FailedOnly    string `json:"failedOnly,omitempty"`

	Chunks []chunk `json:"chunks"`
}

const journalVersion = 1

// step is a line of the journal behind the first one.
type step struct {
	Chunk int       `json:"chunk"`
	At    time.Time `json:"at"`

	Sending bool   `json:"sending,omitempty"` // about to be handed over
	Refused bool   `json:"refused,omitempty"` // was not, for certain
	Ticket  string `json:"ticket,omitempty"`  // was handed over
	Unsent  bool   `json:"unsent,omitempty"`  // will not be: something before it failed
	Given   bool   `json:"givenUp,omitempty"` // whether it was is unknown, and stays so
	Done    bool   `json:"done,omitempty"`    // its results are written

	// With Done.
	Results int64   `json:"results,omitempty"` // size of the file of results
	Failed  int64   `json:"failed,omitempty"`  // size of the file of failures
	Counts  *Counts `json:"counts,omitempty"`
	Groups  []Group `json:"groups,omitempty"`
}

// state is what is known of a chunk.
type state struct {
	sending time.Time // zero: not tried, or over
	ticket  string
	unsent  bool
	givenUp bool
	counts  *Counts
	groups  []Group
}

// JournalPath returns where the journal of an input is.
func JournalPath(input string) string { return input + ".sheaf-run" }

// lockJournal keeps other processes from going on with the same submission.
func lockJournal(path string) (*flock.Flock, error) {
	l := flock.New(path, flock.SetFlag(os.O_CREATE|os.O_RDWR|private.NoFollow), flock.SetPermissions(0o600))
	ok, err := l.TryLock()
	switch {
	case err != nil:
		return nil, fmt.Errorf("lock %s: %w", path, err)
	case !ok:
		return nil, fmt.Errorf("another process is sending this file: it has locked %s", path)
	}
	return l, nil
}

// createJournal begins a submission. The first line is there as a whole, or there is no
// journal.
func createJournal(path string, h Header) (*journal, error) {
	temporary := path + ".new"
	lock, err := lockJournal(temporary) // the lock goes with the file, whatever its name
	if err != nil {
		return nil, err
	}
	j := &journal{Header: h, path: path, lock: lock, states: make([]state, len(h.Chunks))}
	fail := func(err error) (*journal, error) {
		if j.file != nil {
			j.file.Close()
		}
		return nil, errors.Join(err, os.Remove(temporary), lock.Unlock())
	}
	if _, err := os.Lstat(path); err == nil {
		return fail(fmt.Errorf("%s: %w", path, fs.ErrExist))
	}
	if j.file, err = private.Open(temporary, os.O_WRONLY); err != nil {
		return fail(err)
	}
	if err := errors.Join(j.file.Truncate(0), j.file.Chmod(0o600)); err != nil {
		return fail(err)
	}
	if err := j.append(h); err != nil {
		return fail(err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return fail(err)
	}
	return j, private.SyncDir(filepath.Dir(path))
}

// openJournal opens the journal of a submission that was not finished. It refuses a file that
// somebody else can have put there: the journal says which files are written and what is sent.
func openJournal(path string) (*journal, error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is nothing to resume: %s does not exist", path)
	}
	file, err := private.OpenSecret(path, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	lock, err := lockJournal(path)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	j := &journal{path: path, file: file, lock: lock}
	if err := j.read(); err != nil {
		return nil, errors.Join(err, j.close())
	}
	return j, nil
}

// read takes in what there is, and cuts a broken end off.
func (j *journal) read() error {
	in := bufio.NewReader(j.file)
	good := int64(0)
	for n := 0; ; n++ {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if n == 0 {
			if err := json.Unmarshal(line, &j.Header); err != nil || j.Version != journalVersion {
				return fmt.Errorf("%s is no journal that this version of sheaf can read", j.path)
			}
			j.states = make([]state, len(j.Chunks))
		} else {
			s := &step{}
			if err := json.Unmarshal(line, s); err != nil {
				if _, e := in.Peek(1); errors.Is(e, io.EOF) {
					break // a crash broke it off
				}
				return fmt.Errorf("%s:%d is damaged: %w", j.path, n+1, err)
			}
			if err := j.take(s); err != nil {
				return fmt.Errorf("%s:%d %w", j.path, n+1, err)
			}
		}
		good += int64(len(line))
	}
	if j.states == nil {
		return fmt.Errorf("%s is empty: remove it and begin anew", j.path)
	}
	if err := j.file.Truncate(good); err != nil {
		return err
	}
	_, err := j.file.Seek(good, io.SeekStart)
	return err
}

// take applies a step.
func (j *journal) take(s *step) error {
	if s.Chunk < 0 || s.Chunk >= len(j.states) {
		return fmt.Errorf("tells of batch %d, and there are %d", s.Chunk+1, len(j.states))
	}
	c := &j.states[s.Chunk]
	switch {
	case s.Done:
		c.counts, c.groups, j.ends, j.done = s.Counts, s.Groups, *s, s.Chunk+1
	case s.Given:
		c.givenUp = true
	case s.Unsent:
		c.unsent = true
	case s.Ticket != "":
		c.ticket, c.sending = s.Ticket, time.Time{}
	case s.Refused:
		c.sending = time.Time{}
	case s.Sending:
		if c.sending.IsZero() {
			c.sending = s.At
		}
	}
	return nil
}

// write notes a step, durably.
func (j *journal) write(s step) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	s.At = time.Now().UTC()
	if err := j.append(s); err != nil {
		return fmt.Errorf("write %s: %w", j.path, err)
	}
	return j.take(&s)
}

func (j *journal) append(value any) error {
	var line bytes.Buffer
	if err := json.NewEncoder(&line).Encode(value); err != nil {
		return err
	}
	if _, err := j.file.Write(line.Bytes()); err != nil {
		return err
	}
	return j.file.Sync()
}

// state returns what is known of a chunk.
func (j *journal) state(chunk int) state {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.states[chunk]
}

// close leaves the journal for another time.
func (j *journal) close() error {
	return errors.Join(j.file.Close(), j.lock.Unlock())
}

// remove ends a submission that is complete.
func (j *journal) remove() error {
	return errors.Join(os.Remove(j.path), j.file.Close(), j.lock.Unlock())
}

// key returns a chunk's deduplication key: the same whenever it is sent.
func (j *journal) key(chunk int) string {
	return uuid.NewSHA1(j.ID, fmt.Appendf(nil, "batch %d", chunk)).String()
}
