package sheaf

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strconv"
	"strings"

	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/private"
	"github.com/sheafapi/sheaf/internal/secret"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/postgres"
	"github.com/sheafapi/sheaf/internal/storage/sqlite"
)

// keySetting is where the database keeps the id of its secret key.
const keySetting = "secret-key-id"

// Migrate brings the schema of a PostgreSQL database up to date, as the start of a
// service does, and returns its version. Services that run meanwhile go on. An SQLite
// database needs it not: the one process that owns it does that at its start.
func Migrate(ctx context.Context, database string) (version int64, err error) {
	if !isPostgres(database) {
		return 0, errors.New("only a PostgreSQL database is brought up to date apart from a service: postgres://USER@HOST/NAME")
	}
	address, _, err := ownParameters(database)
	if err == nil {
		version, err = postgres.Migrate(ctx, address)
	}
	if err != nil {
		return 0, fmt.Errorf("database %s: %w", DatabaseName(database), err)
	}
	return version, nil
}

// DatabaseName returns what names a database in Database.URL without the password
// that it may hold, to be shown.
func DatabaseName(database string) string {
	if !isPostgres(database) {
		return database
	}
	u, err := url.Parse(database)
	if err != nil {
		return "postgres://" // the rest may hold the password
	}
	u.User, u.RawQuery, u.Fragment = url.User(u.User.Username()), "", ""
	return u.String()
}

func isPostgres(database string) bool {
	return strings.HasPrefix(database, "postgres://") || strings.HasPrefix(database, "postgresql://")
}

// openStorage opens the database and the key that its credentials are sealed with.
func openStorage(ctx context.Context, o *Options) (storage.Storage, secret.Key, error) {
	store, err := openDatabase(ctx, o)
	if err != nil {
		return nil, secret.Key{}, err
	}
	key, err := openKey(ctx, store, o)
	if err != nil {
		return nil, secret.Key{}, errors.Join(err, store.Close())
	}
	return store, key, nil
}

func openDatabase(ctx context.Context, o *Options) (store storage.Storage, err error) {
	file, isSQLite := strings.CutPrefix(o.Database.URL, "sqlite:")
	switch {
	case isSQLite && file != "":
		fill(&o.Database.SecretKeyFile, file+".key")
		store, err = sqlite.Open(ctx, file, sqlite.Options{Logger: o.Logger})
	case isPostgres(o.Database.URL) && o.Database.SecretKeyFile == "":
		err = errors.New("a secret key file is required with PostgreSQL, the same on every node: make it once with: sheaf secret new FILE")
	case isPostgres(o.Database.URL):
		store, err = openPostgres(ctx, o)
	default:
		return nil, errors.New("the database has to be sqlite:FILE, such as sqlite:sheaf.db, or postgres://USER@HOST/NAME")
	}
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", DatabaseName(o.Database.URL), err)
	}
	return store, nil
}

func openPostgres(ctx context.Context, o *Options) (storage.Storage, error) {
	address, options, err := ownParameters(o.Database.URL)
	if err != nil {
		return nil, err
	}
	options.NoMigrations, options.Logger = o.Database.NoMigrations, o.Logger
	return postgres.Open(ctx, address, options)
}

// The parameters of a PostgreSQL URL that libpq does not have. The first one is pgx's.
const (
	connectionsParameter  = "pool_max_conns"
	acceleratorsParameter = "sheaf_accelerators"
	passwordParameter     = "sheaf_password_file"
)

// maxPassword is the most bytes of a password file.
const maxPassword = 4096

// ownParameters removes the parameters above from a PostgreSQL URL and returns what they say. It
// puts the password of the file into the URL.
func ownParameters(address string) (string, postgres.Options, error) {
	var o postgres.Options
	u, err := url.Parse(address)
	if err != nil {
		return address, o, nil // package postgres explains the error without the password
	}
	query := u.Query()
	take := func(name string) string {
		text := query.Get(name)
		query.Del(name)
		return text
	}
	connections, accelerators, file := take(connectionsParameter), take(acceleratorsParameter), take(passwordParameter)
	if connections == "" && accelerators == "" && file == "" {
		return address, o, nil
	}
	if connections != "" {
		if o.Connections, err = strconv.Atoi(connections); err != nil || o.Connections < 1 {
			return "", o, fmt.Errorf("%s is %q and must be a number, at least 4", connectionsParameter, connections)
		}
	}
	switch accelerators {
	case "", "on":
	case "off":
		o.NoAccelerators = true
	default:
		return "", o, fmt.Errorf("%s is %q and must be on or off", acceleratorsParameter, accelerators)
	}
	if file != "" {
		if u.User, err = userWithPassword(u.User, file); err != nil {
			return "", o, fmt.Errorf("%s: %w", passwordParameter, err)
		}
	}
	u.RawQuery = query.Encode()
	return u.String(), o, nil
}

