package progress

import (
	"fmt"
	"io"
	"time"

	"lethe/internal/operator"
	"lethe/internal/terminal"
)

// linesInterval is how often a job that only makes progress has a line.
const linesInterval = 10 * time.Second

// Lines shows jobs as lines of text. It serves one goroutine.
type Lines struct {
	w     io.Writer
	shown map[string]shown // by job
}

// shown is what the last line of a job has shown.
type shown struct {
	state, waitsFor string
	done            int64
	at              time.Time
}

// NewLines returns a Lines that writes to w.
func NewLines(w io.Writer) *Lines { return &Lines{w: w, shown: map[string]shown{}} }

// Show writes a line if the job has another state, waits for something else, or has made
// progress for ten seconds.
func (l *Lines) Show(job operator.Job) {
	now := time.Now()
	last, known := l.shown[job.ID]
	same := known && last.state == job.State && last.waitsFor == job.WaitsFor
	if same && (last.done == job.Done || now.Sub(last.at) < linesInterval) {
		return
	}
	l.shown[job.ID] = shown{state: job.State, waitsFor: job.WaitsFor, done: job.Done, at: now}
	_, _ = fmt.Fprintf(l.w, "%s %s %s %s %s: %s\n", // a line of progress may be lost
		now.UTC().Format(time.DateTime), terminal.Text(job.ID), terminal.Text(job.Kind), terminal.Text(job.Room), of(job), doing(job, now))
}

// Close does nothing: every line is complete.
func (l *Lines) Close() {}
