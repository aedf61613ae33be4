package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/sheafapi/sheaf"
	"github.com/sheafapi/sheaf/internal/auth"
	"github.com/sheafapi/sheaf/internal/certificate"
	"github.com/sheafapi/sheaf/internal/dashboard"
	"github.com/sheafapi/sheaf/internal/inbound"
	"github.com/sheafapi/sheaf/openapi"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

// limits bound the time that one connection of a client may take.
type limits struct {
	header  time.Duration // to send a request's header; over TLS, for the handshake, too
	request time.Duration // to send a request, and again to take the answer
	idle    time.Duration // between two requests
}

var usualLimits = limits{header: 10 * time.Second, request: 5 * time.Minute, idle: 2 * time.Minute}

const (
	maxHeader = 64 << 10 // bytes
	// maxConnections bounds the callers' connections, where the process may have as many files open.
	maxConnections = 16384
	// keptFiles is how many files the database, the log and the like may need, beside
	// connections to the upstream.
	keptFiles = 256
	// maxStreams bounds the requests that one HTTP/2 connection may have open.
	maxStreams = 100
	// A stream and a connection of HTTP/2 may send so many bytes before somebody reads them.
	streamBuffer, connectionBuffer = 128 << 10, 256 << 10
)

// readyInterval is how often a starting service is asked whether it is ready.
const readyInterval = 20 * time.Millisecond

func newServe(environ []string) *cobra.Command {
	s, flags := newSettings()
	c := &cobra.Command{
		Use:   "serve --upstream URL",
		Short: "Serve the batch API and run batches",
		Long: `Serve the batch API and run batches until a signal ends it.

Each flag can be given as the environment variable in brackets too, and in the file that --config
names. The command line wins over the environment, and that over the file; what is empty counts as
unset. sheaf config check prints what applies. Durations have a unit: 500ms, 30s, 20m,
168h. Sizes are bytes: 1048576, 512KiB, 10MiB (10·2²⁰) or 10MB (10·10⁶).

GET /healthz answers 200 while the process lives, GET /readyz once it is of use. The API is
described at /openapi.yaml, and for people at /docs; a dashboard is at /ui/. Metrics for
Prometheus are at /metrics, where --metrics-listen does not put them elsewhere: that address
answers /healthz and /readyz too, whatever callers do. Traces are sent by
OTLP over HTTP with --traces-endpoint, or where the variables of OpenTelemetry name a collector:
OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or OTEL_TRACES_EXPORTER=otlp.
OTEL_TRACES_EXPORTER=none counts where the flag isn't given, OTEL_SDK_DISABLED=true always,
OTEL_TRACES_SAMPLER where --traces-sample is 1. The variables for the exporter, the batches, the
limits of spans, OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES count too.

SIGHUP: the files of --auth keys=FILE, --operator-keys and --webhook-secret-file are read again, and the audit log
is opened again.

SIGTERM or SIGINT: no connection is accepted and no request started any more; those
under way are waited for, at most --shutdown-timeout, and recorded. Then the exit code
is 0. A second signal ends the process at once; the next start goes on as after a crash.`,
		Example: `  sheaf serve --upstream 'http://127.0.0.1:9000/api/v3/{storeId}'
  sheaf serve --config /etc/sheaf.yaml
  SHEAF_LISTEN=:8080 SHEAF_AUTH=passthrough SHEAF_UPSTREAM=https://api.example.com/v1 sheaf serve --log-format json`,
		Args: atMost(0),
		RunE: func(c *cobra.Command, _ []string) error {
			vars := variables(environ)
			if _, err := s.load(flags, vars); err != nil {
				return err
			}
			tune(environ)
			log := s.logger(c.ErrOrStderr())
			for _, sentence := range unknown(flags, vars) {
				log.Warn("unknown setting in the environment", "problem", sentence)
			}
			quote(log)
			return serve(c.Context(), s, environ, log)
		},
	}
	c.Flags().SortFlags = false
	s.addConfig(c.Flags())
	c.Flags().AddFlagSet(flags)
	return c
}

// logger returns the logger that the settings describe.
func (s *settings) logger(w io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: s.logLevel}
	if s.logFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// quote takes what libraries write with package log, such as net/http about an
