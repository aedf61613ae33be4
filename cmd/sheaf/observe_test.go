package main

import (
	"strings"
	"testing"
)

func TestOpenTelemetryVariables(t *testing.T) {
	const endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318"
	for _, tt := range []struct {
		environ string // entries, with spaces between
		on, off bool
		refused string
	}{
		{"", false, false, ""},
		{"OTEL_SERVICE_NAME=x", false, false, ""},
		{endpoint, true, false, ""},
		{"OTEL_EXPORTER_OTLP_ENDPOINT= OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://127.0.0.1:4318/v1/traces", true, false, ""},
		{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=http://127.0.0.1:4318", false, false, ""},
		{"OTEL_TRACES_EXPORTER=otlp", true, false, ""},
		{"OTEL_TRACES_EXPORTER=None " + endpoint, false, false, ""},
		{"OTEL_TRACES_EXPORTER= " + endpoint, true, false, ""},
		{"OTEL_TRACES_EXPORTER=zipkin", false, false, "OTEL_TRACES_EXPORTER is zipkin"},
		{"OTEL_SDK_DISABLED=TRUE " + endpoint, false, true, ""},
		{"OTEL_SDK_DISABLED=false " + endpoint, true, false, ""},
		{"OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf " + endpoint, true, false, ""},
		{"OTEL_EXPORTER_OTLP_PROTOCOL=grpc " + endpoint, false, false, "OTEL_EXPORTER_OTLP_PROTOCOL is grpc"},
		{"OTEL_EXPORTER_OTLP_PROTOCOL=grpc OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf " + endpoint, true, false, ""},
		{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/json " + endpoint, true, false, ""},
		{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http " + endpoint, false, false, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL is http,"},
		{"OTEL_EXPORTER_OTLP_PROTOCOL=grpc", false, false, ""}, // of other programs: nothing is traced
	} {
		on, off, err := otelSays(strings.Fields(tt.environ))
		if on != tt.on || off != tt.off || (err != nil) != (tt.refused != "") || err != nil && !strings.Contains(err.Error(), tt.refused) {
			t.Errorf("%s: %v, %v, %v", tt.environ, on, off, err)
		}
	}
}
