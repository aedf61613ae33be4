package main

import (
	"bytes"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/sheafapi/sheaf"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// samples has, for every flag, a valid value that isn't its default, an invalid value, and a part of
// the error.
var samples = map[string]struct{ right, wrong, says string }{
	"listen":              {":0,metrics=127.0.0.1:9090", "8080", "a host and a port from 0 to 65535"},
	"upstream":            {"http://localhost:1/{storeId}", "localhost:1", "begin with http:// or https://"},
	"auth":                {"check-any-store=http://localhost:1/me", "http://localhost:1", "passthrough, check=URL"},
	"hosts":               {"batch.example.com, example.org", "https://example.com", "host names"},
	"audit-log":           {"audit.log", "", "the name of a file"},
	"trusted-proxy":       {"10.0.0.0/8", "10", "networks in CIDR notation"},
	"passthrough":         {"on", "yes", "on or off"},
	"tls":                 {"cert=a, key=b, upstream-ca=c", "cert.pem", "cert=FILE,key=FILE"},
	"request-headers":     {"X-Api-Version, X-Locale", "X-Api-Version,X-Forwarded-For", `"X-Forwarded-For" can't be set by a request, whatever is admitted`},
	"upstream-guard":      {"10.1.0.0/16, fd00::/8", "yes", "on, off, or the networks"},
	"database":            {"sqlite:other.db", "other.db", "sqlite:FILE"},
	"migrate":             {"off", "no", "on or off"},
	"request-timeout":     {"1m", "30", "a duration with its unit"},
	"retry-limit":         {"0", "-1", "a whole number from 0 to 2147483647"},
	"retry-interval":      {"1ms", "0s", "at least 1ms"},
	"outage-limit":        {"0", "0s", "at least 1ms, or 0"},
	"throttle-limit":      {"1h", "-1m", "at least 1ms"},
	"rate":                {"600/m", "600", "such as 600/m"},
	"success":             {"2xx,404,fail-when=/errors,/error", "200,fail-when=errors", "must be JSON pointers"},
	"in-doubt":            {"retry", "Retry", "fail or retry"},
	"max-answer":          {"512MiB", "513MiB", "from 1 byte to 512 MiB"},
	"max-queued":          {"0", "many", "a whole number from 0 to"},
	"max-database":        {"100GiB,queue=2GiB", "much", "a size such as"},
	"webhook-secret-file": {"hooks.secret", "", "the name of a file"},
	"webhook-url":         {"https://example.com/hooks", "example.com", "must be a URL such as"},
	"webhook-allow":       {"127.0.0.0/8, example.com", "https://example.com", "networks, addresses and host names"},
	"retention":           {"1h", "59m", "at least 1h"},
	"max-outbound":        {"1,stores=2", "2147483648", "to 2147483647"},
	"secret-key-file":     {"a.key", "", "the name of a file"},
	"abandon-credentials": {"true", "maybe", "on or off"},
	"operator-keys":       {"operators.json", "", "the name of a file"},
	"ui":                  {"off", "no", "on or off"},
	"log-format":          {"json,error", "xml", "text or json"},
	"shutdown-timeout":    {"1s", "0", "at least 1ms"},
}

// each calls check for every flag and its sample.
func each(t *testing.T, check func(t *testing.T, flag *pflag.Flag, right, wrong, says string)) {
	_, flags := newSettings()
	n := 0
	flags.VisitAll(func(flag *pflag.Flag) {
		n++
		t.Run(flag.Name, func(t *testing.T) {
			s, ok := samples[flag.Name]
			if !ok {
				t.Fatal("the flag has no sample")
			}
			check(t, flag, s.right, s.wrong, s.says)
		})
	})
	if n != len(samples) {
		t.Errorf("%d flags, %d samples", n, len(samples))
	}
}

// serveUsage runs sheaf serve, expects a usage error and returns it.
func serveUsage(t *testing.T, environ []string, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), append([]string{"serve"}, args...), environ, &stdout, &stderr); code != exitUsage {
		t.Errorf("exit code %d, want %d", code, exitUsage)
	}
	said := stderr.String()
	if stdout.Len() > 0 || strings.Count(said, "\n") != 1 || !strings.HasPrefix(said, "sheaf: ") {
		t.Errorf("want one line on stderr, got stdout %q, stderr %q", stdout.String(), said)
	}
	return said
}

