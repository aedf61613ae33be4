package main

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sheafapi/sheaf"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// samples has for every flag a right value that is not its default, and a wrong one
// with the words that have to follow.
var samples = map[string]struct{ right, wrong, says string }{
	"listen":                 {":0", "8080", "a host and a port from 0 to 65535"},
	"upstream":               {"http://localhost:1/{storeId}", "localhost:1", "begin with http:// or https://"},
	"auth":                   {"check=http://localhost:1/{storeId}/me", "http://localhost:1", "passthrough, check=URL"},
	"auth-check-any-store":   {"true", "maybe", "true or false"},
	"hosts":                  {"batch.example.com, example.org", "https://example.com", "names of hosts"},
	"database-password-file": {"database.password", "", "the name of a file"},
	"audit-log":              {"audit.log", "", "the name of a file"},
	"trusted-proxy":          {"10.0.0.0/8", "10", "networks in CIDR notation"},
	"passthrough":            {"on", "true", "off or on"},
	"tls-cert":               {"cert.pem", "", "the name of a file"},
	"tls-key":                {"key.pem", "", "the name of a file"},
	"request-headers":        {"X-Api-Version, X-Locale", "X-Api-Version,X-Forwarded-For", `"X-Forwarded-For" can't be set by a request, whatever is admitted`},
	"upstream-ca":            {"ca.pem", "", "the name of a file"},
	"upstream-cert":          {"cert.pem", "", "the name of a file"},
	"upstream-key":           {"key.pem", "", "the name of a file"},
	"upstream-guard":         {"on", "yes", "off or on"},
	"upstream-allow":         {"10.1.0.0/16, fd00::/8", "10.1.0.0", "networks in CIDR notation"},

	"database": {"sqlite:other.db", "other.db", "sqlite:FILE"},

	"database-connections":  {"4", "3", "a whole number from 4 to"},
	"database-accelerators": {"off", "of", "on or off"},
	"migrate":               {"off", "no", "on or off"},

	"request-timeout":     {"1m", "30", "a duration with its unit"},
	"retry-limit":         {"0", "-1", "a whole number from 0 to 2147483647"},
	"retry-interval":      {"1ms", "0s", "at least 1ms"},
	"throttle-limit":      {"1h", "-1m", "at least 1ms"},
	"rate":                {"600/m", "600", "such as 600/m"},
	"success":             {"200", "201", "2xx or 200"},
	"in-doubt":            {"retry", "Retry", "fail or retry"},
	"max-body":            {"1048576", "10 apples", "a size such as 10MiB"},
	"max-answer":          {"512MiB", "513MiB", "from 1 byte to 512 MiB"},
	"max-queued":          {"0", "many", "a whole number from 0 to"},
	"max-stored":          {"2GiB", "much", "a size such as"},
	"max-database":        {"100GiB", "much", "a size such as"},
	"webhook-secret-file": {"hooks.secret", "", "the name of a file"},
	"webhook-url":         {"https://example.com/hooks", "example.com", "must be a URL such as"},
	"webhook-allow":       {"127.0.0.0/8", "127.0.0.1", "networks in CIDR notation"},
	"webhook-hosts":       {"example.com, example.org", "https://example.com", "names of hosts"},
	"retention":           {"1h", "59m", "at least 1h"},
	"stores-at-once":      {"1", "0", "a whole number from 1 to"},
	"max-outbound":        {"1", "2147483648", "to 2147483647"},
	"secret-key-file":     {"a.key", "", "the name of a file"},
	"abandon-credentials": {"true", "maybe", "true or false"},
	"operator-keys":       {"operators.json", "", "the name of a file"},
	"ui":                  {"off", "no", "on or off"},
	"metrics":             {"off", "no", "on or off"},
	"metrics-listen":      {"127.0.0.1:0", "9090", "a host and a port from 0 to 65535"},
	"metrics-stores":      {"gold=47*|4812,silver=48*", "gold", "each, or classes with patterns"},
	"traces-endpoint":     {"http://127.0.0.1:4318/v1/traces", "127.0.0.1:4318", "the address of a collector"},
	"traces-sample":       {"0.1", "2", "a number from 0 to 1"},
	"log-format":          {"json", "xml", "text or json"},
	"log-level":           {"error", "trace", "debug or info or warn or error"},
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

// serveUsage runs sheaf serve, expects a usage error and returns what it says.
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

// settingsFile makes a file of one setting.
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

// A variable sets what the flag sets, and so does the file; the flag wins over both, and
// the variable over the file.
func TestVariable(t *testing.T) {
	each(t, func(t *testing.T, flag *pflag.Flag, right, _, _ string) {
		byFlag, byVariable, both := parse(t, []string{"--" + flag.Name + "=" + right}, nil),
			parse(t, nil, []string{variable(flag.Name) + "=" + right}),
			parse(t, []string{"--" + flag.Name + "=" + right}, []string{variable(flag.Name) + "=wrong"})
		byFile := parseWith(t, settingsFile(t, flag.Name, right), nil, nil)
		overFile := parseWith(t, settingsFile(t, flag.Name, "wrong"), nil, []string{variable(flag.Name) + "=" + right})
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

// What applies without any flag, in the library's units. The help's defaults are the
// texts that these come from (add).
func TestDefaults(t *testing.T) {
	want := settings{
		listen: "127.0.0.1:8080", logFormat: "text", logLevel: slog.LevelInfo,
		observing: observing{metrics: true, sample: 1, ui: true},
		options: sheaf.Options{
			Database:        sheaf.Database{URL: "sqlite:sheaf.db", Connections: 8, Retention: 7 * 24 * time.Hour},
			Upstream:        sheaf.Upstream{Timeout: 30 * time.Second},
			Retries:         sheaf.Retries{Limit: new(5), Interval: 3 * time.Second, ThrottleLimit: 20 * time.Minute},
			Limits:          sheaf.Limits{MaxBody: 10 << 20, MaxAnswer: 5 << 20, MaxQueued: new(10_000), StoresAtOnce: 4096, MaxOutbound: 1024},
			ShutdownTimeout: 30 * time.Second,
		},
	}
	if got := parse(t, nil, nil); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
}

func TestHelp(t *testing.T) {
	var stdout bytes.Buffer
	if code := run(t.Context(), []string{"serve", "--help"}, nil, &stdout, io.Discard); code != exitOK {
		t.Fatalf("exit code %d", code)
	}
	noDefault := map[string]bool{
		"upstream": true, "secret-key-file": true, "abandon-credentials": true, "tls-cert": true, "tls-key": true,
		"upstream-ca": true, "upstream-cert": true, "upstream-key": true, "upstream-allow": true, "trusted-proxy": true, "audit-log": true, "hosts": true, "database-password-file": true,
		"operator-keys": true, "metrics-listen": true, "metrics-stores": true, "traces-endpoint": true,
		"webhook-secret-file": true, "webhook-url": true, "webhook-allow": true, "webhook-hosts": true,
		"request-headers": true, "auth-check-any-store": true, "rate": true, "max-stored": true, "max-database": true, // 0, which pflag does not print
	}
	each(t, func(t *testing.T, flag *pflag.Flag, _, _, _ string) {
		for line := range strings.Lines(stdout.String()) {
			if !strings.HasPrefix(strings.TrimSpace(line), "--"+flag.Name+" ") {
				continue
			}
			end := "[" + variable(flag.Name) + "]"
			if !noDefault[flag.Name] {
				end += " (default " + flag.DefValue + ")"
			}
			if !strings.HasSuffix(line, end+"\n") {
				t.Errorf("%q does not end with %q", line, end)
			}
			return
		}
		t.Error("the help has no line for the flag")
	})
}

// Settings that don't go together are refused before anything is done.
func TestTogether(t *testing.T) {
	for args, want := range map[string]string{
		"--tls-cert=a":                                     "--tls-cert and --tls-key",
		"--tls-key=a":                                      "--tls-cert and --tls-key",
		"--upstream=https://a --upstream-cert=a":           "--upstream-cert and --upstream-key",
		"--upstream-cert=a --upstream-key=b":               "upstream with https://",
		"--upstream-ca=a":                                  "upstream with https://",
		"--upstream-allow=10.0.0.0/8":                      "--upstream-guard=on",
		"--auth=keys=a --passthrough=on":                   "does not go with",
		"--upstream-allow=10.0.0.0/8 --upstream-guard=off": "--upstream-guard=on",
	} {
		if said := serveUsage(t, nil, append([]string{"--upstream=http://localhost:1"}, strings.Fields(args)...)...); !strings.Contains(said, want) {
			t.Errorf("%s: said %q, want %q", args, said, want)
		}
	}
}

func TestServiceOptions(t *testing.T) {
	s := parse(t, []string{"--retry-limit=0", "--max-queued=0"}, nil)
	log := slog.New(slog.DiscardHandler)
	if o := s.serviceOptions(log); *o.Retries.Limit != 0 || *o.Limits.MaxQueued != 0 || o.Logger != log {
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
		"SHEAF_LOGLEVEL=x":              "SHEAF_LOGLEVEL is not a setting of sheaf serve; did you mean SHEAF_LOG_LEVEL?",
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

// TestStoreClasses: the first class whose pattern fits counts; without any there is one class.
func TestStoreClasses(t *testing.T) {
	for text, want := range map[string]map[string]string{
		"gold=47*|4812,silver=4*": {"4711": "gold", "4812": "gold", "48": "silver", "5": "other", "": "other"},
		"each":                    {"4711": "4711", "": "other"},
	} {
		classes, err := parseClasses(text)
		if err != nil {
			t.Fatal(err)
		}
		for store, class := range want {
			if got := classes.class()(store); got != class {
				t.Errorf("%s: the store %q is %q, want %q", text, store, got, class)
			}
		}
	}
	none := storeClasses{}
	if none.class() != nil {
		t.Error("without classes there is one")
	}
	for _, text := range []string{"gold=", "=4*", "gold=[", "a=1,"} {
		if _, err := parseClasses(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}
