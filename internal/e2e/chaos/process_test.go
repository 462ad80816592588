package chaos

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
)

// A process is a program of the fleet, which is started again whenever it has ended, as a
// service manager does.
type process struct {
	kind     string
	program  string
	env      []string
	report   *report
	quit     chan struct{}
	quitOnce sync.Once
	group    sync.WaitGroup

	mu        sync.Mutex
	cmd       *exec.Cmd     // of the current run, nil between two runs
	address   string        // on which it listens, "" before
	exited    chan struct{} // closed when the current run has ended
	down      bool          // it must not be started again yet
	disturbed time.Time     // the end of the last fault of its own
	dump      []byte        // what it has written last
}

var (
	listeningAddress = regexp.MustCompile(`"address":"([^"]+)"`)
	crash            = regexp.MustCompile(`(?m)^(panic: |fatal error: |WARNING: DATA RACE)`)
	goroutine        = regexp.MustCompile(`(?m)^goroutine \d+ `)
)

// supervise starts a process and keeps it running until the test ends.
func supervise(t *testing.T, r *report, kind string, env []string) *process {
	t.Helper()
	p := &process{
		kind: kind, program: filepath.Join(devstacktest.Binaries(t), kind),
		env: append([]string{"PATH=" + os.Getenv("PATH")}, env...), report: r, quit: make(chan struct{}),
	}
	p.group.Go(func() {
		for {
			p.run(t)
			select {
			case <-p.quit:
				return
			case <-time.After(500 * time.Millisecond):
			}
			for p.isDown() {
				select {
				case <-p.quit:
					return
				case <-time.After(50 * time.Millisecond):
				}
			}
		}
	})
	t.Cleanup(p.end)
	return p
}

func (p *process) isDown() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.down
}

// run runs the program once, until it ends.
func (p *process) run(t *testing.T) {
	cmd := exec.Command(p.program)
	cmd.Env = p.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stderr, err := cmd.StderrPipe()
	if err == nil {
		p.mu.Lock()
		select {
		case <-p.quit:
			p.mu.Unlock()
			return
		default:
		}
		if err = cmd.Start(); err == nil {
			p.cmd, p.address, p.exited, p.dump = cmd, "", make(chan struct{}), nil
		}
		p.mu.Unlock()
	}
	if err != nil {
		t.Errorf("start %s: %v", p.kind, err)
		return
	}
	lines := bufio.NewScanner(stderr)
	lines.Buffer(nil, 1<<20)
	var last []string
	for lines.Scan() {
		line := lines.Text()
		p.mu.Lock()
		if p.address == "" {
			if found := listeningAddress.FindStringSubmatch(line); found != nil {
				p.address = found[1]
			}
		}
		if !strings.HasPrefix(line, "{") { // a dump of the runtime, and no line of the log
			p.dump = append(append(p.dump, line...), '\n')
		}
		p.mu.Unlock()
		p.report.logged(p.kind, line)
		last = append(last[max(0, len(last)-9):], line)
	}
	err = cmd.Wait()
	p.mu.Lock()
	listened := p.address != ""
	p.cmd, p.address = nil, ""
	close(p.exited)
	dump := p.dump
	p.mu.Unlock()
	var exit *exec.ExitError
	signalled := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signaled()
	switch {
	case crash.Match(dump):
		p.report.violation("%s has crashed:\n%s", p.kind, dump[:min(len(dump), 4000)])
	case signalled || goroutine.Match(dump): // by a fault, or at the end
	case listened && !p.isEnding():
		p.report.violation("%s has ended by itself, %v:\n%s", p.kind, err, strings.Join(last, "\n"))
	default:
		p.report.count("starts of " + p.kind + " that failed and were repeated")
	}
}

func (p *process) isEnding() bool {
	select {
	case <-p.quit:
		return true
	default:
		return false
	}
}

// signal sends the signal to the current run, if there is one.
func (p *process) signal(signal syscall.Signal) (exited chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return nil
	}
	_ = p.cmd.Process.Signal(signal)
	return p.exited
}

// kill ends the process by SIGKILL, and keeps it down for that time.
func (p *process) kill(down time.Duration, pause func(time.Duration)) {
	p.set(func() { p.down, p.disturbed = true, time.Now().Add(time.Hour) })
	p.signal(syscall.SIGKILL)
	pause(down)
	p.set(func() { p.down, p.disturbed = false, time.Now() })
}

// stop stops the process by SIGSTOP for that time.
func (p *process) stop(stopped time.Duration, pause func(time.Duration)) {
	p.set(func() { p.disturbed = time.Now().Add(time.Hour) })
	p.signal(syscall.SIGSTOP)
	pause(stopped)
	p.signal(syscall.SIGCONT)
	p.set(func() { p.disturbed = time.Now() })
}

func (p *process) set(change func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change()
}

// at returns the address on which the process listens, "" if it does not.
func (p *process) at() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.address
}

// disturbedSince reports whether a fault of its own has met the process since then.
func (p *process) disturbedSince(t time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd == nil || p.disturbed.After(t)
}

// end ends the process for good.
func (p *process) end() {
	p.quitOnce.Do(func() { close(p.quit) })
	p.signal(syscall.SIGCONT)
	p.signal(syscall.SIGKILL)
	p.group.Wait()
}

// dissect ends the process for good by SIGQUIT, and returns how many goroutines it has had
// by the functions in which they have begun.
func (p *process) dissect(t *testing.T) map[string]int {
	t.Helper()
	p.quitOnce.Do(func() { close(p.quit) })
	exited := p.signal(syscall.SIGQUIT)
	require.NotNil(t, exited, "%s does not run", p.kind)
	select {
	case <-exited:
	case <-time.After(30 * time.Second):
		require.FailNow(t, p.kind+" does not end by SIGQUIT")
	}
	p.group.Wait()
	begun := map[string]int{}
	for _, stack := range bytes.Split(p.dump, []byte("\n\n")) {
		if !goroutine.Match(stack) {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(stack)), "\n")
		function := "main"
		for _, line := range lines {
			if after, ok := strings.CutPrefix(line, "created by "); ok {
				function, _, _ = strings.Cut(after, " in goroutine")
			}
		}
		begun[function]++
	}
	require.NotEmpty(t, begun, "%s has written no goroutines: %s", p.kind, p.dump)
	return begun
}