func TestWrongFlag(t *testing.T) {
	each(t, func(t *testing.T, flag *pflag.Flag, _, wrong, says string) {
		said := serveUsage(t, nil, "--"+flag.Name+"="+wrong)
		if !strings.HasPrefix(said, "sheaf: --"+flag.Name+" is ") || !strings.Contains(said, says) {
			t.Errorf("said %q, want %q", said, says)
		}
	})
}

func TestWrongVariable(t *testing.T) {
	each(t, func(t *testing.T, flag *pflag.Flag, _, wrong, says string) {
		name := variable(flag.Name)
		said := serveUsage(t, []string{name + "=" + wrong})
		if wrong == "" { // an empty variable counts as unset
			name, says = "--upstream", "required"
		}
		if !strings.HasPrefix(said, "sheaf: "+name) || !strings.Contains(said, says) {
			t.Errorf("said %q, want %q", said, says)
		}
	})
}

func TestWrongFile(t *testing.T) {
	each(t, func(t *testing.T, flag *pflag.Flag, _, wrong, says string) {
		file := settingsFile(t, flag.Name, wrong)
		said := serveUsage(t, nil, "--config", file)
		want := file + ":1: " + flag.Name + " is "
		if wrong == "" { // counts as unset
			want, says = "--upstream", "required"
		}
		if !strings.HasPrefix(said, "sheaf: "+want) || !strings.Contains(said, says) {
			t.Errorf("said %q, want %q", said, says)
		}
	})
}

// settingsFile creates a settings file with one setting.
func settingsFile(t *testing.T, name, text string) string {
	t.Helper()
	content, err := yaml.Marshal(map[string]string{name: text})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "sheaf.yaml")
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// A flag, a variable and a key of the file set the same value. The flag wins over both, and the variable
// over the file.
func TestVariable(t *testing.T) {
	each(t, func(t *testing.T, flag *pflag.Flag, right, _, _ string) {
		lower := "wrong" // what a higher layer sets isn't read in a lower one
		if flag.Name == "tls" {
			lower = "cert=$CREDENTIALS_DIRECTORY/wrong"
		}
		byFlag, byVariable, both := parse(t, []string{"--" + flag.Name + "=" + right}, nil),
			parse(t, nil, []string{variable(flag.Name) + "=" + right}),
			parse(t, []string{"--" + flag.Name + "=" + right}, []string{variable(flag.Name) + "=" + lower})
		byFile := parseWith(t, settingsFile(t, flag.Name, right), nil, nil)
		overFile := parseWith(t, settingsFile(t, flag.Name, lower), nil, []string{variable(flag.Name) + "=" + right})
		if reflect.DeepEqual(byFlag, parse(t, nil, nil)) {
			t.Error("the flag changed nothing")
		}
		if !reflect.DeepEqual(byVariable, byFlag) || !reflect.DeepEqual(both, byFlag) || !reflect.DeepEqual(byFile, byFlag) || !reflect.DeepEqual(overFile, byFlag) {
			t.Errorf("by variable %+v\nby both %+v\nby file %+v\nby variable over file %+v\nby flag %+v", byVariable, both, byFile, overFile, byFlag)
		}
	})
}

func parse(t *testing.T, args, environ []string) settings { return parseWith(t, "", args, environ) }

func parseWith(t *testing.T, file string, args, environ []string) settings {
	t.Helper()
	s, flags := newSettings()
	if err := flags.Parse(args); err != nil {
		t.Fatal(err)
	}
	if _, err := configure(flags, variables(environ), file); err != nil {
		t.Fatal(err)
	}
	return *s
}

