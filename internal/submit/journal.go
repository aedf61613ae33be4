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

// journal records what a submission has done, in a file next to the input. The first line is the header,
// and each of the others is an entry, in JSON. Each entry is synced to disk before the submission
// continues. An incomplete line at the end, which a crash leaves, is ignored.
type journal struct {
	Header
	path string
	file *os.File
	lock *flock.Flock

	mu     sync.Mutex // guards the fields below and writes to file
	states []chunkState
	done   int   // how many chunks have had their results written
	ends   entry // the entry of the last such chunk, which has the sizes of the files
}

// Header describes a submission.
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
	Blank        int  `json:"blank,omitempty"` // how many blank rows were skipped

	Choices
	Results       string `json:"results"`
	ResultsFormat Format `json:"resultsFormat"`
	FailedOnly    string `json:"failedOnly,omitempty"`

	Chunks []chunk `json:"chunks"`
}

const journalVersion = 1

// entry is a line of the journal after the header.
type entry struct {
	Chunk int       `json:"chunk"`
	At    time.Time `json:"at"`

	Sending bool   `json:"sending,omitempty"` // the batch is about to be created
	Refused bool   `json:"refused,omitempty"` // the batch was certainly not created
	Ticket  string `json:"ticket,omitempty"`  // the batch was created
	Unsent  bool   `json:"unsent,omitempty"`  // the batch won't be created, because an earlier request failed
	Given   bool   `json:"givenUp,omitempty"` // it is unknown whether the batch was created, and the user gave up
	Done    bool   `json:"done,omitempty"`    // the results are written

	// These fields are set with Done.
	Results int64   `json:"results,omitempty"` // the size of the results file, in bytes
	Failed  int64   `json:"failed,omitempty"`  // the size of the file of failed requests, in bytes
	Counts  *Counts `json:"counts,omitempty"`
	Groups  []Group `json:"groups,omitempty"`
}

// chunkState is what the journal says about a chunk.
type chunkState struct {
	sending time.Time // when the first attempt whose outcome is unknown began; zero: there is none
	ticket  string
	unsent  bool
	givenUp bool
	counts  *Counts
	groups  []Group
}

// JournalPath returns the path of an input's journal.
func JournalPath(input string) string { return input + ".sheaf-run" }

// lockJournal keeps other processes from running the same submission.
func lockJournal(path string) (*flock.Flock, error) {
	l := flock.New(path, flock.SetFlag(os.O_CREATE|os.O_RDWR|private.NoFollow), flock.SetPermissions(0o600))
	ok, err := l.TryLock()
	switch {
	case err != nil:
		return nil, fmt.Errorf("lock %s: %w", path, err)
	case !ok:
		return nil, fmt.Errorf("another process is submitting this file: it has locked %s", path)
	}
	return l, nil
}

// createJournal creates a journal atomically with its header.
func createJournal(path string, h Header) (*journal, error) {
	temporary := path + ".new"
	lock, err := lockJournal(temporary) // the lock stays with the file when it is renamed
	if err != nil {
		return nil, err
	}
	j := &journal{Header: h, path: path, lock: lock, states: make([]chunkState, len(h.Chunks))}
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

// openJournal opens the journal of an unfinished submission. It refuses a file that another user may
// have planted, because the journal determines which files are written and what is sent.
func openJournal(path string) (*journal, error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("nothing to resume: %s does not exist", path)
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

// read reads the journal and truncates an incomplete line at its end.
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
				return fmt.Errorf("%s is not a journal that this version of sheaf can read", j.path)
			}
			j.states = make([]chunkState, len(j.Chunks))
		} else {
			e := &entry{}
			if err := json.Unmarshal(line, e); err != nil {
				if _, end := in.Peek(1); errors.Is(end, io.EOF) {
					break // a crash interrupted the write
				}
				return fmt.Errorf("%s:%d is damaged: %w", j.path, n+1, err)
			}
			if err := j.apply(e); err != nil {
				return fmt.Errorf("%s:%d %w", j.path, n+1, err)
			}
		}
		good += int64(len(line))
	}
	if j.states == nil {
		return fmt.Errorf("%s is empty: delete it and start over", j.path)
	}
	if err := j.file.Truncate(good); err != nil {
		return err
	}
	_, err := j.file.Seek(good, io.SeekStart)
	return err
}

// apply applies an entry to the state of its chunk.
func (j *journal) apply(e *entry) error {
	if e.Chunk < 0 || e.Chunk >= len(j.states) {
		return fmt.Errorf("names batch %d of %d", e.Chunk+1, len(j.states))
	}
	c := &j.states[e.Chunk]
	switch {
	case e.Done:
		c.counts, c.groups, j.ends, j.done = e.Counts, e.Groups, *e, e.Chunk+1
	case e.Given:
		c.givenUp = true
	case e.Unsent:
		c.unsent = true
	case e.Ticket != "":
		c.ticket, c.sending = e.Ticket, time.Time{}
	case e.Refused:
		c.sending = time.Time{}
	case e.Sending:
		if c.sending.IsZero() {
			c.sending = e.At
		}
	}
	return nil
}

// write appends an entry durably, and applies it.
func (j *journal) write(e entry) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	e.At = time.Now().UTC()
	if err := j.append(e); err != nil {
		return fmt.Errorf("write %s: %w", j.path, err)
	}
	return j.apply(&e)
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

// state returns the state of a chunk.
func (j *journal) state(chunk int) chunkState {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.states[chunk]
}

// close closes the journal and keeps it.
func (j *journal) close() error {
	return errors.Join(j.file.Close(), j.lock.Unlock())
}

// remove removes the journal of a finished submission.
func (j *journal) remove() error {
	return errors.Join(os.Remove(j.path), j.file.Close(), j.lock.Unlock())
}

// key returns a chunk's deduplication key, which never changes.
func (j *journal) key(chunk int) string {
	return uuid.NewSHA1(j.ID, fmt.Appendf(nil, "batch %d", chunk)).String()
}
