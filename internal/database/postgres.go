package database

import (
	"cmp"
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
	address, options, err := withPassword(o.URL)
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

// parameters are the parts of a PostgreSQL URL.
type parameters struct {
	address      *url.URL // without the parameters above
	options      postgres.Options
	passwordFile string // empty: none
}

// parse reads a PostgreSQL URL. Its errors don't quote the URL, because it may hold a password.
func parse(address string) (p parameters, err error) {
	if p.address, err = url.Parse(address); err != nil {
		return p, postgres.ErrNoURL
	}
	query, err := url.ParseQuery(p.address.RawQuery)
	if err != nil {
		return p, errors.New("the URL's parameters can't be read; every special character in them must be escaped (% is %25, & is %26, ; is %3B)")
	}
	own := map[string]string{}
	for _, name := range []string{connectionsParameter, acceleratorsParameter, passwordParameter} {
		switch texts, given := query[name]; {
		case !given:
		case len(texts) > 1:
			return p, fmt.Errorf("%s is given twice", name)
		case texts[0] == "":
			return p, fmt.Errorf("%s is empty", name)
		default:
			own[name] = texts[0]
			query.Del(name)
		}
	}
	if len(own) > 0 {
		p.address.RawQuery = query.Encode()
	}
	if text, given := own[connectionsParameter]; given {
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil || n < 1 {
			return p, fmt.Errorf("%s is %q but must be a number, at least 4", connectionsParameter, text)
		}
		p.options.Connections = int(n)
	}
	switch text := own[acceleratorsParameter]; text {
	case "", "on":
	case "off":
		p.options.NoAccelerators = true
	default:
		return p, fmt.Errorf("%s is %q but must be on or off", acceleratorsParameter, text)
	}
	if text, given := own[passwordParameter]; given {
		if p.passwordFile, err = private.Name(text); err != nil {
			return p, fmt.Errorf("%s %w", passwordParameter, err)
		}
	}
	return p, nil
}

// MaxConnections returns the maximum number of connections to the database that a URL names; 0 for
// SQLite. It returns an error, without the URL, if the URL of a PostgreSQL database is wrong.
func MaxConnections(address string) (int, error) {
	if !IsShared(address) {
		return 0, nil
	}
	p, err := parse(address)
	return cmp.Or(p.options.Connections, postgres.DefaultConnections), err
}

// withPassword returns the address for package postgres, with the password from the file, and the
// options that the URL sets.
func withPassword(address string) (string, postgres.Options, error) {
	p, err := parse(address)
	if err == nil && p.passwordFile != "" {
		if p.address.User, err = userWithPassword(p.address.User, p.passwordFile); err != nil {
			err = fmt.Errorf("%s: %w", passwordParameter, err)
		}
	}
	if err != nil {
		return "", postgres.Options{}, err
	}
	return p.address.String(), p.options, nil
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
