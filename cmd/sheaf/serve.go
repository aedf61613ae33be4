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
	"strings"
	"syscall"
	"time"

	"github.com/sheafapi/sheaf"
	"github.com/sheafapi/sheaf/internal/auth"
	"github.com/sheafapi/sheaf/internal/batch"
	"github.com/sheafapi/sheaf/internal/certificate"
	"github.com/sheafapi/sheaf/internal/dashboard"
	"github.com/sheafapi/sheaf/internal/database"
	"github.com/sheafapi/sheaf/internal/inbound"
	"github.com/sheafapi/sheaf/openapi"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

// limits are the timeouts of a caller's connection.
type limits struct {
	header  time.Duration // for sending a request's header, and for the TLS handshake
	request time.Duration // for sending a request, and again for reading the answer
	idle    time.Duration // between two requests
}

var usualLimits = limits{header: 10 * time.Second, request: 5 * time.Minute, idle: 2 * time.Minute}

const (
	maxHeader = 64 << 10 // bytes
	// maxConnections limits callers' connections if the process may open that many files.
	maxConnections = 16384
	// keptFiles is how many open files are reserved for SQLite, the log and so on, in addition to
	// connections to the upstream and to PostgreSQL.
	keptFiles = 256
	// maxStreams limits the open requests of one HTTP/2 connection.
	maxStreams = 100
	// streamBuffer and connectionBuffer limit the unread bytes of an HTTP/2 stream and connection.
	streamBuffer, connectionBuffer = 128 << 10, 256 << 10
)

// readyInterval is how often a starting service is checked for being ready.
const readyInterval = 20 * time.Millisecond

func newServe(environ []string) *cobra.Command {
	s, flags := newSettings()
	c := &cobra.Command{
		Use:   "serve --upstream URL",
		Short: "Serve the batch API and run batches",
		Long: `Serve the batch API and run batches until a signal stops the service.

Each flag is also an environment variable and a key of the settings file: --max-queued is
SHEAF_MAX_QUEUED and max-queued. The command line wins over the environment, and the environment
over the file. An empty value counts as unset. sheaf config check prints the settings that apply.

Durations have a unit: 500ms, 30s, 20m, 168h. Sizes are bytes: 1048576, 512KiB, 10MiB (10·2²⁰),
10MB (10·10⁶). Lists are separated by commas. Some values have optional parts, separated by commas.
A part that isn't named keeps its value from the environment, the file or the default:
  listen: :8080,metrics=127.0.0.1:9090  /metrics, /healthz and /readyz on a separate address
  log-format: json,debug                the level: debug, info (default), warn or error
  max-database: 100GiB,queue=2GiB       also limits one queue's batches, finished ones included
  max-outbound: 1024,stores=100         also limits how many stores run at the same time
  success: 2xx,404,fail-when=/errors    an answer with a value at this JSON pointer is a failure
  tls: cert=FILE,key=FILE,upstream-ca=FILE,upstream-cert=FILE,upstream-key=FILE

Callers are admitted by --auth:
  passthrough           all callers; a batch belongs to its token, and the upstream checks the token
  check=URL             those whose token the API accepts at URL, which must contain {storeId}
  check-any-store=URL   the same without {storeId}, so that every token may use every store
  keys=FILE             those with a key issued by sheaf keys

Paths: /healthz answers 200 while the process lives, and /readyz once the service is ready. /metrics
has metrics for Prometheus, /docs describes the API, and /ui/ is a dashboard. Traces are sent by
OTLP over HTTP if an OpenTelemetry variable, such as OTEL_EXPORTER_OTLP_ENDPOINT, names a collector.

SIGHUP reloads the files of --auth keys=FILE, --operator-keys and --webhook-secret-file and the
certificates of --tls, and reopens the audit log. SIGTERM and SIGINT stop the service: it starts no
more requests, waits for those in flight and records their answers. A second signal stops it at
once, and the next start continues as after a crash.`,
		Example: `  sheaf serve --upstream 'http://127.0.0.1:9000/api/v3/{storeId}'
  sheaf serve --config /etc/sheaf.yaml
  SHEAF_UPSTREAM=https://api.example.com/v1 sheaf serve --log-format json,warn`,
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
			captureStdLog(log)
			return serve(c.Context(), s, environ, log)
		},
	}
	s.addTo(c, flags)
	return c
}

