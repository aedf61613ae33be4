package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sheafapi/sheaf"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// observing is what sheaf serve can be told about how it is seen.
type observing struct {
	metrics       bool
	metricsListen string // empty: where the API is
	classes       storeClasses
	traces        string  // an address of OTLP over HTTP; empty: the variables of OpenTelemetry say
	sample        float64 // of the traces
	ui            bool
}

// storeClasses says how stores are told apart in metrics.
type storeClasses struct {
	each  bool // every store is a class of its own
	rules []storeClass
}

// storeClass is a class with the patterns of its stores, as of path.Match.
type storeClass struct {
	name     string
	patterns []string
}

// class returns what names a store's class; nil: there is one class.
func (c *storeClasses) class() func(store string) string {
	if c.each {
		return func(store string) string {
			if store == "" {
				return "other"
			}
			return store
		}
	}
	if len(c.rules) == 0 {
		return nil
	}
	return func(store string) string {
		for _, r := range c.rules {
			if slices.ContainsFunc(r.patterns, func(p string) bool {
				ok, _ := path.Match(p, store)
				return ok
			}) {
				return r.name
			}
		}
		return "other"
	}
}

// parseClasses reads classes such as gold=47*|4812,silver=48*, or each.
func parseClasses(text string) (out storeClasses, err error) {
	if text == "each" {
		return storeClasses{each: true}, nil
	}
	for rule := range strings.SplitSeq(text, ",") {
		name, patterns, ok := strings.Cut(rule, "=")
		if !ok || name == "" || patterns == "" {
			return out, wrong(text, "each, or classes with patterns of their stores, such as gold=47*|4812,silver=48*")
		}
		c := storeClass{name: name, patterns: strings.Split(patterns, "|")}
		for _, p := range c.patterns {
			if _, err := path.Match(p, ""); err != nil {
				return out, wrong(text, "made of patterns in which * stands for any text and ? for one character; "+p+" is none")
			}
		}
		out.rules = append(out.rules, c)
	}
	return out, nil
}

// parseCollector reads the address of what takes traces.
func parseCollector(text string) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "", wrong(text, "the address of a collector, such as http://127.0.0.1:4318/v1/traces")
	}
	return text, nil
}

// parseShare reads a number from 0 to 1.
func parseShare(text string) (float64, error) {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || !(f >= 0 && f <= 1) {
		return 0, wrong(text, "a number from 0 to 1, such as 0.1")
	}
	return f, nil
}

// otelSays reports whether OpenTelemetry's variables turn traces on, and whether they turn them off
// even if a flag turns them on. Unsupported values are errors.
func otelSays(environ []string) (on, off bool, err error) {
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
	case set["OTEL_SDK_DISABLED"] == "true":
		return false, true, nil
	case exporter == "none":
		return false, false, nil
	case exporter != "" && exporter != "otlp":
		return false, false, fmt.Errorf("OTEL_TRACES_EXPORTER is %s, but traces can only be sent by OTLP: set it to otlp or none", exporter)
	case exporter == "" && set["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] == "" && set["OTEL_EXPORTER_OTLP_ENDPOINT"] == "":
		return false, false, nil
	case !slices.Contains([]string{"", "http/protobuf", "http/json"}, set[protocol]):
		return false, false, fmt.Errorf("%s is %s, but traces can only be sent over HTTP: set it to http/protobuf, and set the endpoint to the collector's HTTP port", protocol, set[protocol])
	}
	return true, false, nil
}

// sampler returns the sampler that decides which traces are recorded; none: OpenTelemetry's
// variables decide. It decides by the trace's ID alone. So callers can't choose whether their traces
// are recorded, and all nodes that run the batch make the same decision.
func (o *observing) sampler(environ []string) []sdktrace.TracerProviderOption {
	named := func(entry string) bool {
		value, ok := strings.CutPrefix(entry, "OTEL_TRACES_SAMPLER=")
		return ok && strings.TrimSpace(value) != ""
	}
	if o.sample == 1 && slices.ContainsFunc(environ, named) {
		return nil
	}
	share := sdktrace.TraceIDRatioBased(o.sample)
	return []sdktrace.TracerProviderOption{sdktrace.WithSampler(sdktrace.ParentBased(share,
		sdktrace.WithRemoteParentSampled(share), sdktrace.WithRemoteParentNotSampled(share)))}
}

// tracing returns what traces, and what sends the rest off at the end; nil: nothing is traced.
// The other variables of OpenTelemetry for the exporter and the resource count, too.
func (o *observing) tracing(ctx context.Context, environ []string, log *slog.Logger) (*sdktrace.TracerProvider, error) {
	on, off, err := otelSays(environ)
	switch {
	case off || o.traces == "" && err == nil && !on:
		return nil, nil
	case o.traces == "" && err != nil:
		return nil, err
	}
	var options []otlptracehttp.Option
	if o.traces != "" {
		options = append(options, otlptracehttp.WithEndpointURL(o.traces))
	}
	exporter, err := otlptracehttp.New(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	about, err := resource.New(ctx,
		resource.WithTelemetrySDK(), resource.WithHost(), resource.WithProcessPID(),
		resource.WithAttributes(semconv.ServiceName("sheaf"), semconv.ServiceVersion(sheaf.Version)),
		resource.WithFromEnv()) // the last word
	if err != nil {
		log.Warn("not all is known that traces should tell of this process", "error", err)
	}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		log.Warn("traces can't be sent; they are dropped, and nothing else is affected", "error", err)
	}))
	return sdktrace.NewTracerProvider(append(o.sampler(environ), sdktrace.WithBatcher(exporter), sdktrace.WithResource(about))...), nil
}

// tracesTimeout bounds how long a shutdown waits for traces to be sent.
const tracesTimeout = 5 * time.Second

// withMetrics serves /metrics beside an API, unless they are off or elsewhere.
func (o *observing) withMetrics(metrics, next http.Handler) http.Handler {
	if !o.metrics || o.metricsListen != "" {
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

const (
	metricsPath = "/metrics"
	healthPath  = "/healthz"
	readyPath   = "/readyz"
)

// onlyGet refuses what would change something.
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

// metricsServer returns a server for operators, of metrics and probes, and what it listens on; nil:
// there is none. Callers can't reach it, so they can't take it away.
func (o *observing) metricsServer(service *sheaf.Service, hosts []string, log *slog.Logger) (*http.Server, net.Listener, error) {
	if !o.metrics || o.metricsListen == "" {
		return nil, nil, nil
	}
	listener, err := net.Listen("tcp", o.metricsListen)
	if err != nil {
		return nil, nil, listenError(o.metricsListen, "--metrics-listen", err)
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
