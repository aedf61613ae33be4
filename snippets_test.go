package sheaf_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// snippetFile is the file that a snippet is part of: it imports the packages and declares the
// variables that snippets use without saying so.
const snippetFile = `package snippet

import (
	"context"
	"log"
	"net/http"

	"github.com/sheafapi/sheaf"
	"github.com/sheafapi/sheaf/client"
)

func _(ctx context.Context, mux *http.ServeMux, api http.Handler, requests []client.Request) {
//line %s:%d
%s
}
`

// exports returns a function that opens the compiler's export data of a package that a snippet may
// import.
func exports(t *testing.T) func(path string) (io.ReadCloser, error) {
	t.Helper()
	list := exec.CommandContext(t.Context(), "go", "list", "-export", "-f", "{{.ImportPath}} {{.Export}}", "context", "log", "net/http", ".", "./client")
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	return func(path string) (io.ReadCloser, error) {
		for line := range strings.Lines(string(out)) {
			if name, file, _ := strings.Cut(strings.TrimSpace(line), " "); name == path {
				return os.Open(file)
			}
		}
		return nil, errors.New("snippets don't import " + path)
	}
}

// TestSnippets checks the types of the Go code in every Markdown page. Unused variables are allowed.
func TestSnippets(t *testing.T) {
	files := token.NewFileSet()
	config := types.Config{Importer: importer.ForCompiler(files, "gc", exports(t)), Error: func(err error) {
		if e, ok := errors.AsType[types.Error](err); ok && !e.Soft {
			t.Error(err)
		}
	}}
	checked := 0
	err := fs.WalkDir(os.DirFS("."), ".", func(page string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains(skipped, d.Name()):
			return fs.SkipDir
		case !strings.HasSuffix(page, ".md"):
			return nil
		}
		for _, f := range fences(t, page) {
			if f.kind != "go" {
				continue
			}
			checked++
			file, err := parser.ParseFile(files, "", fmt.Sprintf(snippetFile, page, f.line, f.code), 0)
			if err != nil {
				t.Error(err)
				continue
			}
			_, _ = config.Check("snippet", files, []*ast.File{file}, nil) // config.Error reports the errors
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if checked == 0 {
		t.Error("no page has Go code")
	}
}
