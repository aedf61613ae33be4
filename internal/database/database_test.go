package database

import (
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sheafapi/sheaf/internal/storage/postgres"
)

func TestOwnParameters(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	write := func(text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("p@ss/w#rd%\r\n", 0o440)
	t.Setenv("CREDENTIALS_DIRECTORY", filepath.Dir(file))
	for address, want := range map[string]struct {
		bare    string
		options postgres.Options
	}{
		"postgres://u:p@db/n?sslmode=disable&a=%20b":                             {"postgres://u:p@db/n?sslmode=disable&a=%20b", postgres.Options{}},
		"postgres://u:p@db/n?pool_max_conns=20&sslmode=disable":                  {"postgres://u:p@db/n?sslmode=disable", postgres.Options{Connections: 20}},
		"postgres://u:p@a:1,b:2/n?sheaf_accelerators=off":                        {"postgres://u:p@a:1,b:2/n", postgres.Options{NoAccelerators: true}},
		"postgres://sheaf@db:5432/n?sslmode=require&sheaf_password_file=" + file: {"postgres://sheaf:p%40ss%2Fw%23rd%25@db:5432/n?sslmode=require", postgres.Options{}},
		"postgres://u@db/n?sheaf%5Fpassword%5Ffile=" + url.QueryEscape(file):     {"postgres://u:p%40ss%2Fw%23rd%25@db/n", postgres.Options{}},
		"postgres://u@db/n?sheaf_password_file=$CREDENTIALS_DIRECTORY/password":  {"postgres://u:p%40ss%2Fw%23rd%25@db/n", postgres.Options{}},
		"postgres://u@db/n?sheaf_password_file=%24CREDENTIALS_DIRECTORY%2Fpassword&sslmode=disable": {
			"postgres://u:p%40ss%2Fw%23rd%25@db/n?sslmode=disable", postgres.Options{},
		},
	} {
		bare, options, err := withPassword(address)
		if bare != want.bare || options != want.options || err != nil {
			t.Errorf("%s: got %s, %+v, %v", address, bare, options, err)
		}
	}
	for address, says := range map[string]string{
		"postgres://u@db/n?pool_max_conns=many":               "must be a number",
		"postgres://u@db/n?pool_max_conns=4294967297":         "must be a number",
		"postgres://u@db/n?sheaf_accelerators=no":             "must be on or off",
		"postgres://u:x@db/n?sheaf_password_file=" + file:     "no password",
		"postgres://db/n?sheaf_password_file=" + file:         "must have a user",
		"postgres://u@db/n?sheaf_password_file=" + file + "x": "no such file",

		"postgres://u:hunter2@db/n?pool_max_conns=8&pool_max_conns=9": "pool_max_conns is given twice",
		"postgres://u:hunter2@db/n?sheaf_accelerators=":               "sheaf_accelerators is empty",
		"postgres://u:hunter2@db/n?sheaf_password_file":               "sheaf_password_file is empty",
		"postgres://u@db/n?password=hunter2%zz&pool_max_conns=9":      "parameters can't be read",
		"postgres://u@db/n?password=hunter2;pool_max_conns=9":         "parameters can't be read",
		"postgres://u:hunter2%@db/n?pool_max_conns=9":                 "can't be read as a URL",
	} {
		if _, _, err := withPassword(address); err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "%zz") {
			t.Errorf("%s: %v, want %q", address, err, says)
		}
	}
	for mode, text := range map[os.FileMode]string{0o644: "secret", 0o660: "secret", 0o600: "\n"} {
		write(text, mode)
		if _, _, err := withPassword("postgres://u@db/n?sheaf_password_file=" + file); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("mode %o with %q: %v", mode, text, err)
		}
	}
}

func TestMaxConnections(t *testing.T) {
	for address, want := range map[string]int{
		"sqlite:sheaf.db": 0, "postgres://u@db/n": postgres.DefaultConnections, "postgres://u@db/n?pool_max_conns=20": 20, "postgres://u@db/n?pool%5Fmax_conns=%320": 20,
	} {
		if got, err := MaxConnections(address); got != want || err != nil {
			t.Errorf("%s: %d, %v", address, got, err)
		}
	}
}