// logger returns the logger that the settings describe.
func (s *settings) logger(w io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: s.log.level}
	if s.log.json {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// captureStdLog replaces the output of package log, which net/http uses to report connections that break
// the protocol. The text itself isn't logged, because it may contain part of an answer.
func captureStdLog(logger *slog.Logger) {
	stdlog.SetFlags(0)
	stdlog.SetOutput(writerFunc(func(p []byte) (int, error) {
		logger.Debug("the HTTP library reported a connection that breaks the protocol", "bytes", len(p))
		return len(p), nil
	}))
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// serve runs the service until ctx ends, a signal arrives or something fails. When it returns, all
// answers are recorded and the database is closed.
func serve(ctx context.Context, s *settings, environ []string, log *slog.Logger) (err error) {
	options := s.serviceOptions(log)
	files := newReloads()
	defer signal.Stop(files.hangups)
	if options.Upstream.TLS, err = s.tls.forUpstream(files, log); err != nil {
		return err
	}
	secure, err := s.tls.forCallers(files, log)
	if err != nil {
		return err
	}
	if s.auditLog != "" {
		audit, err := openAuditLog(s.auditLog)
		if err != nil {
			return err
		}
		defer audit.Close()
		options.Observe.AuditLog = audit
		files.add(audit.reopen)
	}
	traces, err := newTracing(ctx, environ, log)
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
	files.add(service.Reload)
	listener, err := net.Listen("tcp", s.listen.api)
	if err != nil {
		return listenError(s.listen.api, "--listen", err)
	}
	metrics, metricsListener, err := newMetricsServer(s.listen, service, s.hosts, log)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	// Until here, a signal ends the process as a crash would, which is harmless.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	s.logAddresses(listener.Addr().String(), log)
	if metrics != nil {
		log.Info("metrics", "address", metricsListener.Addr().String())
		defer metrics.Close()
		go func() {
			if err := metrics.Serve(metricsListener); !errors.Is(err, http.ErrServerClosed) {
				log.Error("metrics can no longer be served", "error", err)
			}
		}()
	}
	if err := runAll(ctx, stop, s, log, service, listener, secure, files); err != nil {
		return err
	}
	log.Info("stopped")
	return nil
}

// logAddresses logs where the service listens, and the URLs of its pages.
func (s *settings) logAddresses(address string, log *slog.Logger) {
	info, _ := debug.ReadBuildInfo()
	pages := "http://" + local(address)
	if s.tls.cert != "" {
		pages = "https://" + local(address)
	}
	attributes := []any{
		"address", address, "tls", s.tls.cert != "", "upstream", s.options.Upstream.URL,
		"database", sheaf.DatabaseName(s.options.Database.URL), "version", version(info), "docs", pages + "/docs",
	}
	if s.ui {
		attributes = append(attributes, "dashboard", pages+"/ui/")
	}
	log.Info("listening", attributes...)
}

// listenError returns the error of a service that can't listen on an address.
func listenError(address, setting string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("the address %s is in use by another process: stop that process, or choose another address with %s", address, setting)
	}
	return fmt.Errorf("can't listen on %s: %w; choose another address with %s", address, err, setting)
}

// forUpstream returns the base configuration of connections to the upstream.
func (t *tlsFiles) forUpstream(files *reloads, log *slog.Logger) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	var err error
	if t.upstreamCA != "" {
		if config.RootCAs, err = certificate.Authorities(t.upstreamCA); err != nil {
			return nil, fmt.Errorf("--tls upstream-ca: %w", err)
		}
	}
	if t.upstreamCert != "" {
		pair, err := certificate.Load(t.upstreamCert, t.upstreamKey, log)
		if err != nil {
			return nil, fmt.Errorf("--tls upstream-cert: %w", err)
		}
		files.add(pair.Reload)
		config.GetClientCertificate = pair.ForServer
	}
	return config, nil
}

