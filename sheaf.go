package sheaf

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"github.com/sheafapi/sheaf/internal/admission"
	"github.com/sheafapi/sheaf/internal/api"
	"github.com/sheafapi/sheaf/internal/api/watch"
	"github.com/sheafapi/sheaf/internal/audit"
	"github.com/sheafapi/sheaf/internal/auth"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/cpu"
	"github.com/sheafapi/sheaf/internal/database"
	"github.com/sheafapi/sheaf/internal/engine"
	"github.com/sheafapi/sheaf/internal/governor"
	"github.com/sheafapi/sheaf/internal/outage"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/telemetry"
	"github.com/sheafapi/sheaf/internal/tracing"
	"github.com/sheafapi/sheaf/internal/webhook"
	"go.opentelemetry.io/otel/trace"
)

// Version is the version of this build. Releases set it at link time.
var Version = "dev"

// tracerName is the instrumentation scope of traces.
const tracerName = "github.com/sheafapi/sheaf"

// Service is a batch endpoint in front of one upstream. It serves the API as an http.Handler; its
// method Run runs the batches. Its methods are safe for concurrent use.
type Service struct {
	api      *api.API
	engine   *engine.Engine
	storage  storage.Storage
	sealer   sealer
	upstream *outbound.Client
	room     *admission.Room
	gate     *auth.Gate
	webhooks *webhook.Deliverer // nil: there are no callbacks
	audit    *audit.Log
	counts   *telemetry.Metrics
	metrics  *telemetry.Reporter // counts, and the current state
	hub      *watch.Hub
	cpus     *cpu.Shares
	tracer   trace.Tracer // nil: nothing is traced
	log      *slog.Logger
	keep     time.Duration // how long batches are kept after their end

	unready outage.Log     // readiness checks that failed because of the database
	closers []func() error // close what was opened; Close calls them in reverse order
	closing sync.Once
	closed  error // the result of Close
}

