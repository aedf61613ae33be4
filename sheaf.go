package sheaf

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sheafapi/sheaf/internal/api"
	"github.com/sheafapi/sheaf/internal/audit"
	"github.com/sheafapi/sheaf/internal/auth"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/cpu"
	"github.com/sheafapi/sheaf/internal/engine"
	"github.com/sheafapi/sheaf/internal/governor"
	"github.com/sheafapi/sheaf/internal/outbound"
	"github.com/sheafapi/sheaf/internal/secret"
	"github.com/sheafapi/sheaf/internal/storage"
	"github.com/sheafapi/sheaf/internal/telemetry"
	"github.com/sheafapi/sheaf/internal/webhook"
)

// Version is the version of this build. Releases set it at link time.
var Version = "dev"

// Service is a batch endpoint in front of one upstream. It is an http.Handler;
// batches run while Run does. Its methods may be called from many goroutines.
type Service struct {
	api      *api.API
	webhooks *webhook.Deliverer // nil: there are no callbacks
	engine   *engine.Engine
	storage  storage.Storage
	outbound *outbound.Client
	gate     *auth.Gate
	metrics  *telemetry.Metrics
	room     *capacity
	audit    *audit.Log
	close    func() error
}

// New opens the database and returns a service over it. A problem with an option
// or the database is an error that says what to do. Close the service when done.
func New(o Options) (*Service, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	headers, err := batch.AdmitHeaders(o.Upstream.RequestHeaders...)
	if err != nil {
		return nil, fmt.Errorf("request headers: %w", err)
	}
	var guard *outbound.Guard
	if o.Upstream.Guard {
		guard = &outbound.Guard{Allow: o.Upstream.GuardAllow}
	}
	client, err := outbound.New(outbound.Options{
		Template: o.Upstream.URL, Handler: o.Upstream.Handler, TLS: o.Upstream.TLS, Guard: guard,
		Timeout: o.Upstream.Timeout, MaxAnswer: o.Limits.MaxAnswer, MaxConns: o.Limits.MaxOutbound,
		UserAgent: "sheaf/" + Version, Headers: headers, Logger: o.Logger,
	})
	if err != nil {
		return nil, fmt.Errorf("upstream: %w", err)
	}
	ctx := context.Background()
	store, key, err := openStorage(ctx, &o)
	if err != nil {
		client.Close()
		return nil, err
	}
	gate, err := o.gate(guard, key)
	if err != nil {
		client.Close()
		return nil, errors.Join(err, store.Close())
	}
	s := &Service{gate: gate, outbound: client, storage: store, room: &capacity{limit: o.Limits.MaxDatabase, storage: store, log: o.Logger}}
	s.metrics = s.newMetrics(&o)
	timed, told := s.counted()
	watched := &observed{Storage: timed}
	memory := planMemory(&o)
	processors := cpu.New(runtime.GOMAXPROCS(0))
	e := engine.New(engine.Options{
		CPU:       processors,
		Strangers: gate.AdmitsStrangers(),
		Storage:   watched, Upstream: client, Unseal: unseal(key),
		Policy: engine.Policy{
			RetryLimit: *o.Retries.Limit, RetryInterval: o.Retries.Interval, ThrottleLimit: o.Retries.ThrottleLimit,
			Success: o.Upstream.Success.is, RetryInDoubt: o.Retries.InDoubt,
		},
		Rate:         governor.Rate(o.Upstream.Rate),
		QueuesAtOnce: o.Limits.StoresAtOnce, MaxOutbound: o.Limits.MaxOutbound, Memory: memory.batches, LargestBatch: memory.largestBatch,
		Answers: memory.answers, LargestAnswer: memory.largestAnswer,
		Retention: o.Database.Retention, ShutdownTimeout: o.ShutdownTimeout, Logger: o.Logger,
		Observer: told.observer, Tracer: o.tracer(), TraceAttributes: o.upstreamAttributes(),
	})
	s.engine, s.room.known = e, e.Accepted
	var crowded func(store string, owner batch.Owner) bool
	if gate.AdmitsStrangers() && *o.Limits.MaxQueued > 0 {
		crowded = newCrowding(*o.Limits.MaxQueued, store, e.Accepted).crowded
	}
	var forward func(w http.ResponseWriter, r *http.Request, store, path string) (int, error)
	if o.Upstream.Passthrough {
		forward = func(w http.ResponseWriter, r *http.Request, store, path string) (int, error) {
			err := client.Forward(w, r, store, path, auth.Proxies(o.Auth.TrustedProxies).Trusts(r.RemoteAddr))
			if failed, ok := errors.AsType[*outbound.ForwardError](err); ok {
				return failed.Status, err
			}
			return 0, err
		}
	}
	if s.webhooks, err = o.deliverer(store, told.delivered); err != nil {
		gate.Close()
		client.Close()
		return nil, errors.Join(err, store.Close())
	}
	proxies := auth.Proxies(o.Auth.TrustedProxies)
	s.audit = audit.New(o.Observe.AuditLog, o.Logger, proxies.Address)
	s.api = api.New(api.Options{
		Callback: o.operatorCallback(), CheckCallback: o.checkCallback(),
		Alone: !isPostgres(o.Database.URL),

		CPU:       processors,
		HasRoom:   s.room.hasRoom,
		Crowded:   crowded,
		From:      proxies.Network,
		Authorize: gate.Authorize, AuthorizeOperator: gate.AuthorizeOperator, Audit: s.audit, Forward: forward, MaxForwards: o.Limits.MaxOutbound,
		Node:    func() api.NodeState { return s.nodeState(&o) },
		Observe: told.call, Created: told.created, Tracer: o.tracer(),
		Storage: &introducing{timed, e}, Seal: seal(key), Wake: e.Wake, Notify: e.Notify, Ready: s.readyForCallers(o.Logger),
		Headers: headers, MaxBody: o.Limits.MaxBody, MaxAnswer: o.Limits.MaxAnswer, MaxQueued: *o.Limits.MaxQueued, MaxStored: o.Limits.MaxStored, Logger: o.Logger,
	})
	watched.changed = s.api.Changed
	s.close = sync.OnceValue(func() error {
		gate.Close()
		client.Close()
		return store.Close()
	})
	return s, nil
}

