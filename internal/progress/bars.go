package progress

import (
	"io"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"lethe/internal/operator"
	"lethe/internal/terminal"
)

const (
	// barWidth is the width of a bar in columns, with its ends.
	barWidth = 22

	// maxRoom is the number of columns for the id of a room.
	maxRoom = 24

	refresh = 200 * time.Millisecond
)

// Bars shows each job as a progress bar on a terminal. It serves one goroutine, besides
// those of its own, which draw.
type Bars struct {
	container *mpb.Progress
	bars      map[string]*bar // by job
}

// A bar is a job's bar, and the job as it was last seen.
type bar struct {
	*mpb.Bar
	job atomic.Pointer[operator.Job]
}

// NewBars returns a Bars that draws on a terminal. The caller closes it.
func NewBars(w io.Writer) *Bars { return newBars(mpb.WithOutput(w)) }

func newBars(options ...mpb.ContainerOption) *Bars {
	options = append(options, mpb.WithRefreshRate(refresh))
	return &Bars{container: mpb.New(options...), bars: map[string]*bar{}}
}

// Show draws the job from now on as it is. A job that has ended keeps its last line.
func (b *Bars) Show(job operator.Job) {
	shown, ok := b.bars[job.ID]
	if !ok {
		shown = &bar{}
		shown.job.Store(&job)
		shown.Bar = b.container.AddBar(0, mpb.BarWidth(barWidth),
			mpb.PrependDecorators(
				decor.Any(func(decor.Statistics) string {
					job := shown.job.Load()
					return terminal.Short(job.ID, 16) + "  " + terminal.Text(job.Kind) + "  " + terminal.Short(job.Room, maxRoom)
				}, decor.WCSyncSpaceR)),
			mpb.AppendDecorators(
				decor.Any(func(decor.Statistics) string { return of(*shown.job.Load()) }, decor.WCSyncSpace),
				decor.Any(func(stat decor.Statistics) string {
					// The bar comes after this text, and needs its place.
					return "  " + terminal.Short(doing(*shown.job.Load(), time.Now()), max(stat.AvailableWidth-barWidth-4, 8))
				})))
		b.bars[job.ID] = shown
	}
	shown.job.Store(&job)
	if job.Total != nil && *job.Total > 0 {
		shown.SetTotal(*job.Total, false)
	}
	switch {
	case job.State == "complete":
		total := max(job.Done, 1)
		shown.SetTotal(total, false)
		shown.SetCurrent(total)
		shown.SetTotal(total, true)
	case Ended(job.State):
		shown.SetCurrent(job.Done)
		shown.Abort(false)
	case job.Total != nil && *job.Total > 0:
		// A full bar would count as the end of the job.
		shown.SetCurrent(min(job.Done, *job.Total-1))
	}
}

// Close draws each job a last time and gives the terminal back. A second call does
// nothing.
func (b *Bars) Close() {
	for _, bar := range b.bars {
		if !bar.Completed() {
			bar.Abort(false)
		}
	}
	b.container.Wait()
}
