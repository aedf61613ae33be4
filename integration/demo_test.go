package integration

import (
	"os/exec"
	"strings"
	"testing"
)

// TestDemo: make demo succeeds, and its callback arrives with the right signature.
func TestDemo(t *testing.T) {
	parallel(t)
	cmd := exec.CommandContext(t.Context(), "go", "run", "./examples/demo")
	cmd.Dir = ".."
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Every variation found its product.") {
		t.Fatalf("go run ./examples/demo: %v\n%s", err, tail(string(out), 3000))
	}
}
