package secret_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/sheafapi/sheaf/internal/secret"
)

func TestSealAndOpen(t *testing.T) {
	key := secret.New()
	for _, plain := range []string{"", "token", strings.Repeat("long ", 4000)} {
		sealed := key.Seal([]byte(plain), []byte("batch 1"))
		got, err := key.Open(sealed, []byte("batch 1"))
		if err != nil || string(got) != plain {
			t.Errorf("Open gave %q, %v; sealed was %q", got, err, plain)
		}
		if plain != "" && bytes.Contains(sealed, []byte(plain)) {
			t.Errorf("%q shows in the sealed value", plain)
		}
	}
	if bytes.Equal(key.Seal([]byte("token"), nil), key.Seal([]byte("token"), nil)) {
		t.Error("sealing the same value twice has the same result")
	}
}

func TestOpenRefuses(t *testing.T) {
	key, purpose := secret.New(), []byte("batch 1")
	sealed := key.Seal([]byte("token"), purpose)
	refused := func(name string, k secret.Key, sealed, purpose []byte) {
		t.Helper()
		if plain, err := k.Open(sealed, purpose); err == nil || plain != nil {
			t.Errorf("%s: Open gave %q, %v", name, plain, err)
		}
	}
	refused("another key", secret.New(), sealed, purpose)
	refused("no key", secret.Key{}, sealed, purpose)
	refused("another context", key, sealed, []byte("batch 2"))
	refused("no context", key, sealed, nil)
	refused("one more byte", key, append(bytes.Clone(sealed), 0), purpose)
	for i := range sealed {
		refused(fmt.Sprint("cut to ", i), key, sealed[:i], purpose)
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		refused(fmt.Sprint("changed at ", i), key, changed, purpose)
	}
}

func TestID(t *testing.T) {
	a, b := secret.New(), secret.New()
	if !regexp.MustCompile(`^[0-9a-f]{16}$`).MatchString(a.ID()) {
		t.Errorf("ID is %q", a.ID())
	}
	if a.ID() == b.ID() || a.Encode() == b.Encode() {
		t.Error("two new keys are the same")
	}
}

func TestKeyIsNeverPrinted(t *testing.T) {
	key := secret.New()
	raw, err := base64.StdEncoding.DecodeString(key.Encode())
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+" "+verb+"\n", key, &key)
	}
	fmt.Fprintln(&out, struct{ K secret.Key }{key}, []secret.Key{key})
	slog.New(slog.NewTextHandler(&out, nil)).Info("message", "key", key)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("message", "key", key, "in", struct{ K secret.Key }{key})
	for _, leak := range []string{
		string(raw), key.Encode(), fmt.Sprintf("%x", raw), strings.Trim(fmt.Sprint(raw), "[]"), fmt.Sprintf("%x", raw[:4]),
	} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("%q shows in:\n%s", leak, out.String())
		}
	}
}

func TestCreateAndRead(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "sheaf.key")
	if _, err := secret.Read(file); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), file) {
		t.Errorf("without a file Read gave %v", err)
	}
	made, err := secret.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	read, err := secret.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	if made.Encode() != read.Encode() || made.ID() != read.ID() {
		t.Error("Read returned another key than Create")
	}
	if plain, err := read.Open(made.Seal([]byte("x"), nil), nil); err != nil || string(plain) != "x" {
		t.Errorf("Open gave %q, %v", plain, err)
	}
	text, err := os.ReadFile(file)
	if err != nil || string(text) != made.Encode()+"\n" {
		t.Errorf("the file has %d bytes, error %v", len(text), err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("the file's mode is %v, error %v", info.Mode(), err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("the directory contains %v, error %v", entries, err)
	}
}

func TestCreateKeepsWhatIsThere(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sheaf.key")
	var wg sync.WaitGroup
	keys := make([]secret.Key, 8)
	errs := make([]error, len(keys))
	for i := range keys {
		wg.Go(func() { keys[i], errs[i] = secret.Create(file) })
	}
	wg.Wait()
	read, err := secret.Read(file)
	if err != nil {
		t.Fatal(err)
	}
	made := 0
	for i, err := range errs {
		switch {
		case err == nil && keys[i].ID() == read.ID():
			made++
		case !errors.Is(err, fs.ErrExist):
			t.Errorf("Create gave %v, %v", keys[i], err)
		}
	}
	if made != 1 {
		t.Errorf("%d calls created the file", made)
	}
}

func TestCreateWithoutDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "absent", "sheaf.key")
	if _, err := secret.Create(file); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), file) {
		t.Errorf("Create gave %v", err)
	}
}

// TestReadModes checks that the owner's group may read a key, as with systemd credentials and in pods.
func TestReadModes(t *testing.T) {
	for _, mode := range []fs.FileMode{0o600, 0o400, 0o640, 0o440} {
		file := filepath.Join(t.TempDir(), "sheaf.key")
		if _, err := secret.Create(file); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := secret.Read(file); err != nil {
			t.Errorf("mode %o: %v", mode, err)
		}
	}
}