// upstream that breaks the protocol. It is not told word by word: it may hold a part of
// an answer.
func quote(logger *slog.Logger) {
	stdlog.SetFlags(0)
	stdlog.SetOutput(writerFunc(func(p []byte) (int, error) {
		logger.Debug("the HTTP library reported a connection that breaks the protocol", "bytes", len(p))
		return len(p), nil
	}))
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// serve runs the service until ctx ends, a signal comes or something fails. It
// returns once everything under way is recorded and the database is closed.
func serve(ctx context.Context, s *settings, environ []string, log *slog.Logger) (err error) {
	options := s.serviceOptions(log)
	if options.Database.URL, err = withPassword(options.Database.URL, s.password); err != nil {
		return err
	}
	if options.Upstream.TLS, err = s.towardsUpstream(log); err != nil {
		return err
	}
	secure, err := s.towardsClients(log)
	if err != nil {
		return err
	}
	var audit *auditLog
	if s.auditLog != "" {
		if audit, err = openAuditLog(s.auditLog); err != nil {
			return err
		}
		defer audit.Close()
		options.Observe.AuditLog = audit
	}
	traces, err := s.observing.tracing(ctx, environ, log)
	if err != nil {
		return err
	}
	if traces != nil {
		options.Observe.TracerProvider = traces
		defer func() {
			sending, cancel := context.WithTimeout(context.Background(), tracesTimeout)
			defer cancel()
			_ = traces.Shutdown(sending) // its failures are logged
		}()
	}
	service, err := sheaf.New(options)
	if err != nil {
		return err
	}
	defer func() {
		if e := service.Close(); e != nil {
			err = errors.Join(err, fmt.Errorf("close the database: %w", e))
		}
	}()
	listener, err := net.Listen("tcp", s.listen)
	if err != nil {
		return listenError(s.listen, "--listen", err)
	}
	metrics, metricsListener, err := s.observing.metricsServer(service, s.hosts, log)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	// Until here a signal ends the process as any crash would, which is harmless.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	info, _ := debug.ReadBuildInfo()
	log.Info("listening", "address", listener.Addr().String(), "tls", secure != nil, "upstream", s.options.Upstream.URL,
		"database", sheaf.DatabaseName(s.options.Database.URL), "version", version(info))
	if metrics != nil {
		log.Info("metrics", "address", metricsListener.Addr().String())
		defer metrics.Close()
		go func() {
			if err := metrics.Serve(metricsListener); !errors.Is(err, http.ErrServerClosed) {
				log.Error("metrics can't be served any more", "error", err)
			}
		}()
	}
	if err := runAll(ctx, stop, s, log, service, listener, secure, audit); err != nil {
		return err
	}
	log.Info("stopped")
	return nil
}

// listenError says why an address can't be served on.
func listenError(address, setting string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("the address %s is in use by another process: stop that one, or choose another with %s", address, setting)
	}
	return fmt.Errorf("can't serve on %s: %w: choose another address with %s", address, err, setting)
}

// towardsUpstream returns what connections to the upstream begin from.
func (s *settings) towardsUpstream(log *slog.Logger) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	var err error
	if s.upstreamCA != "" {
		if config.RootCAs, err = certificate.Authorities(s.upstreamCA); err != nil {
			return nil, fmt.Errorf("--upstream-ca: %w", err)
		}
	}
	if s.upstreamTLS.cert != "" {
		pair, err := certificate.Load(s.upstreamTLS.cert, s.upstreamTLS.key, log)
		if err != nil {
			return nil, fmt.Errorf("--upstream-cert: %w", err)
		}
		config.GetClientCertificate = pair.ForServer
	}
	return config, nil
}

