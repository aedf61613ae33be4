package pgtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Database creates an empty database with a random name and returns its URL.
func (c *Cluster) Database(ctx context.Context) (string, error) { return c.create(ctx, "template1") }

// create creates a database as a copy of another one, which must have no connections.
func (c *Cluster) create(ctx context.Context, template string) (string, error) {
	name := "sheaf_test_" + strings.ToLower(rand.Text()[:16])
	if err := c.exec(ctx, "CREATE DATABASE "+name+" TEMPLATE "+template); err != nil {
		return "", fmt.Errorf("create a database for a test: %w", err)
	}
	u := *c.url
	u.Path = "/" + name
	return u.String(), nil
}

// drop removes a database and ends all connections to it.
func (c *Cluster) drop(ctx context.Context, url string) error {
	config, err := pgx.ParseConfig(url)
	if err != nil {
		return err
	}
	return c.exec(ctx, "DROP DATABASE "+config.Database+" WITH (FORCE)")
}

// exec runs a statement as the superuser.
func (c *Cluster) exec(ctx context.Context, sql string) error {
	conn, err := pgx.Connect(ctx, c.URL())
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, sql)
	return err
}
