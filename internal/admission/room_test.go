package admission

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/sheafapi/sheaf/internal/batch"
)

type fixedSize int64

func (s fixedSize) Size(context.Context) (int64, error) { return int64(s), nil }

// TestAlmostFull: the log names both limits, because the first refusal doesn't mean that all creates
// are refused.
func TestAlmostFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // so that no second passes, after which the size is measured again
		stranger, accepted := batch.OwnerOf("stranger"), batch.OwnerOf("accepted")
		var log bytes.Buffer
		r := NewRoom(100, fixedSize(74), func(o batch.Owner) bool { return o == accepted }, slog.New(slog.NewTextHandler(&log, nil)))
		for _, tt := range []struct {
			owner batch.Owner
			bytes int64
			want  bool
		}{{stranger, 1, true}, {stranger, 1, false}, {accepted, 15, true}, {accepted, 1, false}} {
			if got := r.Admit(tt.owner, tt.bytes); got != tt.want {
				t.Errorf("%d bytes of %x: %v, want %v", tt.bytes, tt.owner[:4], got, tt.want)
			}
		}
		if line := log.String(); strings.Count(line, "\n") != 1 || !strings.Contains(line, "75%") || !strings.Contains(line, "90%") {
			t.Errorf("the log has %s", line)
		}
	})
}
