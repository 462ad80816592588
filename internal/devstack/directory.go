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
	owner *syscall.Credential // whom the server runs as; nil is ourselves
	claim *os.File            // of a temporary directory, see claimed; else nil
}

// openDirectory makes the directory if it is not there; an empty path stands
// for a new temporary one.
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

// command returns one that runs a program in the directory as its owner.
func (d directory) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Dir = d.path
	// We read what servers log: in English.
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: d.owner}
	return cmd
}

func (d directory) log() string { return d.file("log") }

func (d directory) file(name string) string { return filepath.Join(d.path, name) }

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

// makeTemporary makes a directory and claims it. On the way it removes those of
// processes that were killed before they could.
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

// temporaryParent prefers memory: cloning a database makes some thousand small
// files, which on many disks takes 20 times as long.
func temporaryParent() string {
	const memory, plenty = "/dev/shm", 4 << 30
	var free syscall.Statfs_t
	if os.Getenv("TMPDIR") == "" && syscall.Statfs(memory, &free) == nil && free.Bavail*uint64(free.Bsize) >= plenty {
		return memory
	}
	return os.TempDir()
}

// claimed opens a directory and locks it for as long as the file is open, that
// is, at most until our process ends. It fails if it is locked.
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

// removeAbandoned removes a temporary directory that nobody claims. What it may
// not or cannot remove stays.
func removeAbandoned(path string) {
	info, err := os.Lstat(path)
	// One made just now may not be claimed yet.
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
