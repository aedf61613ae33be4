package integration

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sheafapi/sheaf/internal/strictupstream"
)

// hostile is an answer that tries to inject markup and scripts.
const hostile = `<script>window.hacked=1</script><img src=x onerror="window.hacked=1">`

// stage is the API behind the service. The test controls it.
type stage struct {
	*httptest.Server
	gate   chan struct{} // each answer at /held receives from it once
	broken atomic.Bool   // /flaky fails
	limits atomic.Int32  // how many more answers at /limited are 429
}

func newStage(t *testing.T) *stage {
	s := &stage{gate: make(chan struct{}, 1000)}
	s.broken.Store(true)
	s.Server, _ = strictupstream.Start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		switch {
		case strings.HasSuffix(r.URL.Path, "/held"):
			select {
			case <-s.gate:
			case <-r.Context().Done():
			}
			_, _ = io.WriteString(w, `{"id":1}`)
		case strings.HasSuffix(r.URL.Path, "/flaky") && s.broken.Load():
			w.Header().Set("X-Hostile", hostile)
			w.WriteHeader(http.StatusConflict)
			_, _ = io.WriteString(w, `{"problem":`+quoteJSON(hostile)+`}`)
		case strings.HasSuffix(r.URL.Path, "/limited") && s.limits.Add(-1) >= 0:
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
		case strings.HasSuffix(r.URL.Path, "/raw"):
			hijacked, buffered, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = fmt.Fprintf(buffered, "HTTP/1.1 418 %s\r\nContent-Length: %d\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n%s", hostile, len(hostile), hostile)
			_ = buffered.Flush()
			_ = hijacked.Close()
		default:
			_, _ = io.WriteString(w, `{"name":"fine"}`)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func quoteJSON(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// askAPI makes one call to the service's API, expects 200 and returns the answer.
func askAPI(t *testing.T, method, address, token, body string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %d %s %v", method, address, resp.StatusCode, answer, err)
	}
	return string(answer)
}

// createBatch creates a batch as ann in the store 1003 and returns its ticket. Requests are written
// as "METHOD path".
func (s *service) createBatch(t *testing.T, query string, requests ...string) string {
	t.Helper()
	var all []map[string]any
	for i, text := range requests {
		method, path, _ := strings.Cut(text, " ")
		one := map[string]any{"id": fmt.Sprint("r", i), "method": method, "path": path}
		if method != "GET" {
			one["body"] = map[string]string{"name": hostile}
		}
		all = append(all, one)
	}
	body, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Ticket string }
	if err := json.Unmarshal([]byte(askAPI(t, "POST", s.base+"/api/v3/1003/batch"+query, "ann", string(body))), &got); err != nil {
		t.Fatal(err)
	}
	return got.Ticket
}

// operatorKey creates a file with an operator key, and returns the key.
func operatorKey(t *testing.T, secret, file string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), binary, "keys", "add", "--file", file, "--name", "night-shift", "--store", "*", "--right", "operate", "--secret-key-file", secret).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestDashboard uses the dashboard in a real Chromium like its users: it watches a batch to its
// end, finds failures, retries them, acts on all matching batches, and checks what other users
// can't see.
func TestDashboard(t *testing.T) {
	t.Parallel()
	onEach(t, func(t *testing.T, database string) {
		api := newStage(t)
		folder := t.TempDir()
		secret := filepath.Join(folder, "secret.key")
		if out, err := exec.CommandContext(t.Context(), binary, "secret", "new", secret).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		keys := filepath.Join(folder, "operators.json")
		operator := operatorKey(t, secret, keys)
		address := freeAddress(t)
		s := launch(t, append(serveArgs(address, api.URL, database), "--secret-key-file", secret, "--operator-keys", keys)...)
		s.base = "http://" + address
		s.waitReady(t)

		b := newBrowser(t)
		b.open(s.base + "/ui")
		b.checkAccessible("sign-in")
		b.signIn(s.base, "1003", "ann")
		b.untilText("No batches queued or running.")

		// A batch is watched to its end without reloading the page.
		requests := []string{"POST /held", "GET /flaky", "GET /raw", "GET /limited"}
		for len(requests) < 12 {
			requests = append(requests, "POST /held")
		}
		api.limits.Store(1)
		ticket := s.createBatch(t, "?stopOnFirstFailure=false&groupId=spring", requests...)
		queued := s.createBatch(t, "?groupId=spring", "POST /held")
		b.untilText(ticket[:8])
		b.untilText(queued[:8])
		value[bool](b, "(window.same = true)")
		b.until("document.querySelectorAll('#queue tbody tr').length === 2")
		b.checkAccessible("store-running")
		b.follow(ticket[:8])
		value[bool](b, "(window.same = true)")
		b.untilText("running")
		api.gate <- struct{}{} // now all requests up to the next held one run
		b.untilText("Failed\n2")
		b.until("document.querySelector('#requests tbody tr:nth-child(4)').innerText.includes('(1 throttled)')")
		b.checkAccessible("batch-running")
		for range 9 { // the other eight of this batch, and the next batch's
			api.gate <- struct{}{}
		}
		b.untilText("100 %")
		b.untilText("ended")
		if !value[bool](b, "window.same") {
			t.Error("the page was reloaded")
		}
		b.until("document.getElementById('announcement').textContent.includes('The batch has ended')")
		b.checkAccessible("batch")

		// The failure is found, and its markup is shown as text.
		value[bool](b, "(document.querySelector('select[name=status]').value = 'FAILED', true)")
		b.follow("Filter")
		if n := value[int](b, "document.querySelectorAll('#requests tbody tr').length"); n != 2 {
			t.Errorf("%d failed requests are listed", n)
		}
		b.follow("GET /flaky")
		for _, text := range []string{"409", hostile, "X-Hostile", "GET"} {
			if !b.has(text) && !b.has(strings.ReplaceAll(text, `"`, `\"`)) {
				t.Errorf("the failed request's page does not show %q", text)
			}
		}
		b.checkAccessible("request")
		b.follow("Next request")
		if !b.has("418 " + hostile) {
			t.Error("the reason phrase is not shown")
		}
		if value[bool](b, "'hacked' in window") {
			t.Error("the markup in an answer was not shown as text")
		}
		b.press("As a curl command")
		if text := value[string](b, "document.getElementById('curl').textContent"); !strings.Contains(text, `curl "$API"'/raw'`) || strings.Contains(text, "ann") {
			t.Errorf("the curl command is %s", text)
		}

		// It is retried after a confirmation.
		api.broken.Store(false)
		b.follow("Back to batch")
		b.follow("Retry failed")
		b.checkAccessible("confirm")
		b.follow("Retry 2 requests")
		b.untilText("This is the new batch")
		b.untilText("retry of " + ticket)
		b.until("document.body.innerText.includes('ended') && document.body.innerText.includes('Failed\\n1')")

		// All matching batches are counted, then retried.
		for range 3 {
			s.createBatch(t, "?groupId=autumn", "POST /held")
		}
		b.open(s.base + "/ui/stores/1003/search?groupId=autumn")
		b.checkAccessible("search")
		b.follow("Cancel all matches")
		b.untilText("This cancels 3 batches")
		b.follow("Cancel 3 batches")
		b.untilText("Canceled 3 batches.")
		b.open(s.base + "/ui/stores/1003/search?code=418")
		b.follow("Retry all failed matches")
		b.untilText("This retries 1 request of 1 batch") // the other one was retried above
		b.follow("Back")
		b.open(s.base + "/ui/stores/1003/search?code=5")
		b.untilText("Parameter code must be")

		// The queue is paused and resumed.
		b.open(s.base + "/ui/stores/1003")
		b.checkAccessible("store")
		b.follow("Pause queue")
		b.follow("Pause queue")
		b.untilText("Resume")
		b.follow("Resume")
		b.untilText("Resumed.")

		checkOtherUsers(t, b, s, ticket, operator)
		checkWithoutScripts(t, b, s, ticket)
	})
}

