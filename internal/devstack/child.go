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

// errPortTaken is returned if a server cannot listen on its port.
var errPortTaken = errors.New("the port is taken")

// A child is a process that ends no later than ours.
type child struct {
	cmd  *exec.Cmd
	gone chan struct{} // closed when the process has ended and was reaped
	err  error         // the result of Wait; valid once gone is closed
}

// spawn starts a process. Every process of this package starts here. If the system
// supports it, the child gets the signal onOurDeath when our process dies.
func spawn(cmd *exec.Cmd, onOurDeath syscall.Signal) (*child, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	// A separate process group keeps the terminal's Ctrl-C from the child. Our
	// process gets it, and stops its children when their clients are done.
	cmd.SysProcAttr.Setpgid = true
	signalOnParentDeath(cmd.SysProcAttr, onOurDeath)

	c := &child{cmd: cmd, gone: make(chan struct{})}
	started := make(chan error)
	go func() {
		// For the kernel the parent is the thread that forked, and Go may end any
		// thread. So this goroutine keeps its thread until the child has ended.
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
			err = fmt.Errorf("%w (servers run as user %d instead of root, which must be able to enter the directory)", err, account.Uid)
		}
		return nil, err
	}
	return c, nil
}

// run runs a program until it ends. If the program fails, the error contains its
// output. The program is killed when ctx ends.
func run(ctx context.Context, cmd *exec.Cmd) error {
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	// A grandchild may keep the pipe open after the program is killed.
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

// serve starts a server that logs into the file, and returns when it accepts
// connections. If it does not, the error ends with the end of its log.
//
// serve watches the log and not the port, because another server may have the port.
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
		// PostgreSQL and Redis have logged the same words for decades. A standby and a
		// sentinel log others.
		log := strings.ToLower(said())
		if strings.Contains(log, "ready to accept connections") || strings.Contains(log, "ready to accept read-only connections") ||
			strings.Contains(log, "ready to accept read only connections") || strings.Contains(log, "sentinel id is") {
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

// stop sends the signal and waits until the child has ended. If ctx ends first, stop
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

// kill kills the child and returns when it has ended.
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
