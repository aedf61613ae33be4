package main

import (
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/sheafapi/sheaf"
	"github.com/sheafapi/sheaf/internal/private"
	"github.com/spf13/pflag"
)

// settings are what sheaf serve can be told. Every one of them is a flag and an
// environment variable, and holds a checked value after parsing.
type settings struct {
	config    string // a file of settings; empty: none, or the variable's
	listen    string
	options   sheaf.Options
	logFormat string // "text" or "json"
	logLevel  slog.Level

	auth        authMode
	authChosen  bool // the operator has set --auth
	observing   observing
	auditLog    string   // a file; empty: none
	tls         files    // what the API is served with; empty: without TLS
	upstreamTLS files    // what the upstream is shown
	upstreamCA  string   // a file; empty: the system's authorities
	hosts       []string // names that the service is called by, besides this machine's own
	password    string   // a file with the database's password; empty: none
}

// files are those of a certificate and its key.
type files struct{ cert, key string }

// load takes the settings from the environment and the file where the command line has none, and
// checks them. It returns where each comes from.
func (s *settings) load(f *pflag.FlagSet, vars map[string]string) (origins, error) {
	from, err := configure(f, vars, s.configFile(vars))
	if err != nil {
		return nil, err
	}
	s.authChosen = from["auth"] != byDefault
	return from, s.check()
}

// isLoopback reports whether only this machine can reach an address.
func isLoopback(address string) bool {
	host, _, _ := net.SplitHostPort(address)
	return isLoopbackHost(host)
}

// isLoopbackHost reports whether a name or address refers to this machine.
func isLoopbackHost(host string) bool {
	ip, err := netip.ParseAddr(host)
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	return name == "localhost" || strings.HasSuffix(name, ".localhost") || err == nil && ip.Unmap().IsLoopback()
}

// check returns what is wrong with settings that are fine one by one.
func (s *settings) check() error {
	switch {
	case s.options.Upstream.URL == "":
		return usagef("--upstream (or %s) is required, such as http://127.0.0.1:9000/api/v3/{storeId}", variable("upstream"))
	case (s.tls.cert == "") != (s.tls.key == ""):
		return usagef("--tls-cert and --tls-key (or %s and %s) go together: the one is missing", variable("tls-cert"), variable("tls-key"))
	case (s.upstreamTLS.cert == "") != (s.upstreamTLS.key == ""):
		return usagef("--upstream-cert and --upstream-key (or %s and %s) go together: the one is missing", variable("upstream-cert"), variable("upstream-key"))
	case (s.upstreamTLS.cert != "" || s.upstreamCA != "") && !strings.HasPrefix(strings.ToLower(s.options.Upstream.URL), "https:"):
		return usagef("--upstream-ca, --upstream-cert and --upstream-key are for an upstream with https://, and --upstream has none")
	case !s.authChosen && !isLoopback(s.listen):
		return usagef("--listen %s can be reached from other machines, and --auth is not set: without it, anybody could store batches with made-up tokens. "+
			"Set --auth (or %s) to check=URL or keys=FILE, or to passthrough if anybody may", s.listen, variable("auth"))
	case s.auth.check != "" && !strings.Contains(s.auth.check, "{storeId}") && !s.options.Auth.CheckAnyStore:
		return usagef("--auth check=URL has no {storeId} in its address, so every valid token would own the batches of every store: put {storeId} into its path, or add --auth-check-any-store if all callers may share everything")
	case s.options.Auth.CheckAnyStore && s.auth.check == "":
		return usagef("--auth-check-any-store is about --auth check=URL, which is not set")
	case s.auth.keys != "" && s.options.Upstream.Passthrough:
		return usagef("--passthrough does not go with --auth keys: a call would go to the upstream with a key that it does not know")
	case s.auth.keys != "" && s.options.Auth.OperatorKeysFile != "":
		return usagef("--operator-keys does not go with --auth keys: put the operators' keys into %s", s.auth.keys)
	case s.observing.metricsListen != "" && !s.observing.metrics:
		return usagef("--metrics-listen says where metrics are served, and --metrics is off")
	case len(s.options.Upstream.GuardAllow) > 0 && !s.options.Upstream.Guard:
		return usagef("--upstream-allow makes exceptions from --upstream-guard, which is off: add --upstream-guard=on")
	}
	return nil
}

