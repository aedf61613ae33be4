package database

import (
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
	for address, want := range map[string]struct {
		bare    string
		options postgres.Options
	}{
		"postgres://u:p@db/n?sslmode=disable&a=%20b":                             {"postgres://u:p@db/n?sslmode=disable&a=%20b", postgres.Options{}},
		"postgres://u:p@db/n?pool_max_conns=20&sslmode=disable":                  {"postgres://u:p@db/n?sslmode=disable", postgres.Options{Connections: 20}},
		"postgres://u:p@a:1,b:2/n?sheaf_accelerators=off":                        {"postgres://u:p@a:1,b:2/n", postgres.Options{NoAccelerators: true}},
		"postgres://sheaf@db:5432/n?sslmode=require&sheaf_password_file=" + file: {"postgres://sheaf:p%40ss%2Fw%23rd%25@db:5432/n?sslmode=require", postgres.Options{}},
	} {
		bare, options, err := ownParameters(address)
		if bare != want.bare || options != want.options || err != nil {
			t.Errorf("%s: got %s, %+v, %v", address, bare, options, err)
		}
	}
	for address, says := range map[string]string{
		"postgres://u@db/n?pool_max_conns=many":               "must be a number",
		"postgres://u@db/n?sheaf_accelerators=no":             "must be on or off",
		"postgres://u:x@db/n?sheaf_password_file=" + file:     "no password",
		"postgres://db/n?sheaf_password_file=" + file:         "must have a user",
		"postgres://u@db/n?sheaf_password_file=" + file + "x": "no such file",
	} {
		if _, _, err := ownParameters(address); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", address, err, says)
		}
	}
	for mode, text := range map[os.FileMode]string{0o644: "secret", 0o660: "secret", 0o600: "\n"} {
		write(text, mode)
		if _, _, err := ownParameters("postgres://u@db/n?sheaf_password_file=" + file); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("mode %o with %q: %v", mode, text, err)
		}
	}
}
