package integration

import (
	"bytes"
	binaries "encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sheafapi/sheaf/internal/pgtest"
)

// clockVariable names the file that sets the clock of newClockBinary's build.
const clockVariable = "TEST_CLOCK_FILE"

// newClockBinary builds the service with a standard library whose clock is off by the amount in a
// file. Timers and the monotonic clock don't change. The first build takes half a minute.
func newClockBinary(t *testing.T) string {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	standard := filepath.Join(strings.TrimSpace(string(root)), "src", "time")
	source, err := os.ReadFile(filepath.Join(standard, "time.go"))
	if err != nil {
		t.Fatal(err)
	}
	const begin = "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	if bytes.Count(source, []byte(begin)) != 1 {
		t.Fatalf("time.Now of %s isn't written as this test expects", runtime.Version())
	}
	dir := t.TempDir()
	write := func(name string, content []byte) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	replace := map[string]string{
		filepath.Join(standard, "time.go"):   write("time.go", bytes.Replace(source, []byte(begin), []byte(begin+"\tsec += *clockOffset\n"), 1)),
		filepath.Join(standard, "offset.go"): write("offset.go", []byte(offsetSource)),
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "sheaf")
	if err := build("-overlay", write("overlay.json", overlay), "-o", file); err != nil {
		t.Fatal(err)
	}
	return file
}

// offsetSource is a file of package time. It maps the clock file into memory, so that a write to
// the file sets the clock at once.
const offsetSource = `package time

import (
	"syscall"
	"unsafe"
)

var clockOffset = openOffset()

func openOffset() *int64 {
	path, _ := syscall.Getenv("` + clockVariable + `")
	if path == "" {
		return new(int64)
	}
	fd, err := syscall.Open(path, syscall.O_RDONLY, 0)
	if err != nil {
		panic("open the clock file: " + err.Error())
	}
	b, err := syscall.Mmap(fd, 0, 8, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		panic("map the clock file: " + err.Error())
	}
	return (*int64)(unsafe.Pointer(&b[0]))
}
`

// clockFile sets the clock of the processes that are started with its variable.
type clockFile string

func newClockFile(t *testing.T, offset time.Duration) clockFile {
	t.Helper()
	c := clockFile(filepath.Join(t.TempDir(), "clock"))
	c.set(t, offset)
	return c
}

// set sets how far the clock is ahead of the machine's.
func (c clockFile) set(t *testing.T, offset time.Duration) {
	t.Helper()
	f, err := os.OpenFile(string(c), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.Write(binaries.NativeEndian.AppendUint64(nil, uint64(int64(offset/time.Second)))); err != nil {
		t.Fatal(err)
	}
}

func (c clockFile) environ() []string { return []string{clockVariable + "=" + string(c)} }

// TestClocksDiffer runs nodes whose clocks differ by minutes, and kills each of them. Waits that
// the upstream asks for have the right length, whichever node continues afterwards, and a node's
// death is noticed as fast as with equal clocks.
func TestClocksDiffer(t *testing.T) {
	r := newRow("`kill -9` of nodes whose clocks are 7 minutes ahead, right, 7 minutes behind", takeoverKilled)
	clockBinary := newClockBinary(t)
	r.repeat(t, times(3), func(t *testing.T, times int) { killWithUnequalClocks(t, r, clockBinary, times) })
}

func killWithUnequalClocks(t *testing.T, r *row, clockBinary string, times int) {
	ctx := t.Context()
	const asked = time.Second
	ledger := newLedger(t, func(a Arrival) Reply {
		r := steady(a)
		if a.Nth == 1 && rand.N(20) == 0 {
			r.Status, r.RetryAfter = http.StatusTooManyRequests, "1"
		}
		return r
	})
	f := newFleet(t, r, ledger, pgtest.NewDatabase(t), 3)
	offsets := []time.Duration{7 * time.Minute, 0, -7 * time.Minute}
	for i, offset := range offsets {
		f.nodes[i].binary, f.nodes[i].environ = clockBinary, newClockFile(t, offset).environ()
	}
	f.up()
	for i, n := range f.nodes {
		n.checkClock(t, offsets[i])
	}
	f.withLoad(ctx, 8, func(*load) {
		for i := range times {
			victim := f.awaitBusy(ctx, 60, f.nodes[i%len(f.nodes)])
			hit := f.kill9(victim)
			f.awaitTakeover(ctx, hit)
			f.start(victim)
		}
	})
	f.checkWaits(asked)
}

// checkClock checks that the node's clock has the intended offset.
func (n *node) checkClock(t *testing.T, off time.Duration) {
	t.Helper()
	var line struct {
		Time time.Time `json:"time"`
	}
	first, _, _ := strings.Cut(n.logText(), "\n")
	if err := json.Unmarshal([]byte(first), &line); err != nil {
		t.Fatal(err)
	}
	if d := line.Time.Sub(n.started) - off; d.Abs() > 10*time.Second {
		t.Fatalf("the clock of node %s is %v off, want %v", n.name, line.Time.Sub(n.started), off)
	}
}

// checkWaits checks the time from each 429 to the next attempt of the request.
func (f *fleet) checkWaits(asked time.Duration) {
	f.t.Helper()
	throttled := map[string]Arrival{}
	var waits []time.Duration
	moved := 0
	// A node measures the database's clock with an error of at most half a round trip.
	early := 200 * time.Millisecond
	if *faults > 0 { // make chaos, on an idle machine
		early = 20 * time.Millisecond
	}
	for _, a := range f.ledger.Arrivals() {
		before, again := throttled[a.Key]
		if again {
			wait := a.At.Sub(before.End)
			waits = append(waits, wait)
			if a.Node != before.Node {
				moved++
			}
			if wait < asked-early {
				f.t.Errorf("%+v arrived %v after %+v, which had asked for a wait of %v", a, wait, before, asked)
			}
			checkPromise(f.t, fmt.Sprintf("from a 429 with a wait of %v to the next attempt", asked), wait, asked+takeoverKilled+time.Second)
			delete(throttled, a.Key)
		}
		if a.Status == http.StatusTooManyRequests {
			throttled[a.Key] = a
		}
	}
	f.t.Logf("waits of %v: %d, of which %d ended on another node; they lasted %v (median, maximum)", asked, len(waits), moved, spread(waits))
	if len(waits) == 0 || moved == 0 {
		f.t.Error("no wait moved from one node to another: the test proves nothing")
	}
}
