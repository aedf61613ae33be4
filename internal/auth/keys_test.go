package auth

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/secret"
)

// issue adds a key to a file and returns it.
func issue(t *testing.T, file string, seal secret.Key, name string, stores, rights []string, expires *time.Time) string {
	t.Helper()
	key, issued := Issue(seal, Grant{Name: name, Stores: stores, Rights: rights, Credential: "upstream-" + name, Expires: expires})
	if err := ChangeIssued(file, func(keys []Issued) ([]Issued, error) { return append(keys, issued), nil }); err != nil {
		t.Fatal(err)
	}
	return key
}

func TestKeys(t *testing.T) {
	file, seal := filepath.Join(t.TempDir(), "keys.json"), secret.New()
	past, future := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	one := issue(t, file, seal, "one", []string{"1", "2"}, []string{Create, Read}, nil)
	all := issue(t, file, seal, "all", []string{"*"}, Rights, &future)
	old := issue(t, file, seal, "old", []string{"*"}, Rights, &past)
	keys, err := openKeys(file, seal)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		store, key, right string
		want              int
		credential        string
	}{
		{"1", one, Create, 200, "upstream-one"},
		{"2", one, Read, 200, "upstream-one"},
		{"1", one, Cancel, 403, ""},
		{"3", one, Read, 403, ""},
		{"*", one, Read, 403, ""},
		{"3", all, Cancel, 200, "upstream-all"},
		{"3", old, Read, 401, ""},
		{"1", one + "x", Read, 401, ""},
		{"1", hashOf(one), Read, 401, ""},
		{"1", "", Read, 401, ""},
	} {
		key, err := keys.find(c.store, c.key, c.right)
		if status(err) != c.want || err == nil && key.credential != c.credential {
			t.Errorf("%s at %s: %+v, %v, want %d", c.right, c.store, key, err, c.want)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, planted := range []string{one, all, strings.TrimPrefix(one, keyPrefix), "upstream-"} {
		if strings.Contains(string(text), planted) {
			t.Errorf("the file holds %q", planted)
		}
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// If the file can't be used, the old keys stay in effect.
func TestKeysReload(t *testing.T) {
	file, seal := filepath.Join(t.TempDir(), "keys.json"), secret.New()
	one := issue(t, file, seal, "one", []string{"*"}, Rights, nil)
	keys, err := openKeys(file, seal)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, whole[:len(whole)/2], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := keys.reload(); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("half a file: %v", err)
	}
	if _, err := keys.find("1", one, Read); err != nil {
		t.Errorf("after half a file: %v", err)
	}
	if err := os.WriteFile(file, []byte(`{"keys":[]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := keys.reload(); err != nil {
		t.Error(err)
	}
	if _, err := keys.find("1", one, Read); status(err) != 401 {
		t.Errorf("after it was revoked: %v", err)
	}
}

func TestKeysRefused(t *testing.T) {
	dir, seal := t.TempDir(), secret.New()
	const hash = `"hash":"` + "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef" + `"`
	entry := func(fields string) string { return `{"keys":[` + "\n" + `{` + fields + `}]}` }
	good := `"name":"n",` + hash + `,"stores":["1"],"rights":["read"]`
	for what, c := range map[string]struct{ text, says string }{
		"no JSON":            {"{", "line 1"},
		"a broken line":      {"{\"keys\":[\n\n}", "line 3"},
		"an unknown field":   {entry(good + `,"store":"1"`), `unknown field "store"`},
		"more behind":        {`{"keys":[]} {}`, "more text after"},
		"no hash":            {entry(`"name":"n","stores":["1"],"rights":["read"]`), "keys[0]: hash"},
		"a short hash":       {entry(`"name":"n","hash":"ab","stores":["1"],"rights":["read"]`), "keys[0]: hash"},
		"no name":            {entry(hash + `,"stores":["1"],"rights":["read"]`), "keys[0]: name"},
		"no store":           {entry(`"name":"n",` + hash + `,"rights":["read"]`), "keys[0]: stores"},
		"no store id":        {entry(`"name":"n",` + hash + `,"stores":["a b"],"rights":["read"]`), `"a b"`},
		"no right":           {entry(`"name":"n",` + hash + `,"stores":["1"]`), "keys[0]: rights"},
		"an unknown right":   {entry(`"name":"n",` + hash + `,"stores":["1"],"rights":["write"]`), `"write"`},
		"a name twice":       {`{"keys":[{` + good + `},{` + good + `}]}`, "keys[1]: name"},
		"no credential":      {entry(good), `the credential of "n"`},
		"another credential": {entry(good + `,"credential":"AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA="`), `the credential of "n"`},
	} {
		file := filepath.Join(dir, "keys.json")
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openKeys(file, seal); err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v, want %s", what, err, c.says)
		}
	}
	open := filepath.Join(dir, "open.json")
	if err := os.WriteFile(open, []byte(`{"keys":[]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := openKeys(open, seal); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file that others may read: %v", err)
	}
	if _, err := openKeys(filepath.Join(dir, "none"), seal); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	sealed := filepath.Join(dir, "sealed.json")
	issue(t, sealed, seal, "one", []string{"*"}, Rights, nil)
	if _, err := openKeys(sealed, secret.New()); err == nil {
		t.Error("another secret key opens the credentials")
	}
}

// A credential is sealed for its own key and can't be opened in another key's entry.
func TestKeysCredentialCantBeMoved(t *testing.T) {
	file, seal := filepath.Join(t.TempDir(), "keys.json"), secret.New()
	issue(t, file, seal, "one", []string{"*"}, Rights, nil)
	issue(t, file, seal, "two", []string{"*"}, Rights, nil)
	err := ChangeIssued(file, func(keys []Issued) ([]Issued, error) {
		keys[0].Credential = keys[1].Credential
		return keys, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openKeys(file, seal); err == nil || !strings.Contains(err.Error(), `"one"`) {
		t.Errorf("got %v", err)
	}
}

// No concurrent change is lost, and a failed one changes nothing.
func TestConcurrentChanges(t *testing.T) {
	file, seal := filepath.Join(t.TempDir(), "keys.json"), secret.New()
	const n = 20
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			_, issued := Issue(seal, Grant{Name: fmt.Sprint(i), Stores: []string{"*"}, Rights: Rights, Credential: "c"})
			if err := ChangeIssued(file, func(keys []Issued) ([]Issued, error) { return append(keys, issued), nil }); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	refused := errors.New("refused")
	if err := ChangeIssued(file, func([]Issued) ([]Issued, error) { return nil, refused }); !errors.Is(err, refused) {
		t.Errorf("got %v", err)
	}
	keys, err := ReadIssued(file)
	if err != nil || len(keys) != n {
		t.Errorf("%d keys, %v", len(keys), err)
	}
	entries, err := os.ReadDir(filepath.Dir(file))
	if err != nil || slices.ContainsFunc(entries, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), ".sheaf") }) {
		t.Errorf("%v, %v", entries, err)
	}
}

func FuzzKeys(f *testing.F) {
	f.Add([]byte(`{"keys":[{"id":"1","name":"n","hash":"00","stores":["*"],"rights":["read"],"credential":"AQ==","created":"2026-11-27T00:00:00Z"}]}`))
	f.Add([]byte(`{"keys":null}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		keys, err := parseKeys(text)
		if err != nil {
			return
		}
		for i := range keys {
			if err := keys[i].check(); err != nil {
				t.Errorf("%+v was accepted: %v", keys[i], err)
			}
		}
	})
}

// TestKeysFromASlowedAddress: issued keys are judged even if their address has used up its guesses.
// A key that has expired, or lacks the right or the store, doesn't count as a guess.
func TestKeysFromASlowedAddress(t *testing.T) {
	file, seal := filepath.Join(t.TempDir(), "keys.json"), secret.New()
	past := time.Now().Add(-time.Hour)
	one := issue(t, file, seal, "one", []string{"1"}, []string{Read}, nil)
	old := issue(t, file, seal, "old", []string{"1"}, []string{Read}, &past)
	keys, err := openKeys(file, seal)
	if err != nil {
		t.Fatal(err)
	}
	g := &Gate{keys: keys}
	ask := func(store, key, right string, want int) {
		t.Helper()
		if _, err := g.Authorize(requestFrom(t.Context(), here), store, key, right); status(err) != want {
			t.Errorf("%s at %s: %v, want %d", right, store, err, want)
		}
	}
	unfit := func() {
		t.Helper()
		ask("1", one, Cancel, 403)
		ask("2", one, Read, 403)
		ask(EveryStore, one, Operate, 403)
		ask("1", old, Read, 401)
	}
	for range 2 * maxGuesses {
		unfit()
	}
	var all sync.WaitGroup
	var guessed atomic.Int64
	for i := range 500 {
		all.Go(func() {
			_, err := g.Authorize(requestFrom(t.Context(), here), "1", fmt.Sprintf("%s%d", one, i), Read)
			if status(err) == 401 {
				guessed.Add(1)
			} else if status(err) != 429 {
				t.Errorf("a guess: %v", err)
			}
		})
	}
	all.Wait()
	if n := guessed.Load(); n != maxGuesses {
		t.Errorf("%d concurrent guesses were judged", n)
	}
	ask("1", one, Read, 200)
	unfit()
}
