package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/sheafapi/sheaf"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// tracesEnabled reports whether OpenTelemetry's variables turn traces on. Unsupported values are errors.
func tracesEnabled(environ []string) (on bool, err error) {
	set := map[string]string{}
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		set[name] = strings.ToLower(strings.TrimSpace(value)) // empty counts as unset
	}
	protocol := "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
	if set[protocol] == "" {
		protocol = "OTEL_EXPORTER_OTLP_PROTOCOL"
	}
	switch exporter := set["OTEL_TRACES_EXPORTER"]; {
	case set["OTEL_SDK_DISABLED"] == "true", exporter == "none":
		return false, nil
	case exporter != "" && exporter != "otlp":
		return false, fmt.Errorf("OTEL_TRACES_EXPORTER is %s, but traces can only be sent by OTLP: set it to otlp or none", exporter)
	case exporter == "" && set["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] == "" && set["OTEL_EXPORTER_OTLP_ENDPOINT"] == "":
		return false, nil
	case !slices.Contains([]string{"", "http/protobuf", "http/json"}, set[protocol]):
		return false, fmt.Errorf("%s is %s, but traces can only be sent over HTTP: set it to http/protobuf, and set the endpoint to the collector's HTTP port", protocol, set[protocol])
	}
	return true, nil
}

// sampler returns options that record every trace, even if the caller's sampling flag is off. It
// returns none if OTEL_TRACES_SAMPLER names a sampler.
func sampler(environ []string) []sdktrace.TracerProviderOption {
	named := func(entry string) bool {
		value, ok := strings.CutPrefix(entry, "OTEL_TRACES_SAMPLER=")
		return ok && strings.TrimSpace(value) != ""
	}
	if slices.ContainsFunc(environ, named) {
		return nil
	}
	all := sdktrace.TraceIDRatioBased(1)
	return []sdktrace.TracerProviderOption{sdktrace.WithSampler(sdktrace.ParentBased(all,
		sdktrace.WithRemoteParentSampled(all), sdktrace.WithRemoteParentNotSampled(all)))}
}

// newTracing returns a provider that exports traces as OpenTelemetry's variables say, or nil if they
// turn traces off.
func newTracing(ctx context.Context, environ []string, log *slog.Logger) (*sdktrace.TracerProvider, error) {
	if on, err := tracesEnabled(environ); !on {
		return nil, err
	}
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	about, err := resource.New(ctx,
		resource.WithTelemetrySDK(), resource.WithHost(), resource.WithProcessPID(),
		resource.WithAttributes(semconv.ServiceName("sheaf"), semconv.ServiceVersion(sheaf.Version)),
		resource.WithFromEnv()) // last, so that it wins
	if err != nil {
		log.Warn("traces can't describe this process completely", "error", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		log.Warn("traces can't be sent and are dropped; nothing else is affected", "error", err)
	}))
	return sdktrace.NewTracerProvider(append(sampler(environ), sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))...), nil
}

// tracesTimeout limits how long a shutdown waits for traces to be sent.
const tracesTimeout = 5 * time.Second

const (
	metricsPath = "/metrics"
	healthPath  = "/healthz"
	readyPath   = "/readyz"
)

// withMetrics serves /metrics at the API's address, unless metrics are off or have their own address.
func withMetrics(where addresses, metrics, next http.Handler) http.Handler {
	if where.metrics != "" {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == metricsPath {
			onlyGet(metrics).ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// onlyGet refuses methods that could change something.
func onlyGet(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "Metrics can only be read.", http.StatusMethodNotAllowed)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// newMetricsServer returns a server of metrics and probes for operators, and its listener, or nil
// if metrics have no address of their own. Callers don't use it, so they don't keep it busy.
func newMetricsServer(where addresses, service *sheaf.Service, hosts []string, log *slog.Logger) (*http.Server, net.Listener, error) {
	if where.metrics == "" || where.metrics == "off" {
		return nil, nil, nil
	}
	listener, err := net.Listen("tcp", where.metrics)
	if err != nil {
		return nil, nil, listenError(where.metrics, "--listen's metrics=", err)
	}
	mux := http.NewServeMux()
	mux.Handle(metricsPath, onlyGet(service.Metrics()))
	mux.Handle(healthPath, service)
	mux.Handle(readyPath, service)
	var handler http.Handler = mux
	if isLoopback(listener.Addr().String()) {
		handler = onlyHosts(hosts, mux)
	}
	return newServer(handler, log, usualLimits), listener, nil
}
