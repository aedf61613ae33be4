//go:build !linux

package pgtest

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"
)

// account is the user that PostgreSQL runs as. Here it is always the caller.
type account struct{ uid, gid int }

func serverAccount() (*account, error) {
	if os.Geteuid() == 0 {
		return nil, errors.New("PostgreSQL does not run as root: run the tests as another user, or set " + Environment)
	}
	return nil, nil
}

func attributes(*account) *syscall.SysProcAttr { return nil }

func dieTogether(*exec.Cmd) {}

func signal(pid int, how os.Signal) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return p.Signal(how)
}

// freeze does nothing on this system.
func freeze(int) error { return nil }

// family returns a process and its children.
func family(pid int) ([]int, error) {
	all := []int{pid}
	err := list(func(child, parent int) {
		if parent == pid {
			all = append(all, child)
		}
	})
	return all, err
}

// runs reports whether a process exists.
func runs(pid int) bool {
	var all []int
	err := list(func(pid, _ int) { all = append(all, pid) })
	return err != nil || slices.Contains(all, pid)
}

// list calls f for every process.
func list(f func(pid, parent int)) error {
	out, err := exec.Command("ps", "-A", "-o", "pid=,ppid=").Output()
	if err != nil {
		return err
	}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		var pid, parent int
		if _, err := fmt.Sscan(lines.Text(), &pid, &parent); err == nil {
			f(pid, parent)
		}
	}
	return nil
}
