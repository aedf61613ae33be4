package sheaf_test

import (
	"fmt"
	"io/fs"
	"os"
	slashpath "path"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

var (
	heading  = regexp.MustCompile(`^#{1,6} +(.*)$`)
	link     = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	code     = regexp.MustCompile("`[^`]*`")
	pointer  = regexp.MustCompile(`\bdocs/[\w/-]+\.md(?:#[\w-]+)?`)
	notAWord = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	skipped  = []string{".git", ".tools", "bin", "dist", "node_modules"}
)

// prose returns the lines of a Markdown page that are not in a code block.
func prose(text string) (out []string) {
	fence := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		start := strings.TrimSpace(line)
		switch {
		case fence != "":
			if strings.HasPrefix(start, fence) {
				fence = ""
			}
		case strings.HasPrefix(start, "```"):
			fence = "```"
		default:
			out = append(out, line)
		}
	}
	return out
}

// anchors returns the anchors that GitHub gives the headings of a page.
func anchors(text string) map[string]bool {
	out := map[string]bool{}
	for _, line := range prose(text) {
		if m := heading.FindStringSubmatch(line); m != nil {
			base := strings.ReplaceAll(notAWord.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")
			name := base
			for n := 1; out[name]; n++ {
				name = fmt.Sprintf("%s-%d", base, n)
			}
			out[name] = true
		}
	}
	return out
}

// brokenLinks returns a line for each link in a Markdown page, and for each reference to a page of
// docs/ in any other text file, that leads nowhere.
func brokenLinks(root fs.FS) (broken []string, err error) {
	known := map[string]map[string]bool{}
	check := func(from, target string) {
		file, anchor, hasAnchor := strings.Cut(target, "#")
		if file == "" {
			file = from
		} else if strings.HasSuffix(from, ".md") {
			file = slashpath.Join(slashpath.Dir(from), file)
		}
		info, err := fs.Stat(root, file)
		switch {
		case err != nil:
			broken = append(broken, from+": "+target+": there is no such file")
		case !hasAnchor || info.IsDir():
		default:
			if known[file] == nil {
				text, _ := fs.ReadFile(root, file)
				known[file] = anchors(string(text))
			}
			if !known[file][anchor] {
				broken = append(broken, from+": "+target+": there is no such heading")
			}
		}
	}
	err = fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			if slices.Contains(skipped, entry.Name()) {
				return fs.SkipDir
			}
			return nil
		}
		switch slashpath.Ext(name) {
		case ".go", ".md", ".sh", ".sql", ".txtar", ".yaml", ".yml", "":
		default:
			return nil
		}
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		if slashpath.Ext(name) != ".md" {
			for _, target := range pointer.FindAllString(string(text), -1) {
				check(name, target)
			}
			return nil
		}
		for _, line := range prose(string(text)) {
			for _, m := range link.FindAllStringSubmatch(code.ReplaceAllString(line, "code"), -1) {
				if !strings.Contains(m[1], "://") && !strings.HasPrefix(m[1], "mailto:") {
					check(name, m[1])
				}
			}
		}
		return nil
	})
	return broken, err
}

// TestLinks checks that links in the documentation, and references to it in comments, lead to a file and a
// heading that exist.
func TestLinks(t *testing.T) {
	broken, err := brokenLinks(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range broken {
		t.Error(line)
	}
}

// TestLinksFindsBroken checks that each kind of broken link is found, and that correct ones aren't reported.
func TestLinksFindsBroken(t *testing.T) {
	const page = "docs" + "/page.md"
	files := fstest.MapFS{
		page: {Data: []byte("# Page\n\n## One, `two` & three\n\n## Twice\n\n## Twice\n\n```sh\n# Not a heading\n[x](no.md)\n```\n" +
			"[file](../README.md) [here](#twice-1) [folder](../cmd) [web](https://example.com/#x) `[code](no.md)`\n" +
			"[a](gone.md) [b](#not-a-heading) [c](../README.md#gone)\n")},
		"README.md":   {Data: []byte("# Top\n[page](" + page + "#one-two--three)\n")},
		"cmd/main.go": {Data: []byte("// See " + page + "#twice and " + page + ".\n// " + page + "#lost\n// docs/" + "lost.md\n")},
	}
	want := []string{
		"cmd/main.go: " + page + "#lost: there is no such heading",
		"cmd/main.go: docs/" + "lost.md: there is no such file",
		page + ": gone.md: there is no such file",
		page + ": #not-a-heading: there is no such heading",
		page + ": ../README.md#gone: there is no such heading",
	}
	broken, err := brokenLinks(files)
	if err != nil || !slices.Equal(broken, want) {
		t.Errorf("found %q, %v; want %q", broken, err, want)
	}
}

// testSources returns the test code in a folder, and the names of its scripts as Go strings.
func testSources(t *testing.T, folder, files string) string {
	t.Helper()
	var all strings.Builder
	for _, pattern := range []string{files, "testdata/*.txtar"} {
		names, err := fs.Glob(os.DirFS("."), slashpath.Join(folder, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if script, ok := strings.CutSuffix(slashpath.Base(name), ".txtar"); ok {
				fmt.Fprintf(&all, "%q", script)
				continue
			}
			text, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			all.Write(text)
		}
	}
	return all.String()
}

// TestCompatibilityNamesTests checks that the tests and subtests named in docs/compatibility.md exist.
func TestCompatibilityNamesTests(t *testing.T) {
	folders := map[string]string{
		"": ".", "cmd": "cmd/sheaf", "integration": "integration", "driver": "internal/storage/internal/driver",
		"reply": "internal/api/reply", "sqlite": "internal/storage/sqlite", "storagetest": "internal/storage/storagetest",
	}
	page, err := os.ReadFile("docs/compatibility.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`(?:(\\w+): )?((?:Test|Fuzz)\\w+)(?:/([^`]*))?`").FindAllStringSubmatch(string(page), -1)
	if len(named) < 100 {
		t.Errorf("only %d tests are named", len(named))
	}
	sources := map[string]string{}
	for _, m := range named {
		folder, ok := folders[m[1]]
		if !ok {
			folder = "internal/" + m[1]
		}
		if sources[folder] == "" {
			sources[folder] = testSources(t, folder, "*_test.go")
		}
		if !strings.Contains(sources[folder], "func "+m[2]+"(") {
			t.Errorf("there is no %s in %s", m[2], folder)
		}
		if m[3] != "" && !strings.Contains(sources[folder], `"`+m[3]+`"`) {
			t.Errorf("there is no %s/%s in %s", m[2], m[3], folder)
		}
	}
	suites := testSources(t, "internal/storage/storagetest", "*.go")
	for _, m := range regexp.MustCompile("`(?:suite|reopen|nodes): (?:([^`/]*)/)?([^`]*)`").FindAllStringSubmatch(string(page), -1) {
		for _, name := range m[1:] {
			if name != "" && !strings.Contains(suites, `"`+name+`"`) {
				t.Errorf("there is no %q in storagetest", name)
			}
		}
	}
}
