package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// patience limits every wait for an event. A script that reaches it fails.
const patience = 30 * time.Second

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sheaf": main})
}

// TestScripts runs the real program. The scripts have these commands besides testscript's own:
//
//	exits CODE ARG…       run sheaf and expect the exit code
//	upstream              start an upstream, $UPSTREAM, that answers {"path":"…"}; below /hold only after
//	                      release; below /status/N with the status N
//	arrived, release      wait until a request is held; release it and all later ones
//	serve [N=V…] [FLAG…]  start sheaf serve on a free port, $ADDRESS and $URL, and wait until it is ready
//	logged REGEXP         wait until the server's log matches
//	signal TERM|INT|HUP|KILL
//	                      send a signal to the server
//	exited CODE|NAME      wait until the server has ended, with that exit code or by that signal
//	ticket                set $TICKET to the first ticket that the last command printed
//	http [-status N] [-until REGEXP] [-token FILE] METHOD URL [BODY]
//	                      call until the answer matches REGEXP, expect the status (200), print the body
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(e *testscript.Env) error {
			e.Values[worldKey{}] = &world{held: make(chan struct{}, 100), gate: make(chan struct{})}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":    cmdExits,
			"upstream": cmdUpstream,
			"arrived":  cmdArrived,
			"release":  cmdRelease,
			"serve":    cmdServe,
			"logged":   cmdLogged,
			"signal":   cmdSignal,
			"exited":   cmdExited,
			"http":     cmdHTTP,
			"ticket":   cmdTicket,
		},
	})
}

type worldKey struct{}

// world is what one script has started.
type world struct {
	server *process
	held   chan struct{} // a value for each request that the upstream holds
	gate   chan struct{} // closed by release
}

func worldOf(ts *testscript.TestScript) *world { return ts.Value(worldKey{}).(*world) }

func cmdExits(ts *testscript.TestScript, _ bool, args []string) {
	code := 0
	if err := ts.Exec("sheaf", args[1:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		code = exit.ExitCode()
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d", code)
	}
}

func cmdUpstream(ts *testscript.TestScript, _ bool, _ []string) {
	w := worldOf(ts)
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // the end of the connection is noticed only after the body
		if strings.Contains(r.URL.Path, "/hold") {
			w.held <- struct{}{}
			select {
			case <-w.gate:
			case <-r.Context().Done():
			}
		}
		rw.Header().Set("Content-Type", "application/json")
		if _, status, ok := strings.Cut(r.URL.Path, "/status/"); ok {
			n, _ := strconv.Atoi(status)
			rw.WriteHeader(n)
		}
		fmt.Fprintf(rw, `{"path":%q}`, r.URL.Path)
	}))
	ts.Defer(s.Close)
	ts.Setenv("UPSTREAM", s.URL)
}

func cmdArrived(ts *testscript.TestScript, _ bool, _ []string) {
	select {
	case <-worldOf(ts).held:
	case <-time.After(patience):
		ts.Fatalf("no request came to the upstream")
	}
}

func cmdRelease(ts *testscript.TestScript, _ bool, _ []string) { close(worldOf(ts).gate) }

func cmdServe(ts *testscript.TestScript, _ bool, args []string) {
	env := os.Environ()
	for len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		env, args = append(env, args[0]), args[1:]
	}
	args = append([]string{"serve", "--listen", "127.0.0.1:0", "--log-format", "json"}, args...)
	p := &process{cmd: exec.Command("sheaf", args...), ended: make(chan struct{})}
	p.more = sync.NewCond(&p.mu)
	p.cmd.Dir, p.cmd.Env, p.cmd.Stderr = ts.MkAbs("."), env, p
	ts.Check(p.cmd.Start())
	go p.wait()
	ts.Defer(func() {
		p.cmd.Process.Kill()
		<-p.ended
		ts.Logf("the server's log:\n%s", p.log.Bytes())
	})
	worldOf(ts).server = p
	address := p.await(ts, `"msg":"listening","address":"([^"]+)"`)
	p.await(ts, `"msg":"ready"`)
	ts.Setenv("ADDRESS", address)
	ts.Setenv("URL", "http://"+address)
}

func cmdLogged(ts *testscript.TestScript, _ bool, args []string) {
	worldOf(ts).server.await(ts, args[0])
}

func cmdSignal(ts *testscript.TestScript, _ bool, args []string) {
	sig := map[string]os.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "HUP": syscall.SIGHUP, "KILL": syscall.SIGKILL}[args[0]]
	ts.Check(worldOf(ts).server.cmd.Process.Signal(sig))
}

func cmdExited(ts *testscript.TestScript, _ bool, args []string) {
	p := worldOf(ts).server
	select {
	case <-p.ended:
	case <-time.After(patience):
		ts.Fatalf("the server has not ended")
	}
	got := strconv.Itoa(p.cmd.ProcessState.ExitCode())
	if status := p.cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		got = status.Signal().String()
	}
	if got != args[0] {
		ts.Fatalf("the server ended with %s", got)
	}
}

// process is a running server with its log.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{}

	mu   sync.Mutex
	more *sync.Cond // the log has grown, the process has ended, or a wait has timed out
	log  bytes.Buffer
	over bool
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.more.Broadcast()
	return p.log.Write(b)
}

func (p *process) wait() {
	p.cmd.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.over = true
	p.more.Broadcast()
	close(p.ended)
}

// await waits until the log has the pattern and returns what its group matched.
func (p *process) await(ts *testscript.TestScript, pattern string) string {
	found := p.logged(pattern)
	if found == "" {
		p.mu.Lock()
		defer p.mu.Unlock()
		ts.Fatalf("the log never had %q (server ended: %v):\n%s", pattern, p.over, p.log.Bytes())
	}
	return found
}

// logged is like await, but returns "" when the process ends or patience has passed.
func (p *process) logged(pattern string) string {
	re := regexp.MustCompile(pattern)
	expired := false
	timer := time.AfterFunc(patience, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		expired = true
		p.more.Broadcast()
	})
	defer timer.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if m := re.FindSubmatch(p.log.Bytes()); m != nil {
			return string(m[len(m)-1])
		}
		if p.over || expired {
			return ""
		}
		p.more.Wait()
	}
}

func cmdTicket(ts *testscript.TestScript, _ bool, _ []string) {
	found := regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`).FindString(ts.ReadFile("stdout"))
	if found == "" {
		ts.Fatalf("no ticket was printed")
	}
	ts.Setenv("TICKET", found)
}

func cmdHTTP(ts *testscript.TestScript, _ bool, args []string) {
	status, until, token := "200", regexp.MustCompile(""), "t0ken"
	for ; strings.HasPrefix(args[0], "-"); args = args[2:] {
		switch args[0] {
		case "-status":
			status = args[1]
		case "-until":
			until = regexp.MustCompile(args[1])
		case "-token":
			token = strings.TrimSpace(ts.ReadFile(args[1]))
		}
	}
	body := ""
	if len(args) > 2 {
		body = args[2]
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		code, text := call(ts, token, args[0], args[1], body)
		switch {
		case strconv.Itoa(code) == status && until.MatchString(text):
			fmt.Fprintln(ts.Stdout(), text)
			return
		case until.String() == "" || time.Now().After(end):
			ts.Fatalf("%s %s: %d %s", args[0], args[1], code, text)
		}
	}
}

// call makes one call with a token.
func call(ts *testscript.TestScript, token, method, url, body string) (code int, answer string) {
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	ts.Check(err)
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(r)
	ts.Check(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	ts.Check(err)
	return resp.StatusCode, string(text)
}
