package database

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/sheafapi/sheaf/internal/private"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/storage/postgres"
)

func (o *Options) openPostgres(ctx context.Context) (storage.Storage, error) {
	address, options, err := ownParameters(o.URL)
	if err != nil {
		return nil, err
	}
	options.NoMigrations, options.Logger = o.NoMigrations, o.Logger
	return postgres.Open(ctx, address, options)
}

// The parameters of a PostgreSQL URL that libpq does not have. The first one is pgx's.
const (
	connectionsParameter  = "pool_max_conns"
	acceleratorsParameter = "sheaf_accelerators"
	passwordParameter     = "sheaf_password_file"
)

// maxPassword is the maximum size of a password file, in bytes.
const maxPassword = 4096

// ownParameters removes the parameters above from a PostgreSQL URL, and returns the options that
// they set. It adds the password from the file to the URL.
func ownParameters(address string) (string, postgres.Options, error) {
	var o postgres.Options
	u, err := url.Parse(address)
	if err != nil {
		return address, o, nil //nolint:nilerr // package postgres explains the error without the password
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
			return "", o, fmt.Errorf("%s is %q but must be a number, at least 4", connectionsParameter, connections)
		}
	}
	switch accelerators {
	case "", "on":
	case "off":
		o.NoAccelerators = true
	default:
		return "", o, fmt.Errorf("%s is %q but must be on or off", acceleratorsParameter, accelerators)
	}
	if file != "" {
		if u.User, err = userWithPassword(u.User, file); err != nil {
			return "", o, fmt.Errorf("%s: %w", passwordParameter, err)
		}
	}
	u.RawQuery = query.Encode()
	return u.String(), o, nil
}

// userWithPassword returns the user with the password from a file.
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
