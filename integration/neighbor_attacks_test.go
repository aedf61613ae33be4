package integration

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// attacks are the attacks that a tenant can make, one on each resource that it shares with others.
var attacks = []attack{
	{resource: "connections", run: holdConnections},
	{resource: "streams", prepare: prepareLarge, run: holdStreams},
	{resource: "answers", run: fetchLarge},
	{resource: "uploads", run: uploadSlowly},
	{resource: "slow readers", prepare: prepareLarge, run: readSlowly},
	{resource: "pages", prepare: prepareLarge, run: readPages},
	{resource: "searches", run: searchFar},
	{resource: "recorder", run: runManyBatches},
	{resource: "creates", run: createLarge},
	{resource: "callbacks", callback: true, run: callDeadReceivers},
	{resource: "made-up tokens", run: makeUpTokens},
	{resource: "references", run: fillReferences},
}

// call makes one call as the attacker and returns the beginning of the answer. It reads and discards
// the rest. The status is 0 if there is no answer.
func (a *attacker) call(ctx context.Context, method, path string, query url.Values, token string, body io.Reader) (status int, answer []byte) {
	r, err := http.NewRequestWithContext(ctx, method, a.base+"/api/v3/"+attackerStore+"/batch"+path+"?"+query.Encode(), body)
	if err != nil {
		return 0, nil
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	resp, err := a.client.Do(r)
	if err != nil {
		return 0, nil
	}
	defer resp.Body.Close()
	answer, _ = io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, answer
}

// create creates a batch and returns its ticket, empty if it was refused.
func (a *attacker) create(ctx context.Context, token string, query url.Values, body []byte) string {
	var answer struct {
		Ticket string `json:"ticket"`
	}
	if status, text := a.call(ctx, http.MethodPost, "", query, token, bytes.NewReader(body)); status == http.StatusOK {
		_ = json.Unmarshal(text, &answer)
	}
	return answer.Ticket
}

const attackerToken = "attacker-token"

// attempts limits how many attempts per second all goroutines of an attack make together, after the
// first attempt of each. Without a limit, the attacker itself would use up the machine.
const attempts = 500

// repeat repeats step in each of n goroutines until ctx ends.
func repeat(ctx context.Context, n int, step func(n int)) {
	tick := time.NewTicker(time.Second / attempts)
	defer tick.Stop()
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			for {
				step(i)
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	all.Wait()
}

// raw opens a connection to the service and writes the beginning of a call.
func (a *attacker) raw(ctx context.Context, head string) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(attackerAddress)}, Timeout: time.Second}
	c, err := d.DialContext(ctx, "tcp", strings.TrimPrefix(a.base, "http://"))
	if err != nil {
		return nil, err
	}
	if _, err := io.WriteString(c, head); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// hold opens a connection and writes the beginning of a call. It returns when ctx ends, or when the
// service answers or closes the connection.
func (a *attacker) hold(ctx context.Context, head string) {
	c, err := a.raw(ctx, head)
	if err != nil {
		return
	}
	defer c.Close()
	gone := make(chan struct{})
	go func() { // returns when the service answers or closes the connection, or when ctx has ended
		defer close(gone)
		var b [1]byte
		_, _ = c.Read(b[:])
	}()
	select {
	case <-gone:
	case <-ctx.Done():
		c.Close()
		<-gone
	}
}

// holdConnections holds thousands of idle connections.
func holdConnections(ctx context.Context, a *attacker) {
	repeat(ctx, 9000, func(int) { a.hold(ctx, "GET /api/v3/") })
}

// prepareLarge runs a batch with 20 large answers to its end.
func prepareLarge(t *testing.T, a *attacker) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	a.large = a.create(ctx, attackerToken, url.Values{"allowParallelMode": {"true"}}, gets(20, "large"))
	for {
		_, answer := a.call(ctx, http.MethodGet, "", url.Values{"ticket": {a.large}, "responses": {"false"}}, attackerToken, nil)
		if strings.Contains(string(answer), `"COMPLETED"`) {
			return
		}
		if !pause(ctx) {
			t.Fatalf("the attacker's batch does not end: %s", answer)
		}
	}
}

// gets returns the body of a create of n GETs.
func gets(n int, path string) []byte {
	requests := make([]request, n)
	for i := range requests {
		requests[i] = request{ID: fmt.Sprint(i), Method: http.MethodGet, Path: "/" + path}
	}
	return encode(requests)
}

// head returns the head of a call that is written directly to a connection.
func (a *attacker) head(method, query, more string) string {
	return fmt.Sprintf("%s /api/v3/%s/batch?%s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n%s\r\n", method, attackerStore, query, attackerToken, more)
}

// holdStreams subscribes to the events of a batch that doesn't end, thousands of times.
func holdStreams(ctx context.Context, a *attacker) {
	ticket := a.create(ctx, attackerToken, nil, gets(500, "x"))
	head := a.head(http.MethodGet, "ticket="+ticket, "Accept: text/event-stream\r\n")
	repeat(ctx, 4000, func(int) { a.hold(ctx, head) })
}

