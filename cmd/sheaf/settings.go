package main

import (
	"log/slog"
	"math"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/sheafapi/sheaf"
	"github.com/sheafapi/sheaf/internal/private"
	"github.com/spf13/pflag"
)

// settings are the settings of sheaf serve. Each is a flag, an environment variable and a key of
// the settings file, and holds a checked value after parsing.
type settings struct {
	config  string // the value of --config; empty: the variable names the file, or there is none
	options sheaf.Options

	listen     addresses
	tls        tlsFiles
	hosts      []string // names accepted in the Host header, besides this machine's own
	ui         bool
	migrate    bool
	authChosen bool   // --auth is set explicitly
	auditLog   string // a file; empty: none
	log        logSettings
}

// addresses are where sheaf serve listens.
type addresses struct {
	api     string
	metrics string // empty: metrics are served at the API's address; "off": nowhere
}

// tlsFiles are the PEM files of --tls.
type tlsFiles struct {
	cert, key                             string // for callers; empty: no TLS
	upstreamCA, upstreamCert, upstreamKey string
}

// logSettings are the value of --log-format.
type logSettings struct {
	json  bool
	level slog.Level
}

// The limits of values.
const (
	minDuration  = time.Millisecond // 0 would mean the library's default
	minRetention = time.Hour        // see docs/contract.md
	maxCount     = math.MaxInt32
	// maxBytes is this low because a value in SQLite holds less than 1 GB, and the JSON of an answer
	// can be longer than the answer.
	maxBytes = 512 << 20
	// maxStored is more than any database can hold.
	maxStored = 1 << 60
)

// newSettings returns settings that hold the defaults, and the flags that change them.
func newSettings() (*settings, *pflag.FlagSet) {
	s := &settings{}
	o := &s.options
	f := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	f.SortFlags = false

	addParts(f, "listen", "127.0.0.1:8080", "address", "address of the API; metrics=ADDRESS|off",
		part{"ADDRESS", into(&s.listen.api, parseAddress)}, part{"metrics=ADDRESS|off", into(&s.listen.metrics, parseMetrics)})
	addParts(f, "tls", "", "files", "certificates and keys in PEM files: cert=FILE,key=FILE",
		part{"cert=FILE", into(&s.tls.cert, private.Name)}, part{"key=FILE", into(&s.tls.key, private.Name)},
		part{"upstream-ca=FILE", into(&s.tls.upstreamCA, private.Name)},
		part{"upstream-cert=FILE", into(&s.tls.upstreamCert, private.Name)}, part{"upstream-key=FILE", into(&s.tls.upstreamKey, private.Name)})
	add(f, "hosts", "", "names", "Host names to accept when --listen is a loopback address", into(&s.hosts, parseHosts))
	add(f, "trusted-proxy", "", "networks", "trust X-Forwarded-* from these proxies: 10.1.0.7", into(&o.Auth.TrustedProxies, parseNetworks))
	add(f, "passthrough", "off", "on|off", "forward all other calls to the upstream unchanged", into(&o.Upstream.Passthrough, parseSwitch))
	add(f, "ui", "on", "on|off", "serve the dashboard at /ui/", into(&s.ui, parseSwitch))
	add(f, "shutdown-timeout", "30s", "duration", "how long to wait for requests in flight at shutdown", into(&o.ShutdownTimeout, parseDuration))
	putUnder(f, "Serving")

	add(f, "auth", "passthrough", "mode", "passthrough, check=URL or keys=FILE", setAuth(&o.Auth))
	add(f, "operator-keys", "", "file", "keys with operator access to the whole service", into(&o.Auth.OperatorKeysFile, private.Name))
	add(f, "audit-log", "", "file", "log each call to the batch API to this file, as a JSON line", into(&s.auditLog, private.Name))
	putUnder(f, "Callers")

	add(f, "upstream", "", "url", "the API, such as http://127.0.0.1:9000/api/v3/{storeId}; required", into(&o.Upstream.URL, parseUpstream))
	add(f, "upstream-guard", "off", "on|off|nets", "connect only to public addresses and these networks", setGuard(&o.Upstream))
	add(f, "request-headers", "", "names", "additional headers that requests may carry: X-Locale,X-Tenant", into(&o.Upstream.RequestHeaders, parseHeaders))
	add(f, "request-timeout", "30s", "duration", "limit for one attempt, up to the answer's last byte", into(&o.Upstream.Timeout, parseDuration))
	add(f, "rate", "", "rate", "maximum rate per credential: 600/m, 10/s or 100/10s", into(&o.Upstream.Rate, parseRate))
	add(f, "success", "2xx", "codes", "status codes that count as success; fail-when=POINTERS", setSuccess(&o.Upstream))
	addParts(f, "max-outbound", "1024", "count", "maximum requests in flight; stores=COUNT",
		part{"COUNT", into(&o.Limits.MaxOutbound, parseCount(1))}, part{"stores=COUNT", into(&o.Limits.StoresAtOnce, parseCount(1))})
	putUnder(f, "Upstream")

	add(f, "retry-limit", "5", "count", "retries of a failed request; 0: none", into(&o.Retries.Limit, optional(parseCount(0))))
	add(f, "retry-interval", "3s", "duration", "pause before a retry", into(&o.Retries.Interval, parseDuration))
	add(f, "outage-limit", "1h", "duration", "longest outage that requests wait for; 0: none", into(&o.Retries.OutageLimit, optional(parseLimit)))
	add(f, "throttle-limit", "20m", "duration", "how long rate limits may delay a request", into(&o.Retries.ThrottleLimit, parseDuration))
	add(f, "in-doubt", "fail", "fail|retry", "for unknown outcomes; retry needs Idempotency-Key",
		into(&o.Retries.InDoubt, oneOf(choice[bool]{"fail", false}, choice[bool]{"retry", true})))
	putUnder(f, "Retries")

	addDatabase(f, &o.Database.URL)
	add(f, "secret-key-file", "", "file", "key that encrypts credentials; required with PostgreSQL", into(&o.Database.SecretKeyFile, private.Name))
	add(f, "abandon-credentials", "off", "on|off", "start with a new secret key and drop unsent requests", into(&o.Database.AbandonCredentials, parseSwitch))
	f.Lookup("abandon-credentials").NoOptDefVal = "on"
	add(f, "migrate", "on", "on|off", "update PostgreSQL's schema at startup", into(&s.migrate, parseSwitch))
	add(f, "retention", "168h", "duration", "how long batches are kept after they end", into(&o.Database.Retention, parseRetention))
	putUnder(f, "Database")

	add(f, "max-answer", "5MiB", "size", "maximum size of an answer's body", into(&o.Limits.MaxAnswer, parseSize))
	add(f, "max-queued", "10000", "count", "maximum unfinished batches in a queue; 0: no limit", into(&o.Limits.MaxQueued, optional(parseCount(0))))
	addParts(f, "max-database", "0", "size", "maximum database size; queue=SIZE for each queue; 0: no limit",
		part{"SIZE", into(&o.Limits.MaxDatabase, parseStored)}, part{"queue=SIZE", into(&o.Limits.MaxStored, parseStored)})
	putUnder(f, "Limits")

	add(f, "webhook-secret-file", "", "file", "secret that signs callbacks; enables callbackUrl", into(&o.Webhooks.SecretFile, private.Name))
	add(f, "webhook-url", "", "url", "callback for batches without a callbackUrl", into(&o.Webhooks.URL, parseCallback))
	add(f, "webhook-allow", "", "names", "private networks to allow; if hosts are listed, allow only those", setReceivers(&o.Webhooks))
	putUnder(f, "Callbacks")

	addParts(f, "log-format", "text", "format", "text or json, on stderr; with a level: json,debug",
		part{"FORMAT", into(&s.log.json, oneOf(choice[bool]{"text", false}, choice[bool]{"json", true}))},
		part{"LEVEL", into(&s.log.level, oneOf(choice[slog.Level]{"debug", slog.LevelDebug}, choice[slog.Level]{"info", slog.LevelInfo},
			choice[slog.Level]{"warn", slog.LevelWarn}, choice[slog.Level]{"error", slog.LevelError}))})
	putUnder(f, "Logging")
	return s, f
}

