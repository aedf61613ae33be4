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

// Options configure a Service. Only Upstream has to be set; every other zero
// value stands for the default.
type Options struct {
	// Upstream is the address of the API that sub-requests go to, a template in
	// which {storeId} stands for the store: http://127.0.0.1:9000/api/v3/{storeId}.
	// A template without {storeId} serves an API that has no tenants. With
	// UpstreamHandler only its path counts.
	Upstream string
	// UpstreamHandler, if set, answers the sub-requests in this process, with
	// no socket between.
	UpstreamHandler http.Handler

	// UpstreamTLS is what connections to an https upstream begin from: the authorities that
	// are trusted, a certificate to show. Default: the system's authorities, no certificate.
	UpstreamTLS *tls.Config
	// RequestHeaders are names of headers that a batch's requests may carry besides the usual
	// ones: Accept and Accept-*, Content-Type, Content-Language, If-*, Prefer, Range, User-Agent,
	// Idempotency-Key, traceparent, tracestate and X-Request-Id. Names by which an API could be
	// misled (X-Forwarded-For, X-HTTP-Method-Override, Remote-User and their like) are refused
	// by New.
	RequestHeaders []string
	// UpstreamGuard refuses to connect to an address of the upstream that is not public,
	// as it is at the moment of connecting: for an upstream whose name somebody else
	// controls. UpstreamAllow are networks that are let through all the same.
	UpstreamGuard bool
	UpstreamAllow []netip.Prefix

	// AuthCheck is an address of the API, a template as Upstream, that is asked with the
	// caller's token before anything is done for it: whom it answers 2xx may use the
	// store's batches, all of them together, for a minute; 401 and 403 are passed on.
	// Empty: nobody checks a token before the upstream does, and a batch is its token's.
	AuthCheck string
	// AuthCheckAnyStore allows an AuthCheck without {storeId}. Every token that the API accepts
	// there may then use, read and delete the batches of every store. Without it New refuses
	// such an address.
	AuthCheckAnyStore bool
	// AuthKeys is a file of keys that the operator issued (sheaf keys): only those are let
	// in, and the upstream gets the credential in their place. Instead of AuthCheck. See Reload.
	AuthKeys string
	// AuditLog, if set, gets a JSON line, in one call of Write, for each call to the API of batches: who
	// created, read and cancelled what, without tokens, bodies, paths or queries. The same read by the same caller is told
	// once a minute. That it fails is logged, and no call's failure.
	AuditLog io.Writer
	// TrustedProxies are networks whose X-Forwarded-For is believed, where refused tokens
	// are counted by address, and in the audit log.
	TrustedProxies []netip.Prefix

	// Passthrough has the service forward everything else below /api/v3/{storeId}/ to the
	// upstream, as it came, so that one base URL serves an API's clients unchanged.
	Passthrough bool

	// Database is where batches are kept: "sqlite:FILE", or a PostgreSQL database
	// (version 14 or later) that any number of services share, as
	// "postgres://USER:PASSWORD@HOST:PORT/NAME?PARAMETERS" (RFC 3986; the parameters of
	// libpq, sslmode and several hosts among them). Default: sqlite:sheaf.db.
	Database string
	// DatabaseConnections is how many connections to PostgreSQL a service opens at
	// most, at least 4. Default: 8.
	DatabaseConnections int
	// NoMigrations leaves PostgreSQL's schema as it is: one that Migrate has not brought
	// up to date is refused.
	NoMigrations bool
	// NoAccelerators does without LISTEN, NOTIFY and advisory locks, for databases that
	// only look as if they had them: a dead service is noticed after 13 s instead of 3.
	NoAccelerators bool
	// SecretKeyFile holds the key that credentials are encrypted with: 32 bytes
	// in base64 on one line, mode 0600. With SQLite the default is the database's file
	// name with ".key" appended, and it is made if both it and the database are new.
	// With PostgreSQL it is required, and the same for every service.
	SecretKeyFile string
	// AbandonCredentials lets the service start with a key that is not the
	// database's: what was not sent becomes NOT_EXECUTED.
	AbandonCredentials bool

	RequestTimeout time.Duration // bound on one attempt, from dialling to the answer's last byte. Default: 30s
	RetryLimit     int           // retries after a failure, with stopOnFirstFailure=false. Default: 5; negative: none
	RetryInterval  time.Duration // pause before a retry. Default: 3s
	ThrottleLimit  time.Duration // how long a request may be answered 429 before that is a failure. Default: 20m
	Success        Success       // which answers are no failure. Default: Success2xx
	RetryInDoubt   bool          // send a POST or PATCH again whose outcome is unknown: only for upstreams that honour the Idempotency-Key

	// Rate is how many requests may be sent with one credential, by all services over one
	// database together. Default: no limit but what the upstream teaches.
	Rate Rate

	// WebhookSecretFile turns callbacks on (the parameter callbackUrl of create): what signs
	// them, one or two secrets of Standard Webhooks, a line each, mode 0600. WebhookURL is
	// told of every batch that names no other address. Receivers have to be public, or in
	// WebhookAllow; where there are WebhookHosts, at one of these.
	WebhookSecretFile string
	WebhookURL        string
	WebhookAllow      []netip.Prefix
	WebhookHosts      []string

	MaxBody   int64 // bytes of a create body, after decompression. Default: 10 MiB
	MaxAnswer int64 // bytes of one answer's body. Default: 5 MiB
	MaxQueued int   // unfinished batches of one queue. Default: 10,000; negative: no limit
	MaxStored int64 // bytes of the batches of one queue, finished ones too: requests, and bodies of answers. Default: no limit
	// MaxDatabase is how many bytes the database may take. Beyond nine tenths of it creates are
	// refused; the rest is for results. Default: no limit.
	MaxDatabase int64
	Retention   time.Duration // how long a batch is kept after its end, at least 1h. Default: 168h

	StoresAtOnce    int           // queues at work at the same time. Default: 4096
	MaxOutbound     int           // sub-requests under way at the same time. Default: 1024
	ShutdownTimeout time.Duration // how long Run waits for what is under way when its context ends. Default: 30s

	// OperatorKeys is a file of keys (sheaf keys) of which those with the right to operate may see how the
	// whole service does. With AuthKeys they are in that file.
	OperatorKeys string
	// NoMetrics leaves out counting what happens: Metrics tells only how things stand, and an operator
	// not how the upstream did.
	NoMetrics bool
	// StoreClass names the class that a store is counted in; metrics have that many values for each
	// class. Called with an empty store for those that are not told apart. It has to be quick, and may be
	// called from many goroutines. Default: one class, "all".
	StoreClass func(store string) string
	// TracerProvider traces calls, batches and the requests that they send. Default: nothing is traced; a caller's
	// own trace is passed on to the upstream all the same.
	TracerProvider trace.TracerProvider

	Logger *slog.Logger // Default: slog.Default()
}

// Rate is N requests in each span of time, evenly spread, such as {600, time.Minute}.
type Rate = governor.Rate

// Success says which answers of the upstream are no failure.
type Success uint8

// The meanings of success.
const (
	Success2xx Success = iota // any 2xx
	Success200                // 200 alone, the letter of the seed document
)
