package sqlite

import (
	_ "embed"
	"errors"
	"fmt"

	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/internal/driver"
	"zombiezen.com/go/sqlite"
)

//go:embed queries.sql
var queryFile string

// queries are the statements of queries.sql by name.
var queries = driver.ParseQueries(queryFile)

// query runs the named statement and calls row, unless it is nil, for each row. The arguments are
// int, int64, bool, string or []byte (nil: NULL).
func query(c *sqlite.Conn, name string, row func(s *sqlite.Stmt) error, args ...any) error {
	s, err := c.Prepare(queries[name])
	if err != nil {
		return fmt.Errorf("statement %s: %w", name, err)
	}
	bind(s, args)
	for {
		ok, err := s.Step()
		if err == nil && !ok {
			return nil // a finished statement holds no locks; the next Prepare resets it
		}
		if err == nil && row != nil {
			err = row(s)
		}
		if errors.Is(err, errEnough) {
			return s.Reset()
		}
		if err != nil {
			_ = s.Reset() // returns the same error again if it was the statement's
			if storage.Certain(err) {
				return err
			}
			return fmt.Errorf("statement %s: %w", name, err)
		}
	}
}

// errEnough is returned by a row function that needs no more rows.
var errEnough = errors.New("enough rows")

func bind(s *sqlite.Stmt, args []any) {
	for i, arg := range args {
		switch v := arg.(type) {
		case int:
			s.BindInt64(i+1, int64(v))
		case int64:
			s.BindInt64(i+1, v)
		case bool:
			s.BindBool(i+1, v)
		case string:
			s.BindText(i+1, v)
		case []byte:
			if v == nil {
				s.BindNull(i + 1)
			} else {
				s.BindBytes(i+1, v)
			}
		default:
			panic(fmt.Sprintf("sqlite: argument %d has type %T", i+1, arg)) //nolint:forbidigo // a bug in this package
		}
	}
}

// queryInt returns the first column of a statement that returns at most one row; 0 if there is
// none.
func queryInt(c *sqlite.Conn, name string, args ...any) (n int64, err error) {
	err = query(c, name, func(s *sqlite.Stmt) error {
		n = s.ColumnInt64(0)
		return nil
	}, args...)
	return n, err
}

// blob returns a copy of a column's bytes; nil if it is NULL or empty.
func blob(s *sqlite.Stmt, column int) []byte {
	n := s.ColumnLen(column)
	if n == 0 {
		return nil
	}
	b := make([]byte, n)
	s.ColumnBytes(column, b)
	return b
}
