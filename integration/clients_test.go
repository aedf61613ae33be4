//go:build clients

package integration

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestOpenAPIGeneratorClients: the clients that openapi-generator generates from openapi.yaml
// compile. They create, read, search, cancel and delete. make clients runs this test.
func TestOpenAPIGeneratorClients(t *testing.T) {
	s := start(t, newStage(t).URL, filepath.Join(t.TempDir(), "sheaf.db"))
	maven := func(args ...string) []string {
		return slices.Concat([]string{"mvn", "--quiet", "--batch-mode", "-Dstyle.color=never"}, args, []string{"compile", "exec:java", "-Dexec.args=" + s.base})
	}
	// Not in parallel: Maven's local repository doesn't support that.
	for _, client := range []struct {
		name, folder string
		generator    []string
		steps        [][]string
	}{
		{"java native", "java", []string{"java", "--library=native"}, [][]string{maven("-Dlibrary=native")}},
		{"java okhttp", "java", []string{"java", "--library=okhttp-gson"}, [][]string{maven("-Dlibrary=okhttp-gson")}},
		{"kotlin", "kotlin", []string{"kotlin"}, [][]string{maven()}},
		{"ruby", "ruby", []string{"ruby"}, [][]string{{"ruby", "-I", "client/lib", "main.rb", s.base}}},
		{"php", "php", []string{"php"}, [][]string{{"php", "main.php", s.base}}},
		{"rust", "rust", []string{"rust"}, [][]string{{"cargo", "build", "--quiet", "--locked"}, {"target/debug/sheafclient", s.base}}},
		// Without this list, openapi-generator also generates an API for the webhook, which doesn't compile.
		{"typescript", "typescript-fetch", []string{"typescript-fetch", "--additional-properties=importFileExtension=.js", "--global-property=apis,models,supportingFiles"}, [][]string{
			{"npm", "ci", "--no-audit", "--no-fund"},
			{"node_modules/.bin/tsc", "--project", "."},
			{"node", "main.js", s.base},
		}},
	} {
		t.Run(client.name, func(t *testing.T) {
			printed := runClient(t, client.folder, slices.Concat([][]string{generate(t, client.generator...)}, client.steps)...)
			if want := "COMPLETED FAILED found canceled 0 deleted 1 BATCH_NOT_FOUND\n"; !strings.Contains(printed, want) { // Maven prints escape sequences around it
				t.Errorf("%q, want %q", printed, want)
			}
		})
	}
}

// TestOpenAPIGeneratorCSharp: openapi-generator generates a client for C#. It isn't compiled.
func TestOpenAPIGeneratorCSharp(t *testing.T) {
	folder := t.TempDir()
	runSteps(t, folder, generate(t, "csharp"))
	if _, err := os.Stat(filepath.Join(folder, "client/src/Org.OpenAPITools/Api/BatchesApi.cs")); err != nil {
		t.Error(err)
	}
}

// generate returns the step that generates a client into the folder client.
func generate(t *testing.T, args ...string) []string {
	t.Helper()
	return slices.Concat([]string{"openapi-generator-cli", "generate", "-i", description(t), "-o", "client", "-g"}, args)
}
