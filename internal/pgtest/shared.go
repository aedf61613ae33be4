package pgtest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"
)

// Environment is the variable that names a server for tests to use, by a URL whose user
// may create databases. Without it they start their own.
const Environment = "SHEAF_TEST_POSTGRES"

var shared struct {
	sync.Mutex
	cluster *Cluster
	err     error
}

// Shared returns the server that all tests of one test binary share. Main stops it.
func Shared() (*Cluster, error) {
	shared.Lock()
	defer shared.Unlock()
	if shared.cluster == nil && shared.err == nil {
		shared.cluster, shared.err = named()
		if shared.cluster == nil && shared.err == nil {
			shared.cluster, shared.err = Start(context.Background(), Options{})
		}
	}
	return shared.cluster, shared.err
}

// named returns the server that the environment names, nil if it names none.
func named() (*Cluster, error) {
	address := os.Getenv(Environment)
	if address == "" {
		return nil, nil
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return nil, fmt.Errorf("%s has to be a URL such as postgres://user:password@host:5432/postgres", Environment)
	}
	return &Cluster{url: u}, nil
}

// Main runs the tests of a binary, to be called by its TestMain, and then stops the
// shared server if one was started.
func Main(m *testing.M) (code int) {
	defer func() {
		shared.Lock()
		defer shared.Unlock()
		if shared.cluster == nil {
			return
		}
		if err := shared.cluster.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "stop PostgreSQL:", err)
			code = max(code, 1)
		}
	}()
	return m.Run()
}

// NewDatabase returns the URL of a new empty database on the shared server. It is
// dropped at the test's end. A missing PostgreSQL fails the test.
func NewDatabase(t testing.TB) string {
	t.Helper()
	c, err := Shared()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	address, err := c.Database(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := c.drop(ctx, address); err != nil {
			t.Errorf("drop the database of the test: %v", err)
		}
	})
	return address
}