// The bounds of values.
const (
	leastDuration  = time.Millisecond // 0 would stand for the library's default
	leastRetention = time.Hour        // docs/contract.md#storage-credentials-and-retention
	mostCount      = math.MaxInt32
	// mostBytes: a value in SQLite holds less than 1 GB, and the JSON of an answer
	// can be longer than the answer.
	mostBytes = 512 << 20
	// mostStored is more than a database of any size takes.
	mostStored = 1 << 60
)

// newSettings returns settings that hold the defaults, and the flags that change
// them.
func newSettings() (*settings, *pflag.FlagSet) {
	s := &settings{}
	o := &s.options
	f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	f.SortFlags = false

	add(f, "listen", "127.0.0.1:8080", "address", "host and port to serve on; port 0: a free one", &s.listen, parseAddress)
	add(f, "hosts", "", "hosts", "comma-separated names that are accepted in the Host header besides localhost and loopback addresses; applies only if --listen is a loopback address, for example behind a proxy on this machine; other names are refused because another site's page could use them to reach the service through a browser", &s.hosts, parseHosts)
	add(f, "upstream", "", "url", "where requests go, such as http://127.0.0.1:9000/api/v3/{storeId}; required", &o.Upstream.URL, parseUpstream)
	add(f, "auth", "passthrough", "mode", "who is let in: passthrough (a batch belongs to its token, and the upstream judges that; beyond this machine only if set explicitly), check=URL (the API is asked with the caller's token first, such as check=http://127.0.0.1:9000/api/v3/{storeId}/profile) or keys=FILE (keys made by sheaf keys)", &s.auth, parseAuth)
	add(f, "auth-check-any-store", "false", "bool", "accept --auth check=URL without {storeId}: every valid token may use, read and delete the batches of every store", &o.Auth.CheckAnyStore, parseBool)
	f.Lookup("auth-check-any-store").NoOptDefVal = "true"
	add(f, "audit-log", "", "file", "append a JSON line for each call to the API of batches: who created, read and cancelled what; opened anew at SIGHUP", &s.auditLog, parseFile)
	add(f, "operator-keys", "", "file", "keys made by sheaf keys, of which those with the right to operate may see how the whole service does; with --auth keys=FILE they are in that file", &o.Auth.OperatorKeysFile, parseFile)
	add(f, "trusted-proxy", "", "networks", "proxies whose X-Forwarded-For is believed, where refused tokens are counted by address and in the audit log, such as 10.1.0.7/32,fd00::7/128; name the proxies only, because whoever is trusted can write any address", &o.Auth.TrustedProxies, parseNetworks)
	add(f, "passthrough", "off", "off|on", "forward everything else below /api/v3/{storeId}/ to the upstream as it came, so that one base URL serves all of an API", &o.Upstream.Passthrough,
		oneOf(choice[bool]{"off", false}, choice[bool]{"on", true}))
	add(f, "tls-cert", "", "file", "serve over TLS with this certificate, and its chain, in PEM; taken up anew when the file changes", &s.tls.cert, parseFile)
	add(f, "tls-key", "", "file", "the key of --tls-cert", &s.tls.key, parseFile)
	add(f, "request-headers", "", "names", "headers that a batch's requests may carry besides the usual ones (Accept, Accept-*, Content-Type, Content-Language, If-*, Prefer, Range, User-Agent, Idempotency-Key, traceparent, tracestate, X-Request-Id), such as X-Api-Version,X-Locale", &o.Upstream.RequestHeaders, parseHeaders)
	add(f, "upstream-ca", "", "file", "authorities that an https upstream is trusted by, in PEM, instead of the system's", &s.upstreamCA, parseFile)
	add(f, "upstream-cert", "", "file", "certificate that an https upstream is shown, in PEM; taken up anew when the file changes", &s.upstreamTLS.cert, parseFile)
	add(f, "upstream-key", "", "file", "the key of --upstream-cert", &s.upstreamTLS.key, parseFile)
	add(f, "upstream-guard", "off", "off|on", "refuse to connect to an upstream's address that is not public, as it is when it is connected to", &o.Upstream.Guard,
		oneOf(choice[bool]{"off", false}, choice[bool]{"on", true}))
	add(f, "upstream-allow", "", "networks", "networks that --upstream-guard lets through, such as 10.1.0.0/16,fd00::/8", &o.Upstream.GuardAllow, parseNetworks)
	addDatabase(f, &o.Database.URL, &s.password)
	add(f, "database-connections", "8", "count", "connections to PostgreSQL at most, at least 4", &o.Database.Connections, parseCount(4))
	add(f, "database-accelerators", "on", "on|off", "use LISTEN and advisory locks where PostgreSQL has them; off: a dead node is noticed after 13s instead of 3s", &o.Database.NoAccelerators,
		oneOf(choice[bool]{"on", false}, choice[bool]{"off", true}))
	add(f, "migrate", "on", "on|off", "bring PostgreSQL's schema up to date at the start; off: refuse one that is not", &o.Database.NoMigrations,
		oneOf(choice[bool]{"on", false}, choice[bool]{"off", true}))

	add(f, "request-timeout", "30s", "duration", "bound on one attempt, from dialling to the answer's last byte", &o.Upstream.Timeout, parseDuration)
	add(f, "retry-limit", "5", "count", "retries after a failure, where the batch says stopOnFirstFailure=false; 0: none", &o.Retries.Limit, optional(parseCount(0)))
	add(f, "retry-interval", "3s", "duration", "pause before a retry", &o.Retries.Interval, parseDuration)
	add(f, "throttle-limit", "20m", "duration", "how long a request may be answered 429 before that is a failure", &o.Retries.ThrottleLimit, parseDuration)
	add(f, "rate", "", "rate", "requests that may be sent with one credential, by all nodes together, evenly spread, such as 600/m, 10/s or 5000/h (default: what the upstream's answers 429 teach)", &o.Upstream.Rate, parseRate)
	add(f, "success", "2xx", "2xx|200", "which answers are no failure: any 2xx, or 200 alone", &o.Upstream.Success,
		oneOf(choice[sheaf.Success]{"2xx", sheaf.Success2xx}, choice[sheaf.Success]{"200", sheaf.Success200}))
	add(f, "in-doubt", "fail", "fail|retry", "a POST or PATCH whose outcome is unknown: retry only if the upstream honours Idempotency-Key", &o.Retries.InDoubt,
		oneOf(choice[bool]{"fail", false}, choice[bool]{"retry", true}))

	add(f, "max-body", "10MiB", "size", "bytes of a create body, after decompression", &o.Limits.MaxBody, parseSize)
	add(f, "max-answer", "5MiB", "size", "bytes of one answer's body", &o.Limits.MaxAnswer, parseSize)
	add(f, "max-queued", "10000", "count", "unfinished batches of one queue; 0: no limit", &o.Limits.MaxQueued, optional(parseCount(0)))
	add(f, "max-stored", "0", "size", "bytes of the batches of one queue, finished ones too: requests, and bodies of answers; 0: no limit", &o.Limits.MaxStored, parseStored)
	add(f, "max-database", "0", "size", "bytes that the whole database may take: beyond nine tenths, creates are answered 507, and running batches still record their results; 0: no limit", &o.Limits.MaxDatabase, parseStored)
	add(f, "retention", "168h", "duration", "how long a batch is kept after its end, at least 1h", &o.Database.Retention, parseRetention)
	add(f, "stores-at-once", "4096", "count", "queues at work at the same time", &o.Limits.StoresAtOnce, parseCount(1))
	add(f, "max-outbound", "1024", "count", "requests under way at the same time", &o.Limits.MaxOutbound, parseCount(1))

	add(f, "webhook-secret-file", "", "file", "what signs callbacks, made by sheaf webhooks new-secret; turns the parameter callbackUrl of create on", &o.Webhooks.SecretFile, parseFile)
	add(f, "webhook-url", "", "url", "told of the end of every batch that names no callbackUrl", &o.Webhooks.URL, parseCallback)
	add(f, "webhook-allow", "", "networks", "networks that are not public and may be called back all the same, such as 127.0.0.0/8 in development", &o.Webhooks.Allow, parseNetworks)
	add(f, "webhook-hosts", "", "hosts", "the only hosts that may be called back, with commas between (default: all)", &o.Webhooks.Hosts, parseHosts)
	add(f, "secret-key-file", "", "file", "the key that credentials are encrypted with; required with PostgreSQL (default with SQLite: its file with .key appended)", &o.Database.SecretKeyFile, parseFile)
	add(f, "abandon-credentials", "false", "bool", "start although the key is not the database's: what was not sent becomes NOT_EXECUTED", &o.Database.AbandonCredentials, parseBool)
	f.Lookup("abandon-credentials").NoOptDefVal = "true"

	add(f, "ui", "on", "on|off", "serve the dashboard at /ui/", &s.observing.ui, oneOf(choice[bool]{"on", true}, choice[bool]{"off", false}))
	add(f, "metrics", "on", "on|off", "count what happens, and serve that for Prometheus at /metrics, without a token", &s.observing.metrics, oneOf(choice[bool]{"on", true}, choice[bool]{"off", false}))
	add(f, "metrics-listen", "", "address", "host and port to serve the metrics on, instead of --listen, and /healthz and /readyz besides: callers can't keep these busy", &s.observing.metricsListen, parseAddress)
	add(f, "metrics-stores", "", "classes", "how stores are told apart in metrics, such as gold=47*|4812,silver=48* (the rest: other), or each: for a few stores only (default: not at all)", &s.observing.classes, parseClasses)
	add(f, "traces-endpoint", "", "url", "send traces there by OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces", &s.observing.traces, parseCollector)
	add(f, "traces-sample", "1", "share", "the share of traces that are recorded, whatever a caller's traceparent says: 0 to 1", &s.observing.sample, parseShare)

	add(f, "log-format", "text", "text|json", "format of the log, which goes to stderr", &s.logFormat,
		oneOf(choice[string]{"text", "text"}, choice[string]{"json", "json"}))
	add(f, "log-level", "info", "debug|info|warn|error", "least level that is logged", &s.logLevel,
		oneOf(choice[slog.Level]{"debug", slog.LevelDebug}, choice[slog.Level]{"info", slog.LevelInfo},
			choice[slog.Level]{"warn", slog.LevelWarn}, choice[slog.Level]{"error", slog.LevelError}))
	add(f, "shutdown-timeout", "30s", "duration", "how long a shutdown waits for what is under way", &o.ShutdownTimeout, parseDuration)
	return s, f
}

