package reply

import (
	"bytes"
	"testing"
)

// A compressor keeps no memory between pieces, so that a slow reader costs none.
func TestCompressorKeepsNothing(t *testing.T) {
	piece := bytes.Repeat([]byte(`{"id":1,"text":"something"},`), 10_000)
	for _, coding := range []Coding{Gzip, Zstd} {
		z := newCompressor(coding)
		for range 3 {
			z.piece(piece, false, func(out []byte) {
				if len(out) == 0 || len(out) > len(piece)/10 {
					t.Errorf("%s: %d bytes became %d", coding, len(piece), len(out))
				}
			})
			if z.out != nil {
				t.Errorf("%s: it holds %d bytes", coding, len(z.out))
			}
		}
	}
}
