package sheaf

import (
	"crypto/tls"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/sheafapi/sheaf/internal/governor"
	"go.opentelemetry.io/otel/trace"
)

// Options configure a Service. Only Upstream.URL is required. A field that is zero or nil has its
// default value. Where 0 is a valid setting, the field is a pointer: Retries{Limit: new(0)}
// disables retries.
type Options struct {
	Upstream Upstream
	Auth     Auth
	Database Database
	Retries  Retries
	Limits   Limits
	Webhooks Webhooks
	Observe  Observe

	// ShutdownTimeout is how long Run waits for requests in flight once its context has ended.
	// Default: 30s.
	ShutdownTimeout time.Duration
	// Logger gets the log. Default: slog.Default().
	Logger *slog.Logger
}

// Upstream is the API that receives the requests of batches.
type Upstream struct {
	// URL is the API's base URL. {storeId} in it stands for the store, as in
	// http://127.0.0.1:9000/api/v3/{storeId}. Leave {storeId} out for an API without tenants. With
	// a Handler, only the path of the URL is used.
	URL string
	// Handler, if set, answers the requests in this process instead of a server at URL.
	Handler http.Handler
	// TLS is the base configuration of connections to an https upstream: trusted authorities and a
	// client certificate. Default: the system's authorities, no certificate.
	TLS *tls.Config

	// RequestHeaders are additional headers that requests of a batch may carry. Accept and
	// Accept-*, Content-Type, Content-Language, If-*, Prefer, Range, User-Agent, Idempotency-Key,
	// traceparent, tracestate and X-Request-Id are always allowed. New refuses headers that could
	// mislead an API, such as X-Forwarded-For, X-HTTP-Method-Override and Remote-User.
	RequestHeaders []string
	// Guard refuses connections to addresses that are not public. The address is checked when the
	// connection is made. Use it if somebody else controls the upstream's DNS name. GuardAllow
	// lists networks that are allowed nevertheless.
	Guard      bool
	GuardAllow []netip.Prefix
	// Passthrough forwards all other calls below /api/v3/{storeId}/ to the upstream unchanged,
	// so that clients of the API need only one base URL.
	Passthrough bool

	// Timeout limits one attempt, from dialing to the last byte of the answer. Default: 30s.
	Timeout time.Duration
	// Rate limits the requests sent with one credential by all services that share the database.
	// Default: no fixed limit; the upstream's 429 answers set the pace.
	Rate Rate
	// Limits limit the requests to parts of the API, in addition to Rate. If several limits match a
	// request, all of them apply.
	Limits []RouteLimit
	// Success lists the status codes that count as success, separated by commas: 200,201,404. 2xx
	// stands for all from 200 to 299. Default: 2xx.
	Success string
	// FailWhen holds at most 10 JSON pointers (RFC 6901), such as /errors. An answer with such a value
	// in its body is a failure, whatever its status code, unless the value is null, false or an empty
	// string, array or object. Default: none.
	FailWhen []string
}

// Auth says which callers may use the service. With neither CheckURL nor KeysFile, every token is
// accepted: a batch belongs to the token that created it, and the upstream judges the token.
type Auth struct {
	// CheckURL is a URL of the API, with {storeId} as in Upstream.URL. The service calls it with
	// the caller's token. A 2xx answer admits the caller to all batches of the store for a minute;
	// 401 and 403 are passed on to the caller.
	CheckURL string
	// CheckAnyStore allows a CheckURL without {storeId}. Every token that the API accepts can then
	// read, cancel and delete the batches of every store. If CheckAnyStore is false, New refuses
	// such a URL.
	CheckAnyStore bool
	// KeysFile is a file of keys created by sheaf keys. Only these keys are admitted, and the
	// upstream gets the credential stored with the key. It can't be combined with CheckURL. See
	// Service.Reload.
	KeysFile string
	// OperatorKeysFile is a file of keys created by sheaf keys. Those with the right to operate may
	// see the state of the whole service, and release and end quarantined batches. If KeysFile is
	// set, put operators' keys into that file instead.
	OperatorKeysFile string
	// TrustedProxies are the networks of proxies whose X-Forwarded-For is trusted. The service
	// takes a caller's address from it to limit guessed tokens, to share resources fairly, and for
	// the audit log.
	TrustedProxies []netip.Prefix
}

// Database configures where batches are stored.
type Database struct {
	// URL is "sqlite:FILE", or the URL of a PostgreSQL database (version 14 or later) that any
	// number of services may share: "postgres://USER:PASSWORD@HOST:PORT/NAME?PARAMETERS". Default:
	// sqlite:sheaf.db.
	//
	// Parameters are those of libpq and these three. pool_max_conns is the maximum number of
	// connections (default 8, at least 4). sheaf_password_file=FILE reads the password from a file
	// with mode 0600 or 0640. sheaf_accelerators=off disables the use of LISTEN, NOTIFY and
	// advisory locks, for databases that only appear to support them; the takeover from a dead
	// service then takes 11 to 13 s instead of 2 s.
	URL string
	// NoMigrations leaves PostgreSQL's schema unchanged. New refuses a schema that is not up to
	// date; see Migrate.
	NoMigrations bool

	// SecretKeyFile holds the key that encrypts credentials: 32 bytes in base64 on one line, mode
	// 0600. With PostgreSQL it is required, and every service needs the same one. With SQLite the
	// default is the database's file name plus ".key"; it is created together with the database.
	SecretKeyFile string
	// AbandonCredentials lets the service start with a key that isn't the database's. Requests
	// that were not sent yet become NOT_EXECUTED.
	AbandonCredentials bool
	// Retention is how long a batch is kept after its end, at least 1h. Default: 168h.
	Retention time.Duration
}