// addDatabase adds the flag that names the database.
func addDatabase(f *pflag.FlagSet, to, password *string) {
	add(f, "database", "sqlite:sheaf.db", "database", "where batches are kept: sqlite:FILE or postgres://USER:PASSWORD@HOST:PORT/NAME", to, parseDatabase)
	add(f, "database-password-file", "", "file", "a file with PostgreSQL's password, instead of a password in --database; only its owner and group may have access", password, parseFile)
}

// maxPassword bounds a password file, in bytes.
const maxPassword = 4096

// withPassword returns a database's address with the password in a file.
func withPassword(database, file string) (string, error) {
	if file == "" {
		return database, nil
	}
	u, err := url.Parse(database)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return "", usagef("--database-password-file is for PostgreSQL, but --database does not begin with postgres://")
	}
	if _, given := u.User.Password(); given || u.User.Username() == "" {
		return "", usagef("with --database-password-file, --database must have a user and no password: postgres://USER@HOST:PORT/NAME")
	}
	text, err := private.Read(file, maxPassword)
	if err != nil {
		return "", fmt.Errorf("--database-password-file: %w", err)
	}
	password := strings.TrimRight(string(text), "\r\n")
	if password == "" {
		return "", fmt.Errorf("--database-password-file: %s is empty", file)
	}
	u.User = url.UserPassword(u.User.Username(), password)
	return u.String(), nil
}

// serviceOptions returns the options of the service.
func (s *settings) serviceOptions(log *slog.Logger) sheaf.Options {
	o := s.options
	o.Logger = log
	o.Auth.CheckURL, o.Auth.KeysFile = s.auth.check, s.auth.keys
	o.Observe.StoreClass = s.observing.classes.class()
	return o
}
