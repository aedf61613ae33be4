package database

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/secret"
	"github.com/sheafapi/sheaf/internal/storage"
)

// keySetting is the setting in which the database keeps the ID of its secret key.
const keySetting = "secret-key-id"

const (
	keyAdvice  = "restore the key file, or " + keyAbandon
	keyAbandon = "start once with --abandon-credentials to give up what those batches have not sent yet"
)

// openKey reads the secret key and checks that it is the database's. It creates the key of an
// SQLite database that has never had one.
func (o *Options) openKey(ctx context.Context, store storage.Secrets) (secret.Key, error) {
	name := Name(o.URL)
	id, err := store.Setting(ctx, keySetting)
	if err != nil {
		return secret.Key{}, fmt.Errorf("database %s: %w", name, err)
	}
	key, err := o.readKey(id)
	if err == nil && id == "" {
		// If several nodes start on a new database at the same time, the first one sets the key.
		id, err = store.InitSetting(ctx, keySetting, key.ID())
	}
	if err != nil {
		return secret.Key{}, err
	}
	missing, err := missingKeys(ctx, store, key)
	switch {
	case err != nil:
		return secret.Key{}, fmt.Errorf("database %s: %w", name, err)
	case len(missing) == 0 && id == key.ID():
		return key, nil
	case len(missing) == 0 && key.Has(id):
		o.Logger.Info("new credentials are encrypted with another secret key", "key", key, "before", id)
		return key, o.putKey(ctx, store, key)
	case o.AbandonCredentials:
	case !key.Has(id):
		return secret.Key{}, fmt.Errorf("the secret key in %s is not the key of the database %s: %s", o.SecretKeyFile, name, keyAdvice)
	default:
		return secret.Key{}, fmt.Errorf("unfinished batches in the database %s need the secret key %s, which is no longer in %s: add its line again below the first one (the last step of sheaf keys rotate-secret saved it in %s.old), or %s",
			name, strings.Join(missing, " and "), o.SecretKeyFile, o.SecretKeyFile, keyAbandon)
	}
	n, err := store.Abandon(ctx, batch.OutcomeUnknown, "the batch's credential was abandoned together with its secret key")
	if err != nil {
		return secret.Key{}, fmt.Errorf("database %s: %w", name, err)
	}
	o.Logger.Warn("credentials abandoned; requests that were not sent are NOT_EXECUTED", "batches", n)
	return key, o.putKey(ctx, store, key)
}

// putKey stores the ID of the key that encrypts new credentials.
func (o *Options) putKey(ctx context.Context, store storage.Secrets, key secret.Key) error {
	if err := store.PutSetting(ctx, keySetting, key.ID()); err != nil {
		return fmt.Errorf("database %s: %w", Name(o.URL), err)
	}
	return nil
}

// missingKeys returns the IDs of keys that unfinished batches need and the key file doesn't hold.
func missingKeys(ctx context.Context, store storage.Secrets, key secret.Key) (ids []string, err error) {
	seals, err := store.Seals(ctx, secret.MarkSize)
	for _, s := range seals {
		if id := secret.SealedBy(s); id != "" && !key.Has(id) {
			ids = append(ids, id)
		}
	}
	return ids, err
}

// readKey reads the key file. If the file is missing, it creates a key for an SQLite database that
// has none or whose credentials are abandoned. It never creates one for a shared database, because
// each node would create its own. id is the ID of the key that the database records; empty: none.
func (o *Options) readKey(id string) (secret.Key, error) {
	key, err := secret.Read(o.SecretKeyFile)
	missing, shared := errors.Is(err, fs.ErrNotExist), IsShared(o.URL)
	switch {
	case missing && shared && id == "":
		return key, fmt.Errorf("the secret key file %s is missing; nodes that share a database need the same one: create it once with: sheaf secret new %s", o.SecretKeyFile, o.SecretKeyFile)
	case missing && !shared && (id == "" || o.AbandonCredentials):
		key, err = secret.Create(o.SecretKeyFile)
	case missing:
		advice := keyAdvice
		if shared {
			advice = "restore the key file, or create another with: sheaf secret new " + o.SecretKeyFile + ", and " + keyAbandon
		}
		return key, fmt.Errorf("the secret key file %s is missing, but the database %s holds batches whose credentials are encrypted with it: %s", o.SecretKeyFile, Name(o.URL), advice)
	}
	if err != nil {
		return key, fmt.Errorf("secret key: %w", err)
	}
	return key, nil
}
