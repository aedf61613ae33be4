package sqlite

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/sheafapi/sheaf/internal/storage"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

// Limits of one call of Purge, so that no other call waits long for it.
const (
	purgeBatches = 16
	purgeBytes   = 4 << 20 // of answers' bodies
	vacuumPages  = 1024    // pages given back to the file system
)

// Purge implements storage.Storage. Later rows reuse free pages. If more than a quarter of the file
// is free, Purge shortens the file.
func (db *DB) Purge(ctx context.Context, retention time.Duration) (more bool, err error) {
	err = db.write(ctx, "remove expired batches", func(c *sqlite.Conn) error {
		more = false
		bytes := int64(purgeBytes)
		now := db.now()
		if err := query(c, "date_ended", nil, now.UnixMilli(), purgeBatches); err != nil {
			return err
		}
		for range purgeBatches {
			left, gone, err := purgeOne(c, now.Add(-retention).UnixMilli(), bytes)
			if err != nil {
				return err
			}
			if !gone {
				if err := query(c, "delete_holds", nil, now.UnixMilli()); err != nil {
					return err
				}
				if err := query(c, "forget_credentials", nil, now.Add(-storage.CredentialMemory).UnixMilli()); err != nil {
					return err
				}
				more, err = shrink(c)
				return err
			}
			if bytes = left; bytes <= 0 {
				break
			}
		}
		more = true
		return nil
	})
	return more, err
}

// purgeOne removes one expired batch, or as much of it as the byte limit allows, and returns the
// rest of the limit. A batch that is removed in parts is hidden first. gone is false if no batch
// has expired.
func purgeOne(c *sqlite.Conn, before, bytes int64) (left int64, gone bool, err error) {
	var id, queue, size int64
	err = query(c, "expired", func(s *sqlite.Stmt) error {
		id, queue, size = s.ColumnInt64(0), s.ColumnInt64(1), s.ColumnInt64(2)
		return nil
	}, before)
	if err != nil || id == 0 {
		return 0, false, err
	}
	last := id*512 + 511
	err = query(c, "mark_sizes", func(s *sqlite.Stmt) error {
		if bytes <= 0 {
			last = s.ColumnInt64(0) - 1
			return errEnough
		}
		bytes -= s.ColumnInt64(1)
		return nil
	}, id)
	if err != nil {
		return 0, false, err
	}
	if err := query(c, "delete_marks", nil, id*512, last); err != nil {
		return 0, false, err
	}
	if last < id*512+511 {
		return 0, true, query(c, "hide", nil, id)
	}
	for _, statement := range []string{"delete_requests", "delete_delivery", "delete_batch"} {
		if err := query(c, statement, nil, id); err != nil {
			return 0, false, err
		}
	}
	if err := query(c, "empty_queue", nil, queue, size); err != nil {
		return 0, false, err
	}
	return bytes, true, query(c, "delete_queue", nil, queue)
}

// shrink gives some free pages back to the file system if they are more than a quarter of the file.
func shrink(c *sqlite.Conn) (more bool, err error) {
	free, err := pragmaInt(c, "freelist_count")
	if err != nil {
		return false, err
	}
	pages, err := pragmaInt(c, "page_count")
	if err != nil {
		return false, err
	}
	if free < vacuumPages || free < pages/4 {
		return false, nil
	}
	return true, sqlitex.ExecuteTransient(c, fmt.Sprintf("PRAGMA incremental_vacuum(%d)", vacuumPages), nil)
}

// Setting implements storage.Storage.
func (db *DB) Setting(ctx context.Context, name string) (value string, err error) {
	err = db.read(ctx, "read a setting", func(c *sqlite.Conn) error {
		return query(c, "setting", func(s *sqlite.Stmt) error {
			value = s.ColumnText(0)
			return nil
		}, name)
	})
	return value, err
}

// Seals implements storage.Storage.
func (db *DB) Seals(ctx context.Context, n int) (out [][]byte, err error) {
	err = db.read(ctx, "find out which keys credentials are sealed with", func(c *sqlite.Conn) error {
		return query(c, "seals", func(s *sqlite.Stmt) error {
			seal := make([]byte, s.ColumnLen(0))
			s.ColumnBytes(0, seal)
			out = append(out, seal)
			return nil
		}, n)
	})
	return out, err
}

// PutSetting implements storage.Storage.
func (db *DB) PutSetting(ctx context.Context, name, value string) error {
	return db.write(ctx, "store a setting", func(c *sqlite.Conn) error {
		return query(c, "put_setting", nil, name, value)
	})
}

// InitSetting implements storage.Storage.
func (db *DB) InitSetting(ctx context.Context, name, value string) (stored string, err error) {
	err = db.write(ctx, "store a setting", func(c *sqlite.Conn) error {
		return query(c, "init_setting", func(s *sqlite.Stmt) error {
			stored = s.ColumnText(0)
			return nil
		}, name, value)
	})
	if err != nil {
		return "", err
	}
	return stored, nil
}

// Ping implements storage.Storage. It only reads, because it may be called many times a second.
// After a failed change, it commits, to prove that the file can be written again.
func (db *DB) Ping(ctx context.Context) error {
	if !db.writer.failing.Load() {
		return db.read(ctx, "ask the database", func(c *sqlite.Conn) error {
			_, err := queryInt(c, "setting", "ping")
			return err
		})
	}
	// The value must be new, because SQLite doesn't write an unchanged one.
	return db.PutSetting(ctx, "ping", strconv.FormatInt(time.Now().UnixNano(), 10))
}