// fetchLarge runs parallel batches of 100 answers of 5 MiB.
func fetchLarge(ctx context.Context, a *attacker) {
	body := gets(100, "large")
	repeat(ctx, 4, func(n int) {
		a.create(ctx, fmt.Sprint(attackerToken, n), url.Values{"allowParallelMode": {"true"}}, body)
	})
}

// uploadSlowly begins uploads that decompress to megabytes and stops in the middle.
func uploadSlowly(ctx context.Context, a *attacker) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	_, _ = z.Write(append([]byte(`[{"method":"POST","path":"/x","body":"`), bytes.Repeat([]byte("x"), 9<<20)...))
	_ = z.Close()
	part := zipped.String()[:zipped.Len()-20]
	head := a.head(http.MethodPost, "", fmt.Sprintf("Content-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n", zipped.Len()))
	repeat(ctx, 200, func(int) { a.hold(ctx, head+part) })
}

// readSlowly asks for 100 MiB of results and reads only their first byte.
func readSlowly(ctx context.Context, a *attacker) {
	head := a.head(http.MethodGet, "ticket="+a.large, "")
	stream := a.head(http.MethodGet, "ticket="+a.large, "Accept: application/x-ndjson\r\n")
	repeat(ctx, 200, func(n int) {
		if n%2 == 0 {
			a.hold(ctx, head)
		} else {
			a.hold(ctx, stream)
		}
	})
}

// readPages reads a large batch in every possible way, again and again.
func readPages(ctx context.Context, a *attacker) {
	calls := []struct {
		path  string
		query url.Values
	}{
		{"", url.Values{"ticket": {a.large}}},
		{"", url.Values{"ticket": {a.large}, "details": {"true"}, "after": {"0"}, "limit": {"10"}}},
		{"/requests", url.Values{"ticket": {a.large}}},
		{"/timeline", url.Values{"ticket": {a.large}}},
	}
	repeat(ctx, 40, func(n int) {
		c := calls[n%len(calls)]
		a.call(ctx, http.MethodGet, c.path, c.query, attackerToken, nil)
	})
}

// searchFar searches with huge offsets, for which the database must count.
func searchFar(ctx context.Context, a *attacker) {
	for range 50 {
		a.create(ctx, attackerToken, nil, gets(1, "x"))
	}
	repeat(ctx, 200, func(n int) {
		query := url.Values{"offset": {fmt.Sprint(1_000_000 * (n % 2))}, "limit": {"100"}}
		a.call(ctx, http.MethodGet, "", query, attackerToken, nil)
	})
}

// runManyBatches keeps the database busy with the results of many small requests.
func runManyBatches(ctx context.Context, a *attacker) {
	body := gets(500, "x")
	repeat(ctx, 20, func(n int) {
		a.create(ctx, fmt.Sprint(attackerToken, n), url.Values{"allowParallelMode": {"true"}}, body)
	})
}

// createLarge creates batches of nearly the maximum size.
func createLarge(ctx context.Context, a *attacker) {
	body := encode([]request{{ID: "1", Method: http.MethodPost, Path: "/x", Body: json.RawMessage(`"` + strings.Repeat("x", 9<<20) + `"`)}})
	repeat(ctx, 8, func(int) { a.create(ctx, attackerToken, nil, body) })
}

// callDeadReceivers runs batches whose callback receiver never answers.
func callDeadReceivers(ctx context.Context, a *attacker) {
	body := gets(1, "x")
	repeat(ctx, 8, func(int) {
		a.create(ctx, attackerToken, url.Values{"callbackUrl": {"http://" + a.dead + "/hook"}}, body)
	})
}

// makeUpTokens creates thousands of batches, each with a different made-up token.
func makeUpTokens(ctx context.Context, a *attacker) {
	var made atomic.Int64
	body := gets(50, "x")
	repeat(ctx, 20, func(int) { a.create(ctx, fmt.Sprint("made-up-", made.Add(1)), nil, body) })
}

// fillReferences creates batches that take many values from one large body.
func fillReferences(ctx context.Context, a *attacker) {
	var b strings.Builder
	fmt.Fprintf(&b, `[{"id":"p","method":"GET","path":"/large"}`)
	for i := range 100 {
		fmt.Fprintf(&b, `,{"id":"r%d","method":"POST","path":"/x","body":{`, i)
		refs := make([]string, 50)
		for j := range refs {
			if j > 0 {
				b.WriteByte(',')
			}
			fmt.Fprintf(&b, `"f%d":null`, j)
			refs[j] = fmt.Sprintf(`"body:/f%d":"p#/a/%d"`, j, j)
		}
		fmt.Fprintf(&b, `},"refs":{%s}}`, strings.Join(refs, ","))
	}
	b.WriteByte(']')
	body := []byte(b.String())
	repeat(ctx, 8, func(n int) {
		a.create(ctx, fmt.Sprint(attackerToken, n), url.Values{"dryRun": {fmt.Sprint(n%2 == 0)}, "stopOnFirstFailure": {"false"}}, body)
	})
}