// New opens the database and returns a service that uses it. Close the service when done. If an option
// is invalid or the database can't be used, the error says what to do.
func New(o Options) (*Service, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	s := &Service{
		hub:    &watch.Hub{},
		cpus:   cpu.New(runtime.GOMAXPROCS(0)),
		counts: telemetry.New(telemetry.Options{Version: Version, Class: o.Observe.StoreClass, Logger: o.Logger}),
		audit:  audit.New(o.Observe.AuditLog, o.Logger, auth.Proxies(o.Auth.TrustedProxies).Address),
		log:    o.Logger,
		keep:   o.Database.Retention,
	}
	if o.Observe.TracerProvider != nil {
		s.tracer = o.Observe.TracerProvider.Tracer(tracerName, trace.WithInstrumentationVersion(Version))
	}
	err := s.openUpstream(&o)
	if err == nil {
		err = s.openDatabase(&o)
	}
	if err == nil {
		err = s.openAuth(&o) // needs the secret key
	}
	if err == nil {
		err = s.openWebhooks(&o)
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.engine = s.newEngine(&o)
	s.room = admission.NewRoom(o.Limits.MaxDatabase, s.storage, s.engine.Accepted, o.Logger)
	s.metrics = telemetry.NewReporter(s.counts, telemetry.Sources{Engine: s.engine.State, Room: s.room.Usage, Overview: s.storage.Overview})
	s.api = s.newAPI(&o)
	return s, nil
}

// userAgent names the service to the servers that it calls.
func userAgent() string { return "sheaf/" + Version }

// guard returns the guard for connections to the upstream. A nil guard allows all addresses.
func (o *Options) guard() *outbound.Guard {
	if !o.Upstream.Guard {
		return nil
	}
	return &outbound.Guard{Allow: o.Upstream.GuardAllow}
}

func (s *Service) openUpstream(o *Options) (err error) {
	s.upstream, err = outbound.New(outbound.Options{
		Template: o.Upstream.URL, Handler: o.Upstream.Handler, TLS: o.Upstream.TLS, Guard: o.guard(),
		Timeout: o.Upstream.Timeout, MaxAnswer: o.Limits.MaxAnswer, MaxConns: o.Limits.MaxOutbound,
		UserAgent: userAgent(), RequestHeaders: o.Upstream.RequestHeaders, TrustsProxy: auth.Proxies(o.Auth.TrustedProxies).Trusts, Logger: o.Logger,
	})
	if err != nil {
		return fmt.Errorf("upstream: %w", err)
	}
	s.closers = append(s.closers, func() error { s.upstream.Close(); return nil })
	return nil
}

func (s *Service) openDatabase(o *Options) error {
	db, key, err := database.Open(context.Background(), database.Options{
		URL: o.Database.URL, NoMigrations: o.Database.NoMigrations,
		SecretKeyFile: o.Database.SecretKeyFile, AbandonCredentials: o.Database.AbandonCredentials, Logger: o.Logger,
	})
	if err != nil {
		return err
	}
	s.storage, s.sealer = telemetry.NewDatabase(db, s.counts, s.hub.Changed), sealer{key}
	s.closers = append(s.closers, db.Close)
	return nil
}

func (s *Service) openAuth(o *Options) (err error) {
	if o.Auth.KeysFile != "" && o.Upstream.Passthrough {
		return errors.New("Upstream.Passthrough does not work with Auth.KeysFile: the upstream does not know the keys")
	}
	s.gate, err = auth.Open(auth.Options{
		CheckURL: o.Auth.CheckURL, CheckAnyStore: o.Auth.CheckAnyStore, KeysFile: o.Auth.KeysFile, OperatorKeysFile: o.Auth.OperatorKeysFile,
		TrustedProxies: o.Auth.TrustedProxies, Secret: s.sealer.key,
		TLS: o.Upstream.TLS, Guard: o.guard(), UserAgent: userAgent(), Logger: o.Logger,
	})
	if err != nil {
		return err
	}
	s.closers = append(s.closers, func() error { s.gate.Close(); return nil })
	return nil
}

func (s *Service) openWebhooks(o *Options) (err error) {
	s.webhooks, err = webhook.Open(webhook.Options{
		Storage: s.storage, SecretFile: o.Webhooks.SecretFile, URL: o.Webhooks.URL, Hosts: o.Webhooks.Hosts, Allow: o.Webhooks.Allow,
		UserAgent: userAgent(), Logger: o.Logger, Observe: s.counts.Delivered,
	})
	return err
}

func (s *Service) newEngine(o *Options) *engine.Engine {
	policy := engine.Policy{
		RetryLimit: *o.Retries.Limit, RetryInterval: o.Retries.Interval,
		OutageLimit: *o.Retries.OutageLimit, ThrottleLimit: o.Retries.ThrottleLimit,
		Success: batch.Success{Codes: batch.Codes(o.Upstream.Success), FailWhen: o.Upstream.FailWhen}, RetryInDoubt: o.Retries.InDoubt,
	}
	return engine.New(engine.Options{
		Storage: s.storage, Upstream: s.upstream, Unseal: s.sealer.unseal, CPU: s.cpus, Policy: policy,
		Governor:  governor.New(s.storage, governor.Rate(o.Upstream.Rate), o.Upstream.routeLimits(), o.Limits.MaxOutbound, policy.OutageLimit, policy.CredentialLimit, o.Logger),
		Strangers: s.gate.AdmitsStrangers(), QueuesAtOnce: o.Limits.StoresAtOnce,
		MaxOutbound: o.Limits.MaxOutbound, MaxBody: o.Limits.MaxBody, MaxAnswer: o.Limits.MaxAnswer,
		ShutdownTimeout: o.ShutdownTimeout, Logger: o.Logger,
		Observer: s.counts, Tracer: s.tracer, TraceAttributes: tracing.Server(s.upstream.Address()),
	})
}

func (s *Service) newAPI(o *Options) *api.API {
	options := api.Options{
		Storage: s.storage, Callbacks: s.storage, Operations: s.storage, Seal: s.sealer.seal, Hub: s.hub, Alone: !database.IsShared(o.Database.URL), CPU: s.cpus,
		Introduce: s.engine.Introduce, Wake: s.engine.Wake, Notify: s.engine.Notify, Ready: s.readyz,
		Authorize: s.gate.Authorize, AuthorizeOperator: s.gate.AuthorizeOperator, From: auth.Proxies(o.Auth.TrustedProxies).Network,
		HasRoom: s.room.Admit, Crowded: admission.NewCrowd(*o.Limits.MaxQueued, s.storage, s.engine.Accepted).IsFull, MaxForwards: o.Limits.MaxOutbound,
		Headers: s.upstream.Headers(), MaxBody: o.Limits.MaxBody, MaxAnswer: o.Limits.MaxAnswer, MaxQueued: *o.Limits.MaxQueued, MaxStored: o.Limits.MaxStored,
		Node: s.metrics.Node, Observe: s.counts.Call, Created: s.counts.Created, Audit: s.audit, Tracer: s.tracer, Logger: o.Logger,
	}
	if o.Upstream.Passthrough {
		options.Forward = s.upstream.Forward
	}
	if s.webhooks != nil {
		options.CheckCallback, options.Callback = s.webhooks.CheckCallback, s.webhooks.Default()
	}
	return api.New(options)
}
