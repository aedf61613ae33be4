package main

import (
	"strings"
	"testing"
)

func TestOpenTelemetryVariables(t *testing.T) {
	const endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:4318"
	for _, tt := range []struct {
		environ string // entries, separated by spaces
		on      bool
		refused string
	}{
		{"", false, ""},
		{"OTEL_SERVICE_NAME=x", false, ""},
		{endpoint, true, ""},
		{"OTEL_EXPORTER_OTLP_ENDPOINT= OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://127.0.0.1:4318/v1/traces", true, ""},
		{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT=http://127.0.0.1:4318", false, ""},
		{"OTEL_TRACES_EXPORTER=otlp", true, ""},
		{"OTEL_TRACES_EXPORTER=None " + endpoint, false, ""},
		{"OTEL_TRACES_EXPORTER= " + endpoint, true, ""},
		{"OTEL_TRACES_EXPORTER=zipkin", false, "OTEL_TRACES_EXPORTER is zipkin"},
		{"OTEL_SDK_DISABLED=TRUE " + endpoint, false, ""},
		{"OTEL_SDK_DISABLED=false " + endpoint, true, ""},
		{"OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf " + endpoint, true, ""},
		{"OTEL_EXPORTER_OTLP_PROTOCOL=grpc " + endpoint, false, "OTEL_EXPORTER_OTLP_PROTOCOL is grpc"},
		{"OTEL_EXPORTER_OTLP_PROTOCOL=grpc OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf " + endpoint, true, ""},
		{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/json " + endpoint, true, ""},
		{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http " + endpoint, false, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL is http,"},
		{"OTEL_EXPORTER_OTLP_PROTOCOL=grpc", false, ""}, // for other programs: nothing is traced
	} {
		on, err := tracesEnabled(strings.Fields(tt.environ))
		if on != tt.on || (err != nil) != (tt.refused != "") || err != nil && !strings.Contains(err.Error(), tt.refused) {
			t.Errorf("%s: %v, %v", tt.environ, on, err)
		}
	}
}