// towardsClients returns what the API is served with; nil: without TLS.
func (s *settings) towardsClients(log *slog.Logger) (*tls.Config, error) {
	if s.tls.cert == "" {
		return nil, nil
	}
	pair, err := certificate.Load(s.tls.cert, s.tls.key, log)
	if err != nil {
		return nil, fmt.Errorf("--tls-cert: %w", err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: pair.ForClients}, nil
}

// runAll runs the engine and the HTTP server side by side. When ctx ends both drain,
// each within the shutdown timeout; when one fails the other is stopped too. stop gives
// the signals their usual effect back, so that a second one ends the process.
func runAll(ctx context.Context, stop func(), s *settings, log *slog.Logger, service *sheaf.Service, listener net.Listener, secure *tls.Config, audit *auditLog) error {
	handler := openapi.Handler(service)
	if s.observing.ui {
		handler = dashboard.New(service, log).WithAudit(service.Audit).Wrap(handler)
	}
	handler = s.observing.withMetrics(service.Metrics(), handler)
	if isLoopback(listener.Addr().String()) {
		handler = onlyHosts(s.hosts, handler)
	}
	if secure != nil {
		handler = strictTransport(handler)
	}
	server := newServer(handler, log, usualLimits)
	server.TLSConfig = secure
	callers := inbound.New(s.inboundOptions(log))
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() error { return service.Run(ctx) })
	all.Go(func() error {
		serve := server.Serve
		if secure != nil {
			serve = func(l net.Listener) error { return server.ServeTLS(l, "", "") }
		}
		if err := callers.Serve(server, listener, serve); !errors.Is(err, http.ErrServerClosed) {
			return fmt.Errorf("serve on %s: %w", listener.Addr(), err)
		}
		return nil
	})
	all.Go(func() error {
		<-ctx.Done()
		stop()
		log.Info("shutting down", "cause", context.Cause(ctx), "limit", s.options.ShutdownTimeout.String())
		shut(server, s.options.ShutdownTimeout, log)
		return nil
	})
	all.Go(func() error {
		announce(ctx, service, log)
		return nil
	})
	all.Go(func() error {
		reload(ctx, service, audit, log)
		return nil
	})
	return all.Wait()
}

// inboundOptions returns the bounds of callers' connections and requests: what the files
// that the process may open allow, without those that running batches need.
func (s *settings) inboundOptions(log *slog.Logger) inbound.Options {
	connections := maxConnections
	if files := inbound.MaxFiles(); files > 0 {
		spare := files - s.options.Limits.MaxOutbound - s.options.Database.Connections - keptFiles
		if s.options.Upstream.Passthrough { // as many forwarded calls
			spare -= s.options.Limits.MaxOutbound
		}
		connections = min(connections, max(spare, files/4))
	}
	if connections < maxConnections {
		log.Warn("the limit on open files leaves few for callers' connections; raise it (ulimit -n, LimitNOFILE)",
			"connections", connections, "files", inbound.MaxFiles())
	}
	return inbound.Options{
		MaxConnections: connections, MaxRequests: connections * 3 / 4, MaxBody: s.options.Limits.MaxBody,
		Trusted: s.options.Auth.TrustedProxies, Network: auth.NetworkOf,
		From:   auth.Proxies(s.options.Auth.TrustedProxies).Network,
		Probes: []string{healthPath, readyPath, metricsPath},
	}
}

func newServer(handler http.Handler, log *slog.Logger, l limits) *http.Server {
	return &http.Server{
		Handler:           closeUnclear(handler),
		ReadHeaderTimeout: l.header,
		ReadTimeout:       l.request,
		WriteTimeout:      l.request,
		IdleTimeout:       l.idle,
		MaxHeaderBytes:    maxHeader,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          maxStreams,
			MaxReceiveBufferPerStream:     streamBuffer,
			MaxReceiveBufferPerConnection: connectionBuffer,
			WriteByteTimeout:              30 * time.Second,
			SendPingTimeout:               30 * time.Second,
			PingTimeout:                   15 * time.Second,
		},
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}

// closeUnclear closes the connection after each request of HTTP/1 whose end a proxy in front
// may see elsewhere, as the API does on its own (RFC 9112, section 6.1).
func closeUnclear(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 1 && (len(r.TransferEncoding) > 0 || r.ProtoMinor == 0) {
			w.Header().Set("Connection", "close")
		}
		handler.ServeHTTP(w, r)
	})
}

// shut lets the server's open calls end, and cuts off those that take longer than
// limit.
func shut(server *http.Server, limit time.Duration, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		log.Warn("calls were cut off that took longer than the shutdown limit", "limit", limit.String())
		server.Close()
	}
}

// reload reads the issued keys again, and opens the audit log again, at every SIGHUP until
// ctx ends.
func reload(ctx context.Context, service *sheaf.Service, audit *auditLog, log *slog.Logger) {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
		}
		err := service.Reload()
		if audit != nil {
			err = errors.Join(err, audit.reopen())
		}
		if err != nil {
			log.Error("not everything was reloaded; what was not stays as before", "error", err)
		} else {
			log.Info("reloaded")
		}
	}
}

// announce logs the moment when the service becomes ready. It returns then, or when
// ctx ends.
func announce(ctx context.Context, service *sheaf.Service, log *slog.Logger) {
	tick := time.NewTicker(readyInterval)
	defer tick.Stop()
	for service.Ready(ctx) != nil {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
	log.Info("ready")
}