// Retries configure what happens to a request that fails.
type Retries struct {
	// Limit is how often a failed request is retried in a batch with stopOnFirstFailure=false, unless
	// the batch has its own limit. Default: 5.
	Limit *int
	// Interval is the pause before a retry, unless the batch has its own pauses. Default: 3s.
	Interval time.Duration
	// OutageLimit is how long an outage of the upstream may last before its failures count. Until
	// then, requests wait for its end (docs/contract.md#outages). new(0) means that failures always
	// count. Default: 1h.
	OutageLimit *time.Duration
	// ThrottleLimit is how long the upstream may refuse a request because of a rate limit before
	// the request fails. If the upstream names a time beyond it, the request fails at once.
	// Default: 20m.
	ThrottleLimit time.Duration
	// InDoubt also retries a POST or PATCH whose outcome is unknown. Set it only if the upstream
	// honors the Idempotency-Key.
	InDoubt bool
}

// Limits keep one caller from using up resources that all callers share. A queue holds the batches
// of one store or, if neither Auth.CheckURL nor Auth.KeysFile is set, those of one token in a
// store.
type Limits struct {
	MaxBody   int64 // bytes of a create's body, decompressed. Default: 10 MiB
	MaxAnswer int64 // bytes of one answer's body. Default: 5 MiB
	// MaxQueued is the maximum number of unfinished batches in one queue; new(0) means no limit.
	// Default: 10,000.
	MaxQueued *int
	// MaxStored is the maximum size of one queue's batches in bytes, finished ones included: their
	// requests and the bodies of their answers. Default: no limit.
	MaxStored int64
	// MaxDatabase is the maximum size of the whole database in bytes. Creates are refused beyond
	// nine tenths of it, because results still need room, and beyond three quarters for tokens that
	// the upstream has not accepted yet. Default: no limit.
	MaxDatabase  int64
	StoresAtOnce int // queues that run at the same time. Default: 4096
	MaxOutbound  int // requests in flight at the same time. Default: 1024
}

// Webhooks configure the callbacks at the end of a batch.
type Webhooks struct {
	// SecretFile enables callbacks and the parameter callbackUrl of a create. It holds one or two
	// Standard Webhooks secrets that sign callbacks, one per line, and has mode 0600.
	SecretFile string
	// URL is called at the end of every batch that has no callbackUrl. Default: none.
	URL string
	// Allow lists networks that may be called although they are not public. Default: none.
	Allow []netip.Prefix
	// Hosts lists the only hosts that may be called. Default: all.
	Hosts []string
}

// Observe configures what the service reports about itself. See also Service.Metrics.
type Observe struct {
	// AuditLog, if set, gets a JSON line for each call about batches or by operators: who created,
	// read or canceled what. Each line is one call of Write. It has no tokens, bodies, paths or
	// queries. Repeated reads by one caller are logged once a minute. A failed Write is logged and
	// doesn't fail the call.
	AuditLog io.Writer
	// StoreClass returns the class in which a store is counted. Metrics have one set of values for
	// each class, so use few classes. StoreClass is called with "" for stores that are not counted
	// one by one. It must be quick and safe for concurrent use. Default: one class, "all".
	StoreClass func(store string) string
	// TracerProvider traces calls, batches and the requests they send. Default: no traces; the
	// caller's trace is still passed on to the upstream.
	TracerProvider trace.TracerProvider
}

// Rate is N requests in each period Per, evenly spread, such as {600, time.Minute}. The zero value
// means no limit.
type Rate struct {
	N   int
	Per time.Duration
}

// Valid reports whether the rate is between 1 in 24h and 1,000,000 in 1s.
func (r Rate) Valid() bool { return governor.Rate(r).Valid() }

// RouteLimit limits the requests whose method and path match. Rate or Concurrency is required. A
// request that must wait doesn't delay other requests of a parallel batch.
type RouteLimit struct {
	// Match is a method, or * for any, and a pattern of the path: "GET /orders*". In the pattern, *
	// stands for any text, with slashes too. The path is the one below Upstream.URL, as it is sent,
	// without the query.
	Match string
	// Rate applies to all services that share the database.
	Rate Rate
	// Concurrency is how many requests may be in flight at once. It applies to each service, because
	// services that share a database don't share places.
	Concurrency int
	// Per says which requests are counted together. Default: PerCredential.
	Per Scope
}

// Scope says which requests a RouteLimit counts together.
type Scope uint8

// The scopes.
const (
	PerCredential Scope = iota // those with the same upstream credential
	PerStore                   // those of one store
	PerAll                     // all
)
