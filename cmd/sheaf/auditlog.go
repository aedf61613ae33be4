package main

import (
	"fmt"
	"os"
	"sync"
)

// auditLog is a file that lines are appended to. It is safe for concurrent use.
type auditLog struct {
	name string

	mu   sync.Mutex
	file *os.File
}

// openAuditLog opens the file. A new file is readable only by its owner.
func openAuditLog(name string) (*auditLog, error) {
	l := &auditLog{name: name}
	return l, l.reopen()
}

// reopen opens the file again, for example after it was rotated. After an error, the old file stays in
// use.
func (l *auditLog) reopen() error {
	file, err := os.OpenFile(l.name, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("the audit log can't be opened: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file != nil {
		_ = l.file.Close()
	}
	l.file = file
	return nil
}

func (l *auditLog) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Write(line)
}

func (l *auditLog) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Close()
}
