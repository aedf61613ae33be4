package pgtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Database makes a new empty database with a random name and returns its URL.
func (c *Cluster) Database(ctx context.Context) (string, error) {
	name := "sheaf_test_" + strings.ToLower(rand.Text()[:16])
	if err := c.exec(ctx, "CREATE DATABASE "+name); err != nil {
		return "", fmt.Errorf("create a database for a test: %w", err)
	}
	u := *c.url
	u.Path = "/" + name
	return u.String(), nil
}

// drop removes a database that Database made, whoever is connected to it.
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
