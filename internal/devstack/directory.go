package devstack

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// A directory holds a server's data and its log.
type directory struct {
	path  string
	owner *syscall.Credential // the user that the server runs as; nil for our own
	claim *os.File            // the lock of a temporary directory, see claimed; else nil
}

// openDirectory creates the directory if it does not exist. If path is empty, it
// creates a temporary one.
func openDirectory(path, server string) (directory, error) {
	d, err := directory{}, error(nil)
	if d.owner, err = serverAccount(); err != nil {
		return directory{}, err
	}
	if path == "" {
		d.path, d.claim, err = makeTemporary("lethe-" + server + "-")
	} else if d.path, err = filepath.Abs(path); err == nil {
		err = os.MkdirAll(d.path, 0o700)
	}
	if err == nil && d.owner != nil {
		err = os.Chown(d.path, int(d.owner.Uid), int(d.owner.Gid))
	}
	if err != nil {
		return directory{}, fmt.Errorf("make a directory for %s: %w", server, errors.Join(err, d.remove()))
	}
	return d, nil
}

// command returns a command that runs a program in the directory, as its owner.
func (d directory) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Dir = d.path
	// This package reads the servers' logs, which must be in English.
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: d.owner}
	return cmd
}

func (d directory) log() string { return d.file("log") }

func (d directory) file(name string) string { return filepath.Join(d.path, name) }

// write writes a file that only the server's user can read.
func (d directory) write(name string, text []byte) error {
	err := os.WriteFile(d.file(name), text, 0o600)
	if err == nil && d.owner != nil {
		err = os.Chown(d.file(name), int(d.owner.Uid), int(d.owner.Gid))
	}
	return err
}

// folder creates a folder that only the server's user can enter, if it does not exist.
func (d directory) folder(name string) error {
	err := os.MkdirAll(d.file(name), 0o700)
	if err == nil && d.owner != nil {
		err = os.Chown(d.file(name), int(d.owner.Uid), int(d.owner.Gid))
	}
	return err
}

// remove removes a temporary directory and keeps any other.
func (d directory) remove() error {
	if d.claim == nil {
		return nil
	}
	if err := errors.Join(os.RemoveAll(d.path), d.claim.Close()); err != nil {
		return fmt.Errorf("remove a server's directory: %w", err)
	}
	return nil
}

// makeTemporary creates a temporary directory and claims it. It first removes the
// directories that killed processes have left.
func makeTemporary(prefix string) (string, *os.File, error) {
	parent := temporaryParent()
	abandoned, _ := filepath.Glob(filepath.Join(parent, prefix+"*")) // the pattern is well formed
	for _, path := range abandoned {
		removeAbandoned(path)
	}
	path, err := os.MkdirTemp(parent, prefix)
	if err != nil {
		return "", nil, err
	}
	claim, err := claimed(path)
	if err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(path))
	}
	return path, claim, nil
}

// temporaryParent returns the parent of temporary directories. It prefers memory, because
// copying a database creates thousands of small files, which takes 20 times as long on
// many disks.
func temporaryParent() string {
	const memory, minFree = "/dev/shm", 4 << 30
	var free syscall.Statfs_t
	if os.Getenv("TMPDIR") == "" && syscall.Statfs(memory, &free) == nil && free.Bavail*uint64(free.Bsize) >= minFree {
		return memory
	}
	return os.TempDir()
}

// claimed opens a directory and locks it. The lock lasts until the file is closed or
// our process ends. claimed fails if the directory is locked.
func claimed(path string) (*os.File, error) {
	claim, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(claim.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("claim %s: %w", path, err), claim.Close())
	}
	return claim, nil
}

// removeAbandoned removes a temporary directory that no process claims. It ignores
// errors.
func removeAbandoned(path string) {
	info, err := os.Lstat(path)
	// The owner of a new directory may not have claimed it yet.
	if err != nil || !info.IsDir() || time.Since(info.ModTime()) < time.Minute {
		return
	}
	claim, err := claimed(path)
	if err != nil {
		return
	}
	defer claim.Close()
	_ = os.RemoveAll(path)
}