// addDatabase adds the flag that names the database.
func addDatabase(f *pflag.FlagSet, to *string) {
	add(f, "database", "sqlite:sheaf.db", "url", "sqlite:FILE or postgres://USER@HOST/NAME", into(to, parseDatabase))
}

// load sets what the command line leaves open from the environment and the settings file, and
// checks the settings. It returns the origin of each.
func (s *settings) load(f *pflag.FlagSet, vars map[string]string) (origins, error) {
	from, err := configure(f, vars, s.configFile(vars))
	if err != nil {
		return nil, err
	}
	if s.options.Upstream.Limits, err = readLimits(s.configFile(vars)); err != nil {
		return nil, err
	}
	s.authChosen = from["auth"] != byDefault
	return from, s.check()
}

// check returns an error if settings that are valid one by one don't go together.
func (s *settings) check() error {
	t, a := &s.tls, &s.options.Auth
	switch {
	case s.options.Upstream.URL == "":
		return usagef("--upstream (or %s) is required, such as http://127.0.0.1:9000/api/v3/{storeId}", variable("upstream"))
	case (t.cert == "") != (t.key == ""):
		return usagef("--tls needs both cert=FILE and key=FILE, but one of them is missing")
	case (t.upstreamCert == "") != (t.upstreamKey == ""):
		return usagef("--tls needs both upstream-cert=FILE and upstream-key=FILE, but one of them is missing")
	case (t.upstreamCert != "" || t.upstreamCA != "") && !strings.HasPrefix(strings.ToLower(s.options.Upstream.URL), "https:"):
		return usagef("--tls has files for an https:// upstream, but --upstream does not begin with https://")
	case !s.authChosen && !isLoopback(s.listen.api):
		return usagef("--listen %s can be reached from other machines, and --auth is not set, so anybody could store batches with made-up tokens. "+
			"Set --auth (or %s) to check=URL or keys=FILE, or to passthrough if anybody may", s.listen.api, variable("auth"))
	case a.CheckURL != "" && !strings.Contains(a.CheckURL, "{storeId}") && !a.CheckAnyStore:
		return usagef("--auth check=URL has no {storeId} in its URL, so every valid token would own the batches of every store. " +
			"Put {storeId} into its path, or use check-any-store=URL if all callers may share everything")
	case a.KeysFile != "" && s.options.Upstream.Passthrough:
		return usagef("--passthrough can't be combined with --auth keys: the upstream does not know the keys")
	case a.KeysFile != "" && a.OperatorKeysFile != "":
		return usagef("--operator-keys can't be combined with --auth keys: put the operators' keys into %s", a.KeysFile)
	}
	return nil
}

// serviceOptions returns the options of the service.
func (s *settings) serviceOptions(log *slog.Logger) sheaf.Options {
	o := s.options
	o.Logger, o.Database.NoMigrations = log, !s.migrate
	return o
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