// checkOtherUsers checks that a user with another token doesn't see the first user's batches, and
// that an operator sees all stores but no batches.
func checkOtherUsers(t *testing.T, b *browser, s *service, ticket, operator string) {
	page := s.base + "/ui/stores/1003/batches/" + ticket
	bob := b.newUser()
	bob.open(page)
	bob.untilText("Sign in to see this page.")
	bob.keys("") // gives the page the focus
	bob.signIn(s.base, "1003", "bob")
	bob.untilText("No batches queued or running.")
	bob.open(page)
	bob.untilText("There is no batch with this ticket")
	bob.open(s.base + "/ui/operator")
	bob.untilText("Something went wrong")
	if bob.has("Token") || !bob.has("Sign out") {
		t.Error("a caller without operator access was signed out")
	}
	if bob.has("Longest queues") {
		t.Error("a caller without operator access sees the state of the whole service")
	}
	bob.signIn(s.base, "", operator)
	bob.untilText("Longest queues")
	bob.untilText("Median")
	bob.checkAccessible("operator")
	if !b.has("Pause queue") {
		t.Error("the first user was signed out by the second one")
	}
	b.open(page) // still ann
	b.untilText("100 %")
	b.press("Sign out")
	b.until("location.pathname === '/ui/'")
	b.open(page)
	b.untilText("Sign in to see this page.")
	b.signIn(s.base, "1003", "ann")
}

// checkWithoutScripts checks that a batch's page works without JavaScript.
func checkWithoutScripts(t *testing.T, b *browser, s *service, ticket string) {
	b.scripts(false)
	defer b.scripts(true)
	b.open(s.base + "/ui/stores/1003/batches/" + ticket)
	b.scripts(true) // for the checks only: the page was loaded without scripts
	if !b.has("100 %") || !b.has("12 of 12") && !b.has("1 to 12 of 12") || !b.has("GET /flaky") {
		t.Errorf("without scripts the batch's page is %.2000s", value[string](b, "document.body.innerText"))
	}
	if n := value[int](b, "document.querySelectorAll('td.time svg rect').length"); n < 12 {
		t.Errorf("without scripts there are %d bars", n)
	}
}

// TestDashboardIsOff: with --ui off, the dashboard's paths don't exist.
func TestDashboardIsOff(t *testing.T) {
	t.Parallel()
	api := newStage(t)
	s := start(t, api.URL, filepath.Join(t.TempDir(), "sheaf.db"), "--ui", "off")
	for _, path := range []string{"/ui/", "/ui", "/ui/assets/style.css"} {
		resp, err := http.Get(s.base + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
}
