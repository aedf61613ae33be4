package api

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"io"
	"maps"
	"mime"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/go-json-experiment/json"
	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
	v3 "github.com/pb33f/libopenapi/datamodel/high/v3"
	"github.com/pb33f/libopenapi/orderedmap"
	"github.com/sheafapi/sheaf/openapi"
)

// description is the parsed openapi.yaml, with a validator of answers.
type description struct {
	model     *v3.Document
	validator validator.Validator
}

var document = sync.OnceValue(func() (d description) {
	parsed, err := libopenapi.NewDocument(openapi.Document)
	if err != nil {
		panic(err)
	}
	built, err := parsed.BuildV3Model()
	if err != nil {
		panic(err)
	}
	d.model = &built.Model
	d.validator = validator.NewValidatorFromV3Model(d.model, config.WithFormatAssertions(), config.WithContentAssertions())
	return d
})

// conforms returns an error if an answer isn't as openapi.yaml describes it.
func conforms(r *http.Request, a *response) error {
	if a.header.Get("Content-Encoding") != "" || r.Method == http.MethodHead {
		return nil // other calls check the same answer uncompressed and with its body
	}
	mediaType, _, _ := mime.ParseMediaType(a.header.Get("Content-Type"))
	switch mediaType {
	case "application/x-ndjson":
		for line := range strings.Lines(a.body) {
			if err := conformsResponse(r, a, line); err != nil {
				return err
			}
		}
		return nil
	case "text/event-stream":
		for line := range strings.Lines(a.body) {
			if data, ok := strings.CutPrefix(line, "data: "); ok && strings.Contains(data, `"index"`) {
				if err := conformsResponse(r, a, data); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return heldAs(r, a, mediaType, a.body)
}

// conformsResponse checks one object of a status's responses.
func conformsResponse(r *http.Request, a *response, text string) error {
	return heldAs(r, a, "application/json", `{"status":"IN_PROGRESS","totalRequests":1,"completedRequests":0,"responses":[`+text+`]}`)
}

// heldAs returns an error if an answer with the given media type and body isn't as openapi.yaml
// describes it. An empty mediaType leaves the answer's own unchanged.
func heldAs(r *http.Request, a *response, mediaType, body string) error {
	item := document().model.Paths.PathItems.GetOrZero(template(r.URL.Path))
	if item == nil || r.Method != strings.ToUpper(r.Method) || item.GetOperations().GetOrZero(strings.ToLower(r.Method)) == nil {
		return conformsError(a)
	}
	plain := r.Clone(r.Context())
	plain.URL.RawPath = "" // the validator does not decode characters that need no encoding
	resp := &http.Response{StatusCode: a.status, Header: a.header.Clone(), Body: io.NopCloser(strings.NewReader(body)), Request: plain}
	if mediaType != "" {
		resp.Header.Set("Content-Type", mediaType)
	}
	if ok, wrong := document().validator.ValidateHttpResponse(plain, resp); !ok {
		var all []error
		for _, w := range wrong {
			all = append(all, fmt.Errorf("%s: %s", w.Message, w.Reason))
			for _, s := range w.SchemaValidationErrors {
				all = append(all, fmt.Errorf("%s %s", s.FieldPath, s.Reason))
			}
		}
		return fmt.Errorf("%s %s: %d %.300s isn't as openapi.yaml describes it: %w", r.Method, r.URL, a.status, body, errors.Join(all...))
	}
	return nil
}

// template returns the path in openapi.yaml that a request path matches.
func template(path string) string {
	parts := strings.Split(path, "/")
	if len(parts) > 4 && parts[1] == "api" && parts[2] == "v3" && parts[4] == "batch" {
		parts[3] = "{storeId}"
	}
	return strings.Join(parts, "/")
}

// conformsError checks the answer of a path that isn't in openapi.yaml.
func conformsError(a *response) error {
	var e struct {
		Message string `json:"errorMessage"`
		Code    code   `json:"errorCode"`
	}
	if err := json.Unmarshal([]byte(a.body), &e); err != nil || e.Message == "" || !slices.Contains(described(), e.Code) {
		return fmt.Errorf("%d %.300s isn't a described error", a.status, a.body)
	}
	return nil
}

// described returns the codes that openapi.yaml lists.
func described() (codes []code) {
	for _, n := range document().model.Components.Schemas.GetOrZero("ErrorCode").Schema().Enum {
		codes = append(codes, code(n.Value))
	}
	return codes
}

// TestDescribedRoutes: openapi.yaml describes the service's routes and methods, and no others.
func TestDescribedRoutes(t *testing.T) {
	var got, want []string
	for _, r := range routes {
		for method := range r.methods {
			want = append(want, method+" "+strings.Join(r.path, "/"))
		}
	}
	for path, item := range document().model.Paths.PathItems.FromOldest() {
		for method := range item.GetOperations().FromOldest() {
			got = append(got, strings.ToUpper(method)+" "+path)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("openapi.yaml describes\n%s\nbut the service has\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestDescribedCodes: every errorCode is described with its status, in openapi.yaml and in the docs.
func TestDescribedCodes(t *testing.T) {
	codes := constants(t)
	page, err := os.ReadFile("../../docs/contract.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range codes {
		status := answers[c].http
		if !slices.Contains(described(), c) {
			t.Errorf("%s is not described", c)
		}
		if !bytes.Contains(openapi.Document, fmt.Appendf(nil, "| `%s` | %d |", c, status)) {
			t.Errorf("%s has no row with %d in the table", c, status)
		}
		if row := fmt.Sprintf("(?m)^\\| `%s`(?: \\(Sheaf's\\))? \\| %d \\|", c, status); !regexp.MustCompile(row).Match(page) {
			t.Errorf("%s has no row with %d in docs/contract.md", c, status)
		}
	}
	if len(described()) != len(codes) {
		t.Errorf("openapi.yaml describes %d codes, but the source has %d", len(described()), len(codes))
	}
}

// TestDescribedHosts: each call's description has the answer for a host that isn't served.
func TestDescribedHosts(t *testing.T) {
	for path, item := range document().model.Paths.PathItems.FromOldest() {
		for method, op := range item.GetOperations().FromOldest() {
			if op.Responses.Codes.GetOrZero(strconv.Itoa(http.StatusMisdirectedRequest)) == nil {
				t.Errorf("%s %s does not describe %d", method, path, http.StatusMisdirectedRequest)
			}
		}
	}
}

// TestDescribedBodies: the schema of each request body has a name or a title. Otherwise openapi-generator
// chooses a name that, in TypeScript, is also the name of the call's parameters.
func TestDescribedBodies(t *testing.T) {
	for _, items := range []*orderedmap.Map[string, *v3.PathItem]{document().model.Paths.PathItems, document().model.Webhooks} {
		for path, item := range items.FromOldest() {
			for method, op := range item.GetOperations().FromOldest() {
				if op.RequestBody == nil {
					continue
				}
				for mediaType, content := range op.RequestBody.Content.FromOldest() {
					if !content.Schema.IsReference() && content.Schema.Schema().Title == "" {
						t.Errorf("%s %s: the schema of %s has no name and no title", method, path, mediaType)
					}
				}
			}
		}
	}
}

// constants returns the codes that the source defines.
func constants(t *testing.T) (codes []code) {
	t.Helper()
	file, err := parser.ParseFile(gotoken.NewFileSet(), "error.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok && spec.Type != nil && spec.Type.(*ast.Ident).Name == "code" {
			text, _ := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			codes = append(codes, code(text))
		}
		return true
	})
	return codes
}

// TestDescribedParameters: each call's parameters are described, and no others.
func TestDescribedParameters(t *testing.T) {
	for _, r := range routes {
		item := document().model.Paths.PathItems.GetOrZero(r.template)
		for method, op := range r.methods {
			var got []string
			for _, p := range item.GetOperations().GetOrZero(strings.ToLower(method)).Parameters {
				if p.In == "query" {
					got = append(got, p.Name)
				}
			}
			want := slices.Clone(op.params)
			if alias := hiddenAlias(got); alias != "" {
				want = slices.DeleteFunc(want, func(name string) bool { return name == alias })
			}
			slices.Sort(got)
			slices.Sort(want)
			if want = slices.Compact(want); !slices.Equal(got, want) {
				t.Errorf("%s %s: openapi.yaml describes the parameters %v, but the route lists %v", method, r.template, got, want)
			}
		}
	}
}

// hiddenAlias returns the name of the ticket that isn't described for a call that requires a
// ticket, because OpenAPI can't say that one of two names is required.
func hiddenAlias(described []string) string {
	switch ticket, ticketID := slices.Contains(described, "ticket"), slices.Contains(described, "ticketId"); {
	case ticket && !ticketID:
		return "ticketId"
	case ticketID && !ticket:
		return "ticket"
	}
	return ""
}

// TestParametersRead: a call reads the parameters that its route lists, and no others.
func TestParametersRead(t *testing.T) {
	read := map[string]bool{"ticket": true, "ticketId": true} // read in a loop, so not found in the source
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	reads := regexp.MustCompile(`(?:query\.(?:boolean|integer|moment|get)\(|parsed\(&c\.query, |const name = )"(\w+)"`)
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range reads.FindAllSubmatch(text, -1) {
			read[string(found[1])] = true
		}
	}
	if got := slices.Sorted(maps.Keys(read)); !slices.Equal(got, knownParams) {
		t.Errorf("the source reads %v, but the routes list %v", got, knownParams)
	}
}