func TestReadRefuses(t *testing.T) {
	good := secret.New().Encode()
	const right = "32 bytes in base64 on one line; create one with: sheaf secret new"
	for name, c := range map[string]struct {
		content string
		mode    fs.FileMode
		want    string
	}{
		"empty":         {"", 0o600, right},
		"blank":         {"\n", 0o600, right},
		"short":         {base64.StdEncoding.EncodeToString(make([]byte, 31)), 0o600, "31 bytes"},
		"long":          {base64.StdEncoding.EncodeToString(make([]byte, 33)), 0o600, right},
		"huge":          {strings.Repeat("A", 1<<20), 0o600, right},
		"not base64":    {"my password is swordfish", 0o600, right},
		"two lines":     {good + "\n" + good, 0o600, "line 2 repeats a key"},
		"broken line":   {good[:20] + "\n" + good[20:], 0o600, "line 1: the key has 15 bytes"},
		"group writes":  {good, 0o660, "chmod 600 "},
		"others read":   {good, 0o604, "chmod 600 "},
		"others write":  {good, 0o602, "chmod 600 "},
		"open to all":   {good, 0o666, "mode 0666"},
		"loose base64":  {good[:42] + "//", 0o600, right},
		"url alphabet":  {strings.Repeat("-_", 21) + "A=", 0o600, right},
		"text in front": {"key: " + good, 0o600, right},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "sheaf.key")
			if err := os.WriteFile(file, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(file, c.mode); err != nil {
				t.Fatal(err)
			}
			_, err := secret.Read(file)
			if err == nil {
				t.Fatal("Read accepted the file")
			}
			for _, want := range []string{file, c.want} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q, want it to contain %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "swordfish") {
				t.Errorf("%q reveals the file's content", err)
			}
		})
	}
	if _, err := secret.Read(t.TempDir()); err == nil || !strings.Contains(err.Error(), right) {
		t.Errorf("for a directory Read gave %v", err)
	}
}

func TestReadTakesLineEnds(t *testing.T) {
	want := secret.New()
	for _, end := range []string{"", "\n", "\r\n"} {
		file := filepath.Join(t.TempDir(), "sheaf.key")
		if err := os.WriteFile(file, []byte(want.Encode()+end), 0o400); err != nil {
			t.Fatal(err)
		}
		if got, err := secret.Read(file); err != nil || got.ID() != want.ID() {
			t.Errorf("with %q at the end Read gave %v, %v", end, got, err)
		}
	}
}

// TestRotate checks a rotation on several nodes. At each step, every node opens what any node has sealed.
func TestRotate(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if _, err := secret.Create(file); err != nil {
		t.Fatal(err)
	}
	read := func() secret.Key {
		t.Helper()
		k, err := secret.Read(file)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	purpose := []byte("batch 1")
	nodes := []secret.Key{read(), read(), read()}
	check := func(what string) {
		t.Helper()
		for i, from := range nodes {
			sealed := from.Seal([]byte("token"), purpose)
			if id := secret.SealedBy(sealed[:secret.MarkSize]); id != from.ID() {
				t.Errorf("%s: sealed by %q, want %q", what, id, from.ID())
			}
			for j, to := range nodes {
				if got, err := to.Open(sealed, purpose); err != nil || string(got) != "token" {
					t.Errorf("%s: node %d can't open what node %d has sealed: %v", what, j, i, err)
				}
			}
		}
	}
	first := read().Seal([]byte("token"), purpose)
	for _, step := range []secret.Step{secret.Prepare, secret.Activate, secret.Finish} {
		before := read().ID()
		key, err := secret.Rotate(file, step)
		if err != nil {
			t.Fatal(err)
		}
		if key.ID() != read().ID() || key.Count() != read().Count() || (key.ID() != before) != (step == secret.Activate) {
			t.Errorf("%s: key %s of %d, before %s; the file has %s", step, key.ID(), key.Count(), before, read().ID())
		}
		for i := range nodes {
			check(fmt.Sprintf("%s, %d restarted", step, i))
			nodes[i] = read()
		}
		check(string(step))
	}
	if _, err := nodes[0].Open(first, purpose); err == nil || !strings.Contains(err.Error(), secret.SealedBy(first)) {
		t.Errorf("opening a value of a removed key: %v", err)
	}
	dropped, err := secret.Read(file + ".old")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := dropped.Open(first, purpose); err != nil || string(got) != "token" {
		t.Errorf("the removed key does not open its value: %v", err)
	}
}

func TestRotateRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	if _, err := secret.Rotate(file, secret.Begin); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
	if _, err := secret.Create(file); err != nil {
		t.Fatal(err)
	}
	refused := func(steps ...secret.Step) {
		t.Helper()
		before, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range steps {
			if _, err := secret.Rotate(file, step); !errors.Is(err, secret.ErrStep) {
				t.Errorf("step %q: %v", step, err)
			}
		}
		if after, err := os.ReadFile(file); err != nil || !bytes.Equal(after, before) {
			t.Errorf("the file has changed: %v", err)
		}
	}
	refused(secret.Activate, secret.Finish)
	if _, err := secret.Rotate(file, secret.Begin); err != nil {
		t.Fatal(err)
	}
	refused(secret.Begin, secret.Prepare)
	if _, err := secret.Rotate(file, secret.Finish); err != nil {
		t.Fatal(err)
	}
	if entries, err := os.ReadDir(filepath.Dir(file)); err != nil || len(entries) != 3 { // key, key.lock, key.old
		t.Errorf("remaining files: %v, %v", entries, err)
	}
}

// TestOpensUnnamed checks that values without a key ID, from older versions, are still opened.
func TestOpensUnnamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "key")
	key, err := secret.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.StdEncoding.DecodeString(key.Encode())
	if err != nil {
		t.Fatal(err)
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		t.Fatal(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		t.Fatal(err)
	}
	sealed := aead.Seal([]byte{1}, nil, []byte("token"), []byte("batch 1"))
	if secret.SealedBy(sealed) != "" {
		t.Error("an old value names a key")
	}
	rotated, err := secret.Rotate(file, secret.Begin)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []secret.Key{key, rotated} {
		if got, err := k.Open(sealed, []byte("batch 1")); err != nil || string(got) != "token" {
			t.Errorf("%v: %v", k, err)
		}
	}
	if _, err := secret.New().Open(sealed, []byte("batch 1")); err == nil {
		t.Error("another key opens it")
	}
}
