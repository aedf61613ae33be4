// Package database opens the database that holds the batches, together with the secret key that
// encrypts their credentials. It also removes expired batches.
//
// The database records the ID of its key. Open refuses a key that can't decrypt the credentials of
// unfinished batches, unless Options.AbandonCredentials is set.
package database

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"

	"github.com/sheafapi/sheaf/internal/secret"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/postgres"
	"github.com/sheafapi/sheaf/internal/storage/sqlite"
)

// Options name a database and its key.
type Options struct {
	// URL is sqlite:FILE, or postgres://USER:PASSWORD@HOST:PORT/NAME?PARAMETERS.
	URL string
	// NoMigrations leaves PostgreSQL's schema unchanged.
	NoMigrations bool
	// SecretKeyFile holds the secret key. With SQLite it may be empty: the default is FILE.key,
	// which is created together with the database.
	SecretKeyFile string
	// AbandonCredentials accepts a key that is not the database's. Open then ends all unfinished
	// batches.
	AbandonCredentials bool
	Logger             *slog.Logger
}

// Migrate brings the schema of a PostgreSQL database up to date and returns its version. Services
// that use the database keep running.
func Migrate(ctx context.Context, url string) (version int64, err error) {
	if !IsShared(url) {
		return 0, errors.New("only a PostgreSQL database can be migrated separately: postgres://USER@HOST/NAME")
	}
	address, _, err := withPassword(url)
	if err == nil {
		version, err = postgres.Migrate(ctx, address)
	}
	if err != nil {
		return 0, fmt.Errorf("database %s: %w", Name(url), err)
	}
	return version, nil
}

// Name returns a database's URL without password and parameters, for display.
func Name(database string) string {
	if !IsShared(database) {
		return database
	}
	u, err := url.Parse(database)
	if err != nil {
		return "postgres://" // the rest may contain the password
	}
	u.User, u.RawQuery, u.Fragment = url.User(u.User.Username()), "", ""
	return u.String()
}

// IsShared reports whether several services can share a database, that is, whether it is
// PostgreSQL.
func IsShared(url string) bool {
	return strings.HasPrefix(url, "postgres://") || strings.HasPrefix(url, "postgresql://")
}

// Open opens the database and its secret key. Close the database when done.
func Open(ctx context.Context, o Options) (storage.Storage, secret.Key, error) {
	file, isSQLite := strings.CutPrefix(o.URL, "sqlite:")
	if isSQLite && o.SecretKeyFile == "" {
		o.SecretKeyFile = file + ".key"
	}
	store, err := o.open(ctx)
	if err != nil {
		return nil, secret.Key{}, err
	}
	key, err := o.openKey(ctx, store)
	if err != nil {
		return nil, secret.Key{}, errors.Join(err, store.Close())
	}
	return store, key, nil
}

func (o *Options) open(ctx context.Context) (store storage.Storage, err error) {
	file, isSQLite := strings.CutPrefix(o.URL, "sqlite:")
	switch {
	case isSQLite && file != "":
		store, err = sqlite.Open(ctx, file, sqlite.Options{Logger: o.Logger})
	case IsShared(o.URL) && o.SecretKeyFile == "":
		err = errors.New("PostgreSQL needs a secret key file, the same on every node: create it once with: sheaf secret new FILE")
	case IsShared(o.URL):
		store, err = o.openPostgres(ctx)
	default:
		return nil, errors.New("the database must be sqlite:FILE, such as sqlite:sheaf.db, or postgres://USER@HOST/NAME")
	}
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", Name(o.URL), err)
	}
	return store, nil
}
