package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"lethe/internal/command"
	"lethe/internal/operator"
	"lethe/internal/operator/client"
	"lethe/internal/progress"
	"lethe/internal/terminal"
	"lethe/internal/wire"
)

const (
	// lookInterval is how often a watch asks for a job of which it hears nothing: for the
	// progress between two events, and if the stream of events is away.
	lookInterval = 2 * time.Second

	// maxLooks bounds how many jobs a watch asks for in one interval.
	maxLooks = 50

	// maxWatched bounds the jobs that are watched at once.
	maxWatched = 200
)

// A display shows jobs.
type display interface {
	Show(job operator.Job)
	Close()
}

// newDisplay returns what shows jobs on a stream.
func newDisplay(w io.Writer) display {
	if terminal.Is(w) {
		return progress.NewBars(w)
	}
	return progress.NewLines(w)
}

func (a *app) jobWatch() *cobra.Command {
	var timeout time.Duration
	c := &cobra.Command{
		Use:   "watch [ID…]",
		Short: "show the progress of jobs until they end",
		Long: `Shows the progress of jobs until they end: as bars on a terminal, and as lines elsewhere.
Without an id it shows all jobs that have not ended, also those that are requested later,
until it is interrupted. The exit status is 1 if a job fails or is cancelled.`,
		Example: `  lethe job watch
  lethe job watch AbCdEfGhIjKlMnOp QrStUvWxYzAbCdEf --timeout 2h`,
		Args: cobra.MaximumNArgs(maxWatched),
	}
	c.Flags().DurationVar(&timeout, "timeout", 0, "the longest `time` to watch (default no limit)")
	c.RunE = a.asks(func(ctx context.Context, c *cobra.Command, api *client.Client, args []string) error {
		// Progress belongs on stdout only if no document does.
		out := c.OutOrStdout()
		if formatOf(c) != "table" {
			out = c.ErrOrStderr()
		}
		jobs, err := watchJobs(ctx, c, api, watch{ids: args, timeout: timeout, out: out})
		if len(args) == 0 && errors.Is(err, context.Canceled) {
			err = nil // it has shown what there was until it was interrupted
		}
		if formatOf(c) != "table" && jobs != nil {
			page := operator.Jobs{Jobs: jobs}
			if printErr := print(c, page, nil); printErr != nil {
				return printErr
			}
		}
		return err
	})
	return c
}

// A watch is what is watched.
type watch struct {
	// ids are the jobs. Without ids it is all jobs.
	ids []string

	// timeout is the longest time, 0 for no limit.
	timeout time.Duration

	// out is where progress goes.
	out io.Writer
}

// A watching is a watch at work. It serves one goroutine.
type watching struct {
	watch
	c    *cobra.Command
	api  *client.Client
	show display

	order []string
	jobs  map[string]operator.Job
	heard map[string]time.Time
}

// watchJobs shows jobs until they have ended, and returns them as they were last seen. It
// fails if a job has failed or was cancelled, and if the time is over.
func watchJobs(ctx context.Context, c *cobra.Command, api *client.Client, what watch) (jobs []operator.Job, err error) {
	if what.timeout < 0 {
		return nil, command.Usage("--timeout must not be negative")
	}
	if what.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, what.timeout)
		defer cancel()
	}
	w := &watching{watch: what, c: c, api: api, jobs: map[string]operator.Job{}, heard: map[string]time.Time{}}
	if err := w.begin(ctx); err != nil {
		return nil, w.ended(err)
	}
	w.show = newDisplay(what.out)
	for _, id := range w.order {
		w.show.Show(w.jobs[id])
	}
	err = w.run(ctx)
	w.show.Close()
	for _, id := range w.order {
		jobs = append(jobs, w.jobs[id])
	}
	if err != nil {
		return jobs, w.ended(err)
	}
	return jobs, w.verdict()
}

