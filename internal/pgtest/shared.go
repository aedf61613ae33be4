package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"
)

// Environment is the variable with the URL of a server for the tests. Its user must be allowed to
// create databases. Without it the tests start their own server.
const Environment = "SHEAF_TEST_POSTGRES"

var shared struct {
	sync.Mutex
	cluster   *Cluster
	err       error
	templates []string // their URLs
}

// Shared returns the server that all tests of a test binary share. Main stops it.
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

// named returns the server that the environment names, or nil.
func named() (*Cluster, error) {
	address := os.Getenv(Environment)
	if address == "" {
		return nil, nil
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return nil, fmt.Errorf("%s must be a URL such as postgres://user:password@host:5432/postgres", Environment)
	}
	return &Cluster{url: u}, nil
}

// Main runs the tests of a binary. Call it from TestMain. After the tests, Main drops the templates and
// stops the shared server, if the tests started one.
func Main(m *testing.M) (code int) {
	defer func() {
		shared.Lock()
		defer shared.Unlock()
		if shared.cluster == nil {
			return
		}
		var all []error
		for _, address := range shared.templates {
			all = append(all, shared.cluster.drop(context.Background(), address))
		}
		if err := errors.Join(append(all, shared.cluster.Close())...); err != nil {
			fmt.Fprintln(os.Stderr, "stop PostgreSQL:", err)
			code = max(code, 1)
		}
	}()
	return m.Run()
}

// NewDatabase returns the URL of a new empty database on the shared server. It is dropped at the end of
// the test. Without PostgreSQL, the test fails.
func NewDatabase(t testing.TB) string {
	t.Helper()
	return newDatabase(t, func(context.Context, *Cluster) (string, error) { return "template1", nil })
}

// Template is a database on the shared server that tests copy. Copying is much faster than
// preparing a database for each test.
type Template struct {
	// Prepare fills the empty database. It is called once, and must close its connections.
	Prepare func(ctx context.Context, url string) error

	once sync.Once
	name string
	err  error
}

// New returns the URL of a new copy, which is dropped at the end of the test.
func (p *Template) New(t testing.TB) string {
	t.Helper()
	return newDatabase(t, func(ctx context.Context, c *Cluster) (string, error) {
		p.once.Do(func() { p.err = p.prepare(ctx, c) })
		return p.name, p.err
	})
}

func (p *Template) prepare(ctx context.Context, c *Cluster) error {
	address, err := c.Database(ctx)
	if err != nil {
		return err
	}
	shared.Lock()
	shared.templates = append(shared.templates, address)
	shared.Unlock()
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	p.name = u.Path[1:]
	return p.Prepare(ctx, address)
}

// newDatabase creates a database for a test, as a copy of a template.
func newDatabase(t testing.TB, template func(context.Context, *Cluster) (name string, err error)) string {
	t.Helper()
	c, err := Shared()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	name, err := template(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	address, err := c.create(ctx, name)
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
