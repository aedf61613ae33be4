package engine

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestRepeated: the first of failures that repeat is told, and then a count, once a minute.
func TestRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		log := slog.New(slog.NewTextHandler(&out, nil))
		var r repeated
		for range 150 { // for two and a half minutes
			r.tell(log, "it fails", "store", "1003")
			time.Sleep(time.Second)
		}
		lines := strings.Split(strings.TrimSpace(out.String()), "\n")
		if len(lines) != 3 || !strings.Contains(lines[0], "since_last_told=1") || !strings.Contains(lines[1], "since_last_told=60") || !strings.Contains(lines[2], "level=WARN") {
			t.Errorf("%s", out.String())
		}
	})
}