// forCallers returns the TLS configuration of the API, or nil without TLS.
func (t *tlsFiles) forCallers(files *reloads, log *slog.Logger) (*tls.Config, error) {
	if t.cert == "" {
		return nil, nil
	}
	pair, err := certificate.Load(t.cert, t.key, log)
	if err != nil {
		return nil, fmt.Errorf("--tls cert: %w", err)
	}
	files.add(pair.Reload)
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: pair.ForClients}, nil
}

// runAll runs the engine and the HTTP server side by side. When ctx ends, both drain, each within the
// shutdown timeout. When one fails, the other is stopped too. stop restores the default effect of
// signals, so that a second one ends the process.
func runAll(ctx context.Context, stop func(), s *settings, log *slog.Logger, service *sheaf.Service, listener net.Listener, secure *tls.Config, files *reloads) error {
	handler := openapi.Handler(service)
	if s.ui {
		handler = dashboard.New(service, log).WithAudit(service.Audit).Wrap(handler)
		handler = redirectBrowsers(handler)
	}
	handler = withMetrics(s.listen, service.Metrics(), handler)
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
		files.run(ctx, log)
		return nil
	})
	return all.Wait()
}

// redirectBrowsers redirects browsers from / to the dashboard.
func redirectBrowsers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		isRead := r.Method == http.MethodGet || r.Method == http.MethodHead
		if r.URL.Path == "/" && isRead && strings.Contains(r.Header.Get("Accept"), "text/html") {
			http.Redirect(w, r, "/ui/", http.StatusFound)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// callersConnections returns how many connections callers may open, if the process may open this many
// files. It leaves the files that running batches and the database need.
func (s *settings) callersConnections(files int) int {
	spare := files - s.options.Limits.MaxOutbound - keptFiles
	if s.options.Upstream.Passthrough { // forwarded calls have the same limit
		spare -= s.options.Limits.MaxOutbound
	}
	database, _ := database.MaxConnections(s.options.Database.URL) // the URL was checked
	return min(maxConnections, max(spare-database, files/4))
}

// inboundOptions returns the limits of callers' connections and requests.
func (s *settings) inboundOptions(log *slog.Logger) inbound.Options {
	connections := maxConnections
	if files := inbound.MaxFiles(); files > 0 {
		connections = s.callersConnections(files)
	}
	if connections < maxConnections {
		log.Warn("the limit on open files leaves few for callers' connections: raise the limit with ulimit -n or LimitNOFILE",
			"connections", connections, "files", inbound.MaxFiles())
	}
	return inbound.Options{
		MaxConnections: connections, MaxRequests: connections * 3 / 4, MaxBody: batch.DefaultMaxBody,
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

// closeUnclear closes the connection after an HTTP/1 request if a proxy in front may disagree about where
// the request ends (RFC 9112, section 6.1). The API also does this itself.
func closeUnclear(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor == 1 && (len(r.TransferEncoding) > 0 || r.ProtoMinor == 0) {
			w.Header().Set("Connection", "close")
		}
		handler.ServeHTTP(w, r)
	})
}

// shut waits for the server's open calls and cuts off those that take longer than limit.
func shut(server *http.Server, limit time.Duration, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		log.Warn("calls that took longer than the shutdown limit were cut off", "limit", limit.String())
		server.Close()
	}
}

// reloads are the functions that SIGHUP calls. A function that fails changes nothing.
type reloads struct {
	hangups   chan os.Signal
	functions []func() error
}

// newReloads returns reloads and starts to catch the signal.
func newReloads() *reloads {
	r := &reloads{hangups: make(chan os.Signal, 1)}
	signal.Notify(r.hangups, syscall.SIGHUP)
	return r
}

func (r *reloads) add(reload func() error) { r.functions = append(r.functions, reload) }

// run calls the functions at every signal until ctx ends.
func (r *reloads) run(ctx context.Context, log *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.hangups:
		}
		var err error
		for _, reload := range r.functions {
			err = errors.Join(err, reload())
		}
		if err != nil {
			log.Error("some files were not reloaded; their previous contents stay in use", "error", err)
		} else {
			log.Info("reloaded")
		}
	}
}

// announce logs that the service is ready, as soon as it is. It returns then, or when ctx ends.
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