// The defaults are those of the library.
func TestDefaults(t *testing.T) {
	want := settings{
		listen: addresses{api: "127.0.0.1:8080"}, ui: true, migrate: true,
		options: sheaf.Options{
			Database:        sheaf.Database{URL: "sqlite:sheaf.db", Retention: 7 * 24 * time.Hour},
			Upstream:        sheaf.Upstream{Timeout: 30 * time.Second, Success: "2xx"},
			Retries:         sheaf.Retries{Limit: new(5), Interval: 3 * time.Second, OutageLimit: new(time.Hour), ThrottleLimit: 20 * time.Minute},
			Limits:          sheaf.Limits{MaxAnswer: 5 << 20, MaxQueued: new(10_000), MaxOutbound: 1024},
			ShutdownTimeout: 30 * time.Second,
		},
	}
	if got := parse(t, nil, nil); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

// A value can have several parts.
func TestParts(t *testing.T) {
	s := parse(t, []string{
		"--listen=:8443,metrics=:9090", "--tls=cert=a,key=b,upstream-ca=c,upstream-cert=d,upstream-key=e", "--max-outbound=7,stores=3",
		"--max-database=1GiB, queue=1MiB", "--upstream-guard=10.1.0.0/16", "--webhook-allow=10.2.0.7,example.com", "--auth=check-any-store=http://a/me",
		"--log-format=json, debug", "--abandon-credentials", "--success=200, 404,fail-when=/errors,/a",
	}, nil)
	o := s.serviceOptions(slog.New(slog.DiscardHandler))
	if s.listen != (addresses{":8443", ":9090"}) || s.tls != (tlsFiles{"a", "b", "c", "d", "e"}) || s.log != (logSettings{true, slog.LevelDebug}) {
		t.Errorf("got %+v", s)
	}
	networks := func(text string) []netip.Prefix { return []netip.Prefix{netip.MustParsePrefix(text)} }
	want := sheaf.Options{
		Upstream: sheaf.Upstream{Timeout: o.Upstream.Timeout, Success: "200,404", FailWhen: []string{"/errors", "/a"}, Guard: true, GuardAllow: networks("10.1.0.0/16")},
		Auth:     sheaf.Auth{CheckURL: "http://a/me", CheckAnyStore: true},
		Webhooks: sheaf.Webhooks{Allow: networks("10.2.0.7/32"), Hosts: []string{"example.com"}},
		Limits:   sheaf.Limits{MaxDatabase: 1 << 30, MaxStored: 1 << 20, MaxOutbound: 7, StoresAtOnce: 3, MaxAnswer: 5 << 20, MaxQueued: o.Limits.MaxQueued},
		Retries:  o.Retries, Database: o.Database, ShutdownTimeout: o.ShutdownTimeout, Logger: o.Logger,
	}
	if !reflect.DeepEqual(o, want) || !o.Database.AbandonCredentials {
		t.Errorf("got %+v\nwant %+v", o, want)
	}
	for flag, texts := range map[string][]string{
		"listen":        {":1,metrics=2", ":1,metrics=", ":1,other=:2", ":1,metrics=:2,metrics=:3", ":1,"},
		"tls":           {"cert=", "cert=a,cert=b", "other=a", ""},
		"max-outbound":  {"0", "1,stores=0", "1,2", "stores=2,1", ""},
		"max-database":  {"1GiB,queue=many"},
		"log-format":    {"json,", "json,trace", "debug", "json,debug,info"},
		"webhook-allow": {"", "https://example.com", "10.0.0.0/8,"},
		"success":       {"200,", "fail-when=", "2xxfail-when=/a", "fail-when=/a,b", "/a", "503"},
		"auth":          {"check=", "keys=", "check-any-store", "other=x"},
	} {
		for _, text := range texts {
			if said := serveUsage(t, nil, "--"+flag+"="+text); !strings.HasPrefix(said, "sheaf: --"+flag+" is ") {
				t.Errorf("%s: said %q", text, said)
			}
		}
	}
}

// A part that a layer doesn't name keeps its value from the layer below, and a value that can't be
// read leaves nothing behind.
func TestLayers(t *testing.T) {
	for _, tt := range []struct{ flag, file, variable, text, want string }{
		{"tls", "key=1, cert=1", "cert=2", "upstream-ca=3", "cert=2,key=1,upstream-ca=3"},
		{"tls", "cert=1,key=1", "", "upstream-ca=3", "cert=1,key=1,upstream-ca=3"},
		{"listen", ":1,metrics=:2", ":3", "", ":3,metrics=:2"},
		{"listen", ":1,metrics=:2", "metrics=off", ":4", ":4,metrics=off"},
		{"listen", "", "metrics=off", "", "127.0.0.1:8080,metrics=off"},
		{"max-outbound", "10", "1,stores=1", "2", "2,stores=1"},
		{"max-outbound", "10,stores=3", "stores=2", "", "10,stores=2"},
		{"max-database", "", "1GiB,queue=1MiB", "2GiB", "2GiB,queue=1MiB"},
		{"log-format", "json,debug", "", "text", "text,debug"},
		{"webhook-allow", "10.0.0.0/8", "", "example.com", "example.com"}, // a list isn't merged
	} {
		var args, environ []string
		if tt.variable != "" {
			environ = []string{variable(tt.flag) + "=" + tt.variable}
		}
		if tt.text != "" {
			args = []string{"--" + tt.flag + "=" + tt.text}
		}
		want := parse(t, []string{"--" + tt.flag + "=" + tt.want}, nil)
		if got := parseWith(t, settingsFile(t, tt.flag, tt.file), args, environ); !reflect.DeepEqual(got, want) {
			t.Errorf("%+v: got %+v\nwant %+v", tt, got, want)
		}
	}
	if got, want := parse(t, []string{"--tls=cert=1", "--tls=key=1"}, nil), parse(t, []string{"--tls=cert=1,key=1"}, nil); !reflect.DeepEqual(got, want) {
		t.Errorf("a repeated flag: got %+v", got)
	}
	for flag, text := range map[string]string{
		"listen": ":1,metrics=wrong", "max-outbound": "1,stores=wrong", "max-database": "1,queue=wrong", "log-format": "json,wrong",
		"tls": "cert=a,key=$CREDENTIALS_DIRECTORY/wrong", "auth": "keys=$CREDENTIALS_DIRECTORY/wrong", "upstream-guard": "on,wrong", "webhook-allow": "10.0.0.0/8,a:b",
	} {
		s, flags := newSettings()
		before := *s
		if err := flags.Set(flag, text); err == nil || !reflect.DeepEqual(*s, before) || flags.Lookup(flag).Value.String() != flags.Lookup(flag).DefValue {
			t.Errorf("--%s %s: %v, %+v", flag, text, err, s)
		}
	}
}

// The output of config check, as a settings file, sets the same values.
func TestCheckedAgain(t *testing.T) {
	t.Setenv("CREDENTIALS_DIRECTORY", "/run/credentials")
	check := func(flag, text string) {
		t.Helper()
		s, flags := newSettings()
		if err := flags.Set(flag, text); err != nil {
			t.Fatal(err)
		}
		from, err := configure(flags, nil, "")
		if err != nil {
			t.Fatal(err)
		}
		var printed bytes.Buffer
		if err := printConfig(&printed, flags, from, nil); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "sheaf.yaml")
		if err := os.WriteFile(file, printed.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		if again := parseWith(t, file, nil, nil); !reflect.DeepEqual(again, *s) {
			t.Errorf("--%s %s:\n%s\ngot %+v\nwant %+v", flag, text, printed.Bytes(), again, *s)
		}
	}
	each(t, func(_ *testing.T, flag *pflag.Flag, right, _, _ string) { check(flag.Name, right) })
	for _, name := range []string{"null", "~", "a # b", "a: b", " a", "'a'", "- a", "@a", "true", "0x1", "$CREDENTIALS_DIRECTORY/a"} {
		check("audit-log", name)
	}
	for _, address := range []string{
		"sqlite:a://b", "postgres://u@a:1,b:2/n?sslmode=disable&application_name=a%20b",
		"postgres://u@db/n?sslkey=a.key&pool_max_conns=20&sheaf_password_file=%24CREDENTIALS_DIRECTORY%2Fpass%26word",
		"postgresql://u@db/n?sheaf_accelerators=off&sheaf_password_file=$CREDENTIALS_DIRECTORY/password",
	} {
		check("database", address)
	}
	check("upstream", "https://a/%7Bb%7D/{storeId}")
}

// An error doesn't quote what may hold a secret.
func TestSecretsUnquoted(t *testing.T) {
	for flag, texts := range map[string][]string{
		"auth":        {"other=hunter2", "http://me:hunter2@a/me?a=b", "check=me:hunter2@a", "keyshttps://hunter2"},
		"upstream":    {"me:hunter2@a", "http://me:hunter2@a b/"},
		"database":    {"me:hunter2@a", "postgres://me:hunter2%@a/n", "postgres://me:hunter2@a/n?pool_max_conns=", "postgres://me@a/n?password=hunter2%zz"},
		"webhook-url": {"https://me:hunter2@a/hooks", "http://a/hooks/hunter2"},
	} {
		for _, text := range texts {
			if said := serveUsage(t, nil, "--"+flag+"="+text); strings.Contains(said, "hunter2") || !strings.HasPrefix(said, "sheaf: --"+flag+" is ") {
				t.Errorf("--%s %s: said %q", flag, text, said)
			}
		}
	}
	if said := serveUsage(t, nil, "--auth=other=x"); !strings.Contains(said, `"other"`) {
		t.Errorf("the mode isn't quoted: %q", said)
	}
}

// Callers get no files that PostgreSQL's connections need.
func TestCallersConnections(t *testing.T) {
	for database, want := range map[string]int{"sqlite:sheaf.db": 6976, "postgres://u@a/n": 6968, "postgres://u@a/n?pool_max_conns=1000": 5976} {
		s := parse(t, []string{"--database=" + database, "--max-outbound=1000"}, nil)
		if got := s.callersConnections(1000 + keptFiles + 6976); got != want {
			t.Errorf("%s: got %d, want %d", database, got, want)
		}
	}
}

// An address without a length is a network of one host.
func TestParseNetworks(t *testing.T) {
	for text, want := range map[string]string{
		"10.1.2.3/8": "10.0.0.0/8", "10.1.2.3": "10.1.2.3/32", "fd00::1": "fd00::1/128", "::ffff:10.1.2.3": "10.1.2.3/32",
		"fe80::1%eth0": "", "10.1.2": "", "10.1.2.3/33": "",
	} {
		got, err := parseNetworks(text)
		if (err == nil) != (want != "") || err == nil && got[0].String() != want {
			t.Errorf("%s: got %v, %v, want %s", text, got, err, want)
		}
	}
}

// No command has a help text wider than 100 columns, and serve has a line for each of its flags.
func TestHelp(t *testing.T) {
	help := func(args ...string) string {
		t.Helper()
		var stdout bytes.Buffer
		if code := run(t.Context(), append(args, "--help"), nil, &stdout, io.Discard); code != exitOK {
			t.Fatalf("exit code %d", code)
		}
		for line := range strings.Lines(stdout.String()) {
			if n := utf8.RuneCountInString(strings.TrimSuffix(line, "\n")); n > 100 {
				t.Errorf("%q has a line of %d columns: %s", args, n, line)
			}
		}
		return stdout.String()
	}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		help(strings.Fields(c.CommandPath())[1:]...)
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRoot(nil))

	text := help("serve")
	if n := strings.Count(text, "\n  --"); n > 35 {
		t.Errorf("%d lines for flags", n)
	}
	each(t, func(t *testing.T, flag *pflag.Flag, _, _, _ string) {
		line := regexp.MustCompile(`(?m)^  --` + flag.Name + ` ` + regexp.QuoteMeta(flag.Value.Type()) + ` .*$`).FindString(text)
		if line == "" || flag.DefValue != "" && flag.DefValue != "0" && !strings.HasSuffix(line, "(default "+flag.DefValue+")") {
			t.Errorf("the line is %q", line)
		}
	})
}