// ended explains why a watch has ended before the jobs have.
func (w *watching) ended(err error) error {
	if errors.Is(err, context.DeadlineExceeded) && w.timeout > 0 {
		return &command.StatusError{Status: command.TimedOut, Err: fmt.Errorf("%s are over, and the jobs go on", w.timeout)}
	}
	return explain(err)
}

// verdict returns an error if a job has failed or was cancelled.
func (w *watching) verdict() error {
	for _, id := range w.order {
		switch job := w.jobs[id]; job.State {
		case "failed":
			return fmt.Errorf("job %s has failed: %s", id, job.Error)
		case "cancelled":
			return fmt.Errorf("job %s was cancelled", id)
		}
	}
	return nil
}

// begin looks at the jobs for the first time.
func (w *watching) begin(ctx context.Context) error {
	for _, id := range w.ids {
		job, err := w.api.Job(ctx, id)
		if err != nil {
			return err
		}
		w.see(job)
	}
	if len(w.ids) > 0 {
		return nil
	}
	page, err := w.api.Jobs(ctx, client.JobQuery{States: openStates, Limit: maxWatched})
	for _, job := range page.Jobs {
		w.see(job)
	}
	return err
}

// see notes a job as it is now.
func (w *watching) see(job operator.Job) {
	known, ok := w.jobs[job.ID]
	switch {
	case ok && (job.Updated < known.Updated || progress.Ended(known.State) && !progress.Ended(job.State)):
		return // an answer that has overtaken another one
	case !ok && len(w.order) >= maxWatched && !w.forget():
		return
	case !ok:
		w.order = append(w.order, job.ID)
	}
	w.jobs[job.ID], w.heard[job.ID] = job, time.Now()
	if w.show != nil {
		w.show.Show(job)
	}
}

// forget forgets the first job that has ended, so that a watch of all jobs can go on for
// long. It reports false if none has.
func (w *watching) forget() bool {
	i := slices.IndexFunc(w.order, func(id string) bool { return progress.Ended(w.jobs[id].State) })
	if i < 0 {
		return false
	}
	delete(w.jobs, w.order[i])
	delete(w.heard, w.order[i])
	w.order = slices.Delete(w.order, i, i+1)
	return true
}

// done reports whether all jobs have ended. A watch of all jobs never ends by itself.
func (w *watching) done() bool {
	for _, job := range w.jobs {
		if !progress.Ended(job.State) {
			return false
		}
	}
	return len(w.ids) > 0
}

// run follows the events, and looks at jobs of which it hears nothing.
func (w *watching) run(ctx context.Context) error {
	if w.done() {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	events := make(chan operator.Job)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	group.Go(func() { w.follow(ctx, events) })
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	for !w.done() {
		select {
		case job := <-events:
			if _, known := w.jobs[job.ID]; known || len(w.ids) == 0 {
				w.see(job)
			}
		case <-look.C:
			if err := w.look(ctx); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// follow sends the jobs of all events until the context ends. Without events the looks
// still show the jobs.
func (w *watching) follow(ctx context.Context, events chan<- operator.Job) {
	only := ""
	if len(w.ids) == 1 {
		only = w.ids[0]
	}
	_ = w.api.Follow(ctx, only, func(event client.Event) bool { // the looks meet the same error
		select {
		case events <- event.Job:
			return true
		case <-ctx.Done():
			return false
		}
	}, nil)
}

// look asks for jobs of which nothing was heard. It fails if the API refuses to answer,
// and not if the API is away for a while.
func (w *watching) look(ctx context.Context) error {
	looks := 0
	for _, id := range w.order {
		if progress.Ended(w.jobs[id].State) || time.Since(w.heard[id]) < lookInterval || looks == maxLooks {
			continue
		}
		looks++
		job, err := w.api.Job(ctx, id)
		var refusal *wire.Error
		switch {
		case err == nil:
			w.see(job)
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &refusal) && refusal.Status/100 == 4:
			return err
		default:
			return nil // the next look tries again
		}
	}
	return nil
}