// ServeHTTP serves the API: /api/v3/{storeId}/batch and what is below it, /healthz
// and /readyz. Batches are accepted whether Run runs or not.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.api.ServeHTTP(w, r) }

// Run runs batches until ctx ends. Then it starts nothing more and waits for the
// sub-requests under way, at most Options.ShutdownTimeout, so that their answers are
// recorded; what is still under way after that is treated as after a crash at the
// next start. Run may be called once.
func (s *Service) Run(ctx context.Context) error {
	var watch sync.WaitGroup
	defer watch.Wait()
	watch.Go(func() { s.api.Run(ctx) })
	if s.webhooks != nil {
		watch.Go(func() { s.webhooks.Run(ctx) })
	}
	return s.engine.Run(ctx)
}

// Ready returns nil when the database answers and the batches of an earlier process
// have been taken up.
func (s *Service) Ready(ctx context.Context) error {
	if err := s.engine.Ready(); err != nil {
		return err
	}
	return s.storage.Ping(ctx)
}

// readySilence is the least time between two log lines about a database that does not work.
const readySilence = time.Minute

// readyForCallers returns Ready for /readyz, which anybody may call. The database's error is
// logged and is not part of the answer.
func (s *Service) readyForCallers(log *slog.Logger) func(ctx context.Context) error {
	var logged atomic.Int64
	return func(ctx context.Context) error {
		err := s.engine.Ready()
		if err != nil {
			return err
		}
		if err = s.storage.Ping(ctx); err == nil {
			return nil
		}
		now, last := time.Now().UnixNano(), logged.Load()
		if ctx.Err() == nil && now-last >= int64(readySilence) && logged.CompareAndSwap(last, now) {
			log.Warn("the service is not ready: the database does not work", "error", err)
		}
		return errors.New("the service is not ready; see its log for the reason")
	}
}

