package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of CPU times in /proc. Linux has always reported 100 ticks per second to
// user space.
const clockTick = 10 * time.Millisecond

// processStat is a part of /proc/PID/stat.
type processStat struct {
	parent   int
	own      time.Duration // CPU time, user and system
	children time.Duration // of children that have ended and been waited for
}

// statOf reads the state of a process. It reports false if it can't be read.
func statOf(pid int) (processStat, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return processStat{}, false
	}
	return parseStat(string(text))
}

func parseStat(text string) (processStat, bool) {
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:]) // the program's name may hold anything
	const parent, user, system, childUser, childSystem = 1, 11, 12, 13, 14
	if len(fields) <= childSystem {
		return processStat{}, false
	}
	number := func(i int) int {
		n, _ := strconv.Atoi(fields[i]) // the kernel always writes numbers here
		return n
	}
	return processStat{
		parent:   number(parent),
		own:      time.Duration(number(user)+number(system)) * clockTick,
		children: time.Duration(number(childUser)+number(childSystem)) * clockTick,
	}, true
}

// processTime returns the CPU time of a process; negative if it isn't known.
func processTime(pid int) time.Duration {
	s, ok := statOf(pid)
	if !ok {
		return -1
	}
	return s.own
}

// familyTime returns the CPU time of a process and its children, including those that have ended;
// negative if it isn't known.
func familyTime(pid int) time.Duration {
	s, ok := statOf(pid)
	if !ok {
		return -1
	}
	sum := s.own + s.children
	for _, child := range childrenOf(pid) {
		if c, ok := statOf(child); ok {
			sum += c.own
		}
	}
	return sum
}

// childrenOf returns the running children of a process.
func childrenOf(pid int) []int {
	var children []int
	files, _ := filepath.Glob("/proc/[0-9]*") // the pattern is well formed
	for _, file := range files {
		child, err := strconv.Atoi(filepath.Base(file))
		if err != nil {
			continue
		}
		if s, ok := statOf(child); ok && s.parent == pid {
			children = append(children, child)
		}
	}
	return children
}

// sharedMemory returns the approximate memory of a process and its children, with the pages that
// they share counted once; -1 if it isn't known.
func sharedMemory(pid int) int64 {
	sum := int64(0)
	for _, p := range append(childrenOf(pid), pid) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p))
		if os.IsNotExist(err) {
			continue // it has ended
		}
		bytes := kibibytes(string(text), "Pss")
		if err != nil || bytes < 0 {
			return -1
		}
		sum += bytes
	}
	if sum == 0 {
		return -1
	}
	return sum
}

// machineTime returns the CPU time that all processes and the kernel have used since the machine
// started; negative if it isn't known.
func machineTime() time.Duration {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return -1
	}
	line, _, _ := strings.Cut(string(text), "\n")
	fields := strings.Fields(line) // cpu user nice system idle iowait irq softirq steal …
	sum := int64(0)
	for i, field := range fields {
		n, err := strconv.ParseInt(field, 10, 64)
		switch {
		case i == 0 || i == 4 || i == 5 || i > 7:
			continue
		case err != nil:
			return -1
		}
		sum += n
	}
	return time.Duration(sum) * clockTick
}
