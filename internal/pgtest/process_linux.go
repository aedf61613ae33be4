package pgtest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
)

// account is the user that PostgreSQL runs as.
type account struct{ uid, gid int }

// serverAccount returns an account to run PostgreSQL as if the caller is root, because PostgreSQL
// refuses to run as root. Otherwise it returns nil.
func serverAccount() (*account, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.Atoi(u.Uid)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.Atoi(u.Gid)
		return &account{uid, gid}, err
	}
	return nil, errors.New("PostgreSQL does not run as root, and there is no user postgres or nobody to run it as")
}

// attributes make a program run as the account and protect it from the terminal's signals.
func attributes(as *account) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setpgid: true}
	if as != nil {
		a.Credential = &syscall.Credential{Uid: uint32(as.uid), Gid: uint32(as.gid)}
	}
	return a
}

// dieTogether makes a program stop when the thread that starts it dies, and locks the calling
// goroutine to its thread.
func dieTogether(cmd *exec.Cmd) {
	runtime.LockOSThread()
	cmd.SysProcAttr.Pdeathsig = syscall.SIGQUIT
}

func signal(pid int, how os.Signal) error { return syscall.Kill(pid, how.(syscall.Signal)) }

// freeze suspends a process so that it can't start more children.
func freeze(pid int) error {
	err := signal(pid, syscall.SIGSTOP)
	for state := byte(0); err == nil && state != 'T'; {
		var ok bool
		if state, _, ok = stat(fmt.Sprintf("/proc/%d/stat", pid)); !ok || state == 'Z' {
			err = fmt.Errorf("process %d has already ended", pid)
		}
	}
	return err
}

// family returns a process and its children.
func family(pid int) ([]int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	all := []int{pid}
	for _, file := range files {
		if _, parent, ok := stat(file); ok && parent == pid {
			child, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			if err != nil {
				return nil, err
			}
			all = append(all, child)
		}
	}
	return all, nil
}

// runs reports whether a process exists and isn't a zombie.
func runs(pid int) bool {
	state, _, ok := stat(fmt.Sprintf("/proc/%d/stat", pid))
	return ok && state != 'Z' && state != 'X'
}

// stat reads the state of a process and its parent.
func stat(file string) (state byte, parent int, ok bool) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, 0, false
	}
	text = text[bytes.LastIndexByte(text, ')')+1:] // the program's name may contain anything
	n, err := fmt.Sscanf(string(text), " %c %d", &state, &parent)
	return state, parent, n == 2 && err == nil
}