// Close closes the database. Call it after Run has returned.
func (s *Service) Close() error { return s.close() }

// complete fills in the defaults and refuses what can't be right.
func (o *Options) complete() error {
	fill(&o.Database.URL, "sqlite:sheaf.db")
	fill(&o.Upstream.Timeout, 30*time.Second)
	fill(&o.Retries.Limit, new(5))
	fill(&o.Retries.Interval, 3*time.Second)
	fill(&o.Retries.ThrottleLimit, 20*time.Minute)
	fill(&o.Limits.MaxBody, 10<<20)
	fill(&o.Limits.MaxAnswer, 5<<20)
	fill(&o.Limits.MaxQueued, new(10_000))
	fill(&o.Database.Retention, 7*24*time.Hour)
	fill(&o.Limits.StoresAtOnce, 4096)
	fill(&o.Limits.MaxOutbound, 1024)
	fill(&o.ShutdownTimeout, 30*time.Second)
	if o.Observe.StoreClass == nil {
		o.Observe.StoreClass = func(string) string { return telemetry.EveryStore }
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	l := &o.Limits
	switch {
	case o.Upstream.URL == "":
		return errors.New("an upstream is required, such as http://127.0.0.1:9000/api/v3/{storeId}")
	case o.Database.Retention < time.Hour:
		return fmt.Errorf("retention is %v and must be at least 1h, because tickets and deduplication keys are promised that long", o.Database.Retention)
	case o.Upstream.Timeout < 0 || o.Retries.Interval < 0 || o.Retries.ThrottleLimit < 0 || o.ShutdownTimeout < 0:
		return errors.New("a duration can't be negative")
	case l.MaxBody < 0 || l.MaxAnswer < 0 || *l.MaxQueued < 0 || l.MaxStored < 0 || l.MaxDatabase < 0 || l.StoresAtOnce < 0 || l.MaxOutbound < 0 || *o.Retries.Limit < 0:
		return errors.New("a limit can't be negative")
	case o.Upstream.Rate != Rate{} && !o.Upstream.Rate.Valid():
		return fmt.Errorf("a rate of %d in %v can't be kept: it must be between 1 in 24h and 1,000,000 in 1s", o.Upstream.Rate.N, o.Upstream.Rate.Per)
	case o.Upstream.Success > Success200:
		return fmt.Errorf("unknown meaning of success: %d", o.Upstream.Success)
	}
	return nil
}

// fill sets a value that is zero to its default.
func fill[T comparable](v *T, byDefault T) {
	var zero T
	if *v == zero {
		*v = byDefault
	}
}

// is reports whether an answer with this code is no failure.
func (s Success) is(code int) bool {
	if s == Success200 {
		return code == http.StatusOK
	}
	return code >= 200 && code <= 299
}

// A credential is sealed together with what it is for, so that it can't be moved to
// another batch inside the database.
func sealedFor(ticket batch.Ticket, store string) []byte {
	return append(ticket[:], store...)
}

func seal(key secret.Key) func(batch.Ticket, string, string) ([]byte, error) {
	return func(ticket batch.Ticket, store, token string) ([]byte, error) {
		return key.Seal([]byte(token), sealedFor(ticket, store)), nil
	}
}

func unseal(key secret.Key) func(*storage.Claim) (string, error) {
	return func(c *storage.Claim) (string, error) {
		token, err := key.Open(c.Credential, sealedFor(c.Ticket, c.Store))
		switch {
		case errors.Is(err, secret.ErrUnknownKey):
			err = fmt.Errorf("%w: %w", engine.ErrNoKey, err)
		case errors.Is(err, secret.ErrUnknownVersion):
			err = fmt.Errorf("%w: %w", engine.ErrUnknownSeal, err)
		}
		return string(token), err
	}
}
