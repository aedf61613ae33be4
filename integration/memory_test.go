package integration

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// documentedMemory is the maximum memory of a node, in bytes (docs/operations.md#sizing).
const documentedMemory = 512 << 20

// memoryGroup creates a control group with the documented limit, below the test's own group, and
// returns its folder. If that isn't possible, the test sets GOMEMLIMIT instead and checks only the
// process's own peak.
func memoryGroup(t *testing.T) (folder string, environ []string) {
	t.Helper()
	data, err := os.ReadFile("/proc/self/cgroup")
	if err == nil {
		for _, g := range []struct{ line, root, limit string }{
			{`(?m)^\d+:(?:[^:\n]*,)?memory(?:,[^:\n]*)?:(.*)$`, "/sys/fs/cgroup/memory", "memory.limit_in_bytes"},
			{`(?m)^0::(.*)$`, "/sys/fs/cgroup", "memory.max"},
		} {
			found := regexp.MustCompile(g.line).FindSubmatch(data)
			if found == nil {
				continue
			}
			if folder, err = os.MkdirTemp(filepath.Join(g.root, string(found[1])), "sheaf-test-"); err != nil {
				continue
			}
			if os.WriteFile(filepath.Join(folder, g.limit), []byte(strconv.Itoa(documentedMemory)), 0o600) == nil {
				t.Cleanup(func() { os.Remove(folder) })
				return folder, nil
			}
			os.Remove(folder)
		}
	}
	t.Log("can't create a control group: limiting memory with GOMEMLIMIT instead")
	return "", []string{fmt.Sprintf("GOMEMLIMIT=%d", documentedMemory/10*9)}
}

// peak returns the peak memory of the process, in bytes.
func (s *service) peak(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	found := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(data)
	if found == nil {
		t.Fatalf("can't read the process's peak memory (%v); process state: %v", err, s.cmd.ProcessState)
	}
	n, _ := strconv.Atoi(string(found[1]))
	return n << 10
}

// largeAnswers is an upstream with answers of 5 MiB. Every tenth request fails at first.
type largeAnswers struct {
	body []byte

	mu     sync.Mutex
	failed map[string]bool
	sent   int
	more   chan struct{} // closed and replaced when an answer has been sent
}

func (u *largeAnswers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	code := http.StatusOK
	if strings.HasSuffix(r.URL.Path, "5") && !u.failed[r.URL.Path] {
		u.failed[r.URL.Path], code = true, http.StatusServiceUnavailable
	}
	u.mu.Unlock()
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(code)
	w.Write(u.body)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.sent++
	close(u.more)
	u.more = make(chan struct{})
}

// after waits until a number of answers have been sent.
func (u *largeAnswers) after(ctx context.Context, t *testing.T, s *service, n int) {
	t.Helper()
	for {
		u.mu.Lock()
		sent, more := u.sent, u.more
		u.mu.Unlock()
		if sent >= n {
			return
		}
		select {
		case <-more:
		case <-s.ended:
			t.Fatalf("the node has died after %d answers: %v", sent, s.cmd.ProcessState)
		case <-ctx.Done():
			t.Fatalf("%d answers were sent, want %d", sent, n)
		}
	}
}

// TestMemoryWithLargeAnswers: a batch with 200 answers of 5 MiB (500 in make chaos), a hundred at
// once, runs to its end within the documented memory, even though the node is killed twice.
func TestMemoryWithLargeAnswers(t *testing.T) { onEach(t, memoryWithLargeAnswers) }

func memoryWithLargeAnswers(t *testing.T, database string) {
	parallel(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	answers := 200
	if *faults > 0 {
		answers = 500
	}
	line := "abcdefghijklmnopqrstuvwxyz0123456789 lorem ipsum dolor sit amet\n"
	u := &largeAnswers{body: bytes.Repeat([]byte(line), 5<<20/len(line)), failed: map[string]bool{}, more: make(chan struct{})}
	up := httptest.NewServer(u)
	defer up.Close()
	folder, environ := memoryGroup(t)
	address := freeAddress(t)
	args := append(serveArgs(address, up.URL, database), "--secret-key-file", newKeyFile(t))
	run := func() *service {
		s := launchBinary(t, "/bin/sh", environ, append([]string{
			"-c", `if [ -n "$1" ]; then echo $$ >"$1/cgroup.procs" || exit 1; fi; shift; exec "$@"`, "sh", folder, binary,
		}, args...)...)
		s.base = "http://" + address
		s.waitReady(t)
		return s
	}
	s := run()
	var requests []string
	for i := range answers {
		requests = append(requests, fmt.Sprintf(`{"method":"GET","path":"large/%d"}`, i))
	}
	create(ctx, t, s, "["+strings.Join(requests, ",")+"]")
	peaks := []int{}
	for _, n := range []int{answers * 3 / 10, answers * 7 / 10} {
		u.after(ctx, t, s, n)
		peaks = append(peaks, s.peak(t)>>20)
		s.kill9(t)
		s = run()
	}
	ended := regexp.MustCompile(`"msg":"batch ended".*`)
	for {
		s.mu.Lock()
		found, changed := ended.Find(s.log.Bytes()), s.changed
		s.mu.Unlock()
		if found != nil {
			if !strings.Contains(string(found), fmt.Sprintf(`"completed":%d,"failed":0,`, answers)) {
				t.Errorf("the batch: %s", found)
			}
			break
		}
		select {
		case <-changed:
		case <-s.ended:
			t.Fatalf("the node has died: %v", s.cmd.ProcessState)
		case <-ctx.Done():
			t.Fatal("the batch has not ended")
		}
	}
	peaks = append(peaks, s.peak(t)>>20)
	t.Logf("peaks: %d MiB; in a control group: %v", peaks, folder != "")
	for _, mib := range peaks {
		if mib > documentedMemory>>20 {
			t.Errorf("the node took %d MiB", mib)
		}
	}
	s.term(t)
}

// create creates a parallel batch.
func create(ctx context.Context, t *testing.T, s *service, requests string) {
	t.Helper()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base+"/api/v3/1/batch?allowParallelMode=true&stopOnFirstFailure=false", strings.NewReader(requests))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer token")
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("create: %s", resp.Status)
	}
}