// userWithPassword returns a user with the password in a file.
func userWithPassword(user *url.Userinfo, file string) (*url.Userinfo, error) {
	if _, given := user.Password(); given || user.Username() == "" {
		return nil, errors.New("the URL must have a user and no password: postgres://USER@HOST:PORT/NAME")
	}
	text, err := private.Read(file, maxPassword)
	if err != nil {
		return nil, err
	}
	password := strings.TrimRight(string(text), "\r\n")
	if password == "" {
		return nil, fmt.Errorf("%s is empty", file)
	}
	return url.UserPassword(user.Username(), password), nil
}

// openKey reads the secret key, or makes it if an embedded database has never had one,
// and sees to it that it is the database's.
func openKey(ctx context.Context, store storage.Secrets, o *Options) (secret.Key, error) {
	name := DatabaseName(o.Database.URL)
	id, err := store.Setting(ctx, keySetting)
	if err != nil {
		return secret.Key{}, fmt.Errorf("database %s: %w", name, err)
	}
	key, err := readKey(o, id)
	if err == nil && id == "" {
		// Of nodes that start at once on a new database, one decides.
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
		o.Logger.Info("credentials are encrypted with another secret key from now on", "key", key, "before", id)
		return key, putKey(ctx, store, key, name)
	case o.Database.AbandonCredentials:
	case !key.Has(id):
		return secret.Key{}, fmt.Errorf("the secret key in %s is not the one that the database %s was made with: %s", o.Database.SecretKeyFile, name, keyAdvice)
	default:
		return secret.Key{}, fmt.Errorf("batches in the database %s that have not ended need the secret key %s, which is not in %s any more: add its line again below the first one (the last step of sheaf keys rotate-secret has put it into %s.old), or %s",
			name, strings.Join(missing, " and "), o.Database.SecretKeyFile, o.Database.SecretKeyFile, keyAbandon)
	}
	n, err := store.Abandon(ctx, batch.OutcomeUnknown, "the credential that was stored with the batch was abandoned with its secret key")
	if err != nil {
		return secret.Key{}, fmt.Errorf("database %s: %w", name, err)
	}
	o.Logger.Warn("credentials abandoned; what was not sent is NOT_EXECUTED", "batches", n)
	return key, putKey(ctx, store, key, name)
}

// putKey stores the id of the key that seals from now on.
func putKey(ctx context.Context, store storage.Secrets, key secret.Key, name string) error {
	if err := store.PutSetting(ctx, keySetting, key.ID()); err != nil {
		return fmt.Errorf("database %s: %w", name, err)
	}
	return nil
}

// missingKeys returns the ids of the keys that batches need which have not ended, and that
// the key file does not hold.
func missingKeys(ctx context.Context, store storage.Secrets, key secret.Key) (ids []string, err error) {
	seals, err := store.Seals(ctx, secret.MarkSize)
	for _, s := range seals {
		if id := secret.SealedBy(s); id != "" && !key.Has(id) {
			ids = append(ids, id)
		}
	}
	return ids, err
}

const (
	keyAdvice  = "restore the key file, or " + keyAbandon
	keyAbandon = "start once with --abandon-credentials to give up what those batches have not sent yet"
)

// readKey reads the key file. Beside an embedded database that knows no key, or whose key
// is given up, it is made; for nodes that share a database it never is, as each would make
// its own. id is the key that the database knows, empty if none.
func readKey(o *Options, id string) (secret.Key, error) {
	key, err := secret.Read(o.Database.SecretKeyFile)
	missing := errors.Is(err, fs.ErrNotExist)
	switch {
	case missing && isPostgres(o.Database.URL) && id == "":
		return key, fmt.Errorf("the secret key file %s is missing; nodes that share a database need the same one: make it once with: sheaf secret new %s", o.Database.SecretKeyFile, o.Database.SecretKeyFile)
	case missing && !isPostgres(o.Database.URL) && (id == "" || o.Database.AbandonCredentials):
		key, err = secret.Create(o.Database.SecretKeyFile)
	case missing:
		advice := keyAdvice
		if isPostgres(o.Database.URL) {
			advice = "restore the key file, or make another with: sheaf secret new " + o.Database.SecretKeyFile + ", and " + keyAbandon
		}
		return key, fmt.Errorf("the secret key file %s is missing, but the database %s holds batches whose credentials are encrypted with it: %s", o.Database.SecretKeyFile, DatabaseName(o.Database.URL), advice)
	}
	if err != nil {
		return key, fmt.Errorf("secret key: %w", err)
	}
	return key, nil
}
