package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// memory is the memory of a process, in bytes; -1: not known on this system.
type memory struct {
	resident int64
	peak     int64
}

// memoryOf reads the memory of a process from /proc, which only Linux has.
func memoryOf(pid int) memory {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return memory{-1, -1}
	}
	return memory{resident: kibibytes(string(status), "VmRSS"), peak: kibibytes(string(status), "VmHWM")}
}

// kibibytes returns the value of a line such as "VmRSS:    1234 kB" of a process's status, in
// bytes; -1 if there is no such line.
func kibibytes(status, name string) int64 {
	fields := strings.Fields(lineValue(status, name))
	if len(fields) == 0 {
		return -1
	}
	n, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		return -1
	}
	return n << 10
}

// lineValue returns the text after "name:" or "name=" in the first line that begins with it, or
// the empty string.
func lineValue(text, name string) string {
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok {
			continue
		}
		rest = strings.TrimSpace(rest)
		if value, ok := strings.CutPrefix(rest, ":"); ok {
			return strings.TrimSpace(value)
		}
		if value, ok := strings.CutPrefix(rest, "="); ok {
			return strings.Trim(value, `"`)
		}
	}
	return ""
}

// above returns a - b, at least 0, or -1 if one of them isn't known.
func above(a, b int64) int64 {
	if a < 0 || b < 0 {
		return -1
	}
	return max(a-b, 0)
}

// environment describes the machine, because the figures depend on it.
type environment struct {
	Date   string  `json:"date"`
	Go     string  `json:"go"`
	System string  `json:"system"`
	CPU    string  `json:"cpu"`
	CPUs   int     `json:"cpus"`
	Load   string  `json:"load,omitempty"`      // average over the minute before the run
	End    string  `json:"loadAtEnd,omitempty"` // average over its last minute
	Sync   float64 `json:"syncMilliseconds"`

	Database string `json:"database"`
}

// describe describes the machine. dir is the directory for the databases.
func describe(dir string) (environment, error) {
	sync, err := timeSync(dir)
	if err != nil {
		return environment{}, fmt.Errorf("write to %s: %w", dir, err)
	}
	release, _ := os.ReadFile("/etc/os-release")
	cpu, _ := os.ReadFile("/proc/cpuinfo")
	e := environment{
		Date: time.Now().UTC().Format(time.DateOnly), Go: runtime.Version(),
		System: runtime.GOOS + "/" + runtime.GOARCH,
		CPU:    lineValue(string(cpu), "model name"), CPUs: runtime.NumCPU(),
		Load: load(), Sync: inMilliseconds(sync),
	}
	if name := lineValue(string(release), "PRETTY_NAME"); name != "" {
		e.System += ", " + name
	}
	if e.CPU == "" {
		e.CPU = "CPU of unknown model"
	}
	return e, nil
}

// load returns the load average of the last minute, or the empty string if it isn't known.
func load() string {
	text, _ := os.ReadFile("/proc/loadavg")
	load, _, _ := strings.Cut(string(text), " ")
	return load
}

// String returns the environment as two lines.
func (e environment) String() string {
	s := fmt.Sprintf("%s, %s, %d × %s, %s, fsync of 4 KiB %.2f ms", e.Date, e.Go, e.CPUs, e.CPU, e.System, e.Sync)
	if e.Load != "" {
		s += ", load " + e.Load + " before and " + e.End + " after"
	}
	return s + "\nDatabase: " + e.Database
}

// timeSync returns the median time to append 4 KiB to a file and fsync it, which is the minimum
// cost of a durable write.
func timeSync(dir string) (time.Duration, error) {
	f, err := os.Create(filepath.Join(dir, "sync"))
	if err != nil {
		return 0, err
	}
	defer f.Close()
	page := make([]byte, 4<<10)
	times := make([]time.Duration, 100)
	for i := range times {
		start := time.Now()
		if _, err := f.Write(page); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		times[i] = time.Since(start)
	}
	return percentile(times, 50), nil
}
