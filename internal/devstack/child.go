package devstack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// errPortTaken says that a server could not listen on the port it was given.
var errPortTaken = errors.New("the port is taken")

// A child is a process that lives no longer than ours.
type child struct {
	cmd  *exec.Cmd
	gone chan struct{} // closed when the process has ended and was reaped
	err  error         // how it ended; to be read once gone is closed
}

// spawn is the one way in which this package starts a process. The child gets
// onOurDeath should we die without stopping it, where the system can do that.
func spawn(cmd *exec.Cmd, onOurDeath syscall.Signal) (*child, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	// In a group of its own it does not get the terminal's Ctrl-C: we do, and
	// stop our children when their clients are done.
	cmd.SysProcAttr.Setpgid = true
	signalOnParentDeath(cmd.SysProcAttr, onOurDeath)

	c := &child{cmd: cmd, gone: make(chan struct{})}
	started := make(chan error)
	go func() {
		// To the kernel the parent is the thread that forked, and Go ends
		// threads as it likes. So this goroutine keeps that thread for itself
		// until the child is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		c.err = cmd.Wait()
		close(c.gone)
	}()
	if err := <-started; err != nil {
		err = fmt.Errorf("start %s in %s: %w", filepath.Base(cmd.Path), cmd.Dir, err)
		if account := cmd.SysProcAttr.Credential; account != nil && errors.Is(err, os.ErrPermission) {
			err = fmt.Errorf("%w (user %d, whom servers run as instead of root, must be able to enter the directory)", err, account.Uid)
		}
		return nil, err
	}
	return c, nil
}

// run runs a program to its end and returns what it printed as part of the
// error, if it fails. It is killed when ctx ends.
func run(ctx context.Context, cmd *exec.Cmd) error {
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	// A grandchild may keep the pipe open after the program was killed.
	cmd.WaitDelay = time.Second
	c, err := spawn(cmd, syscall.SIGKILL)
	if err != nil {
		return err
	}
	select {
	case <-c.gone:
		err = c.err
	case <-ctx.Done():
		c.kill()
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(cmd.Path), err, tail(output.String()))
	}
	return nil
}

// serve starts a server that logs into the file and returns when it accepts
// connections. The error of one that does not ends with the end of its log.
//
// The log is asked, not the port: behind the port may be someone else.
func serve(ctx context.Context, cmd *exec.Cmd, logFile string, onOurDeath syscall.Signal) (*child, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the server's log: %w", err)
	}
	defer log.Close() // the child has its own descriptor
	before, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("open the server's log: %w", err)
	}
	said := func() string {
		text, err := io.ReadAll(io.NewSectionReader(log, before, 1<<20))
		if err != nil {
			return err.Error()
		}
		return string(text)
	}

	cmd.Stdout, cmd.Stderr = log, log
	c, err := spawn(cmd, onOurDeath)
	if err != nil {
		return nil, err
	}
	name := filepath.Base(cmd.Path)
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		// PostgreSQL and Redis have used the same words for decades; a sentinel
		// does not use them.
		log := strings.ToLower(said())
		if strings.Contains(log, "ready to accept connections") || strings.Contains(log, "sentinel id is") {
			return c, nil
		}
		select {
		case <-poll.C:
		case <-c.gone:
			if strings.Contains(strings.ToLower(said()), "address already in use") {
				return nil, fmt.Errorf("%s: %w", name, errPortTaken)
			}
			return nil, fmt.Errorf("%s ended before it was ready, %v:\n%s", name, cmd.ProcessState, tail(said()))
		case <-ctx.Done():
			c.kill()
			return nil, fmt.Errorf("%s was not ready in time: %w:\n%s", name, context.Cause(ctx), tail(said()))
		}
	}
}

// stop asks the child to end and waits until it has. If ctx ends first it
// kills the child and returns an error.
func (c *child) stop(ctx context.Context, signal syscall.Signal) error {
	if err := c.signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-c.gone:
		return nil
	case <-ctx.Done():
		c.kill()
		return fmt.Errorf("%s had to be killed: %w", filepath.Base(c.cmd.Path), context.Cause(ctx))
	}
}

// kill ends the child at once and returns when it has ended, which only the
// kernel can delay.
func (c *child) kill() {
	_ = c.signal(syscall.SIGKILL) // fails only if the child has ended
	<-c.gone
}

// signal returns [os.ErrProcessDone] if the child has ended.
func (c *child) signal(signal syscall.Signal) error {
	if err := c.cmd.Process.Signal(signal); err != nil {
		return fmt.Errorf("send %v to %s: %w", signal, filepath.Base(c.cmd.Path), err)
	}
	return nil
}

// tail returns the last lines of a log.
func tail(log string) string {
	lines := strings.Split(strings.TrimSpace(log), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}