// Settings that don't go together are refused before anything else is done.
func TestTogether(t *testing.T) {
	for args, want := range map[string]string{
		"--tls=cert=a": "cert=FILE and key=FILE",
		"--tls=key=a":  "cert=FILE and key=FILE",
		"--upstream=https://a --tls=upstream-cert=a": "upstream-cert=FILE and upstream-key=FILE",
		"--tls=upstream-cert=a,upstream-key=b":       "does not begin with https://",
		"--tls=upstream-ca=a":                        "does not begin with https://",
		"--auth=keys=a --passthrough=on":             "can't be combined with",
	} {
		if said := serveUsage(t, nil, append([]string{"--upstream=http://localhost:1"}, strings.Fields(args)...)...); !strings.Contains(said, want) {
			t.Errorf("%s: said %q, want %q", args, said, want)
		}
	}
}

// A flag, variable or key that was removed is refused with what replaces it.
func TestRemoved(t *testing.T) {
	for name, replacement := range removed {
		want := " was removed: " + replacement + "\n"
		if said := serveUsage(t, nil, "--"+name+"=x"); said != "sheaf: --"+name+want {
			t.Errorf("said %q", said)
		}
		if said := serveUsage(t, []string{variable(name) + "=x"}); said != "sheaf: "+variable(name)+want {
			t.Errorf("said %q", said)
		}
		file := settingsFile(t, name, "x")
		if said := serveUsage(t, nil, "--config", file); said != "sheaf: "+file+":1: "+name+want {
			t.Errorf("said %q", said)
		}
	}
}

func TestServiceOptions(t *testing.T) {
	s := parse(t, []string{"--retry-limit=0", "--outage-limit=0", "--max-queued=0"}, nil)
	log := slog.New(slog.DiscardHandler)
	if o := s.serviceOptions(log); *o.Retries.Limit != 0 || *o.Retries.OutageLimit != 0 || *o.Limits.MaxQueued != 0 || o.Logger != log {
		t.Errorf("0 must stay 0: %+v", o)
	}
	s = parse(t, []string{"--retry-limit=7", "--max-queued=8"}, nil)
	if o := s.serviceOptions(log); *o.Retries.Limit != 7 || *o.Limits.MaxQueued != 8 {
		t.Errorf("got %+v", o)
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{
		"1": 1, "1048576": 1 << 20, "10MiB": 10 << 20, "10MB": 10_000_000,
		"512KiB": 512 << 10, "512 KiB": 512 << 10, "1.5MiB": 3 << 19, "512MiB": 512 << 20,
	} {
		if got, err := parseSize(text); got != want || err != nil {
			t.Errorf("%s: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "0MiB", "-1", "MiB", "10XB", "1e3", "99999999999999999999"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q: got %d, want an error", text, got)
		}
	}
}

func TestUnknown(t *testing.T) {
	for entry, want := range map[string]string{
		"SHEAF_RETENTON=1h":             "SHEAF_RETENTON is not a setting of sheaf serve; did you mean SHEAF_RETENTION?",
		"SHEAF_LOGFORMAT=x":             "SHEAF_LOGFORMAT is not a setting of sheaf serve; did you mean SHEAF_LOG_FORMAT?",
		"SHEAF_COLOUR_OF_SKY=x":         "SHEAF_COLOUR_OF_SKY is not a setting of sheaf serve",
		"SHEAF_RETENTION=1h":            "",
		"SHEAF_RETENTON=":               "",
		"OTHER=1":                       "",
		"SHEAF_PORT=tcp://10.0.0.1:80":  "", // Kubernetes
		"SHEAF_SERVICE_HOST=10.0.0.1":   "",
		"SHEAF_PORT_80_TCP_ADDR=10.0.1": "",
	} {
		_, flags := newSettings()
		if got := strings.Join(unknown(flags, variables([]string{entry})), "\n"); got != want {
			t.Errorf("%s: got %q, want %q", entry, got, want)
		}
	}
}

func TestVariablesTakesTheLast(t *testing.T) {
	got := variables([]string{"SHEAF_A=1", "SHEAF_B=1", "SHEAF_A=2=3", "SHEAF_B="})
	if want := map[string]string{"SHEAF_A": "2=3"}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestRate(t *testing.T) {
	for text, want := range map[string]sheaf.Rate{
		"600/m": {N: 600, Per: time.Minute}, "10/s": {N: 10, Per: time.Second}, "5000/h": {N: 5000, Per: time.Hour},
		"100/10s": {N: 100, Per: 10 * time.Second}, "1/24h": {N: 1, Per: 24 * time.Hour}, "1/1m30s": {N: 1, Per: 90 * time.Second},
		"": {}, "/s": {}, "10": {}, "10/": {}, "0/s": {}, "-1/s": {}, "10/-1s": {}, "1/25h": {}, "1000001/s": {}, "10/day": {}, "10/s/s": {}, "1e3/s": {}, "10/0s": {},
	} {
		if got, err := parseRate(text); got != want || (err == nil) != want.Valid() {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}
