package console

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"lethe/internal/console/plot"
	"lethe/internal/operator"
	"lethe/internal/store/journal"
)

// shownJobs is the most jobs of a list on the first page.
const shownJobs = 30

// plottedJobs is the most jobs whose events are plotted.
const plottedJobs = 1000

// waiting are the states of jobs that are not done and do not run.
var waiting = []string{
	string(journal.Queued), string(journal.Paused), string(journal.Held), string(journal.Scheduled), string(journal.Absorbed),
}

// An overview is what the first page shows. It is the same for all users.
type overview struct {
	Now     time.Time
	Running operator.Jobs
	Waiting operator.Jobs
	Failed  operator.Jobs
	Fleet   operator.Fleet
	Brake   operator.Brake
	Pauses  operator.Pauses

	// Swept says that schedules wait for a scheduler. It is only read while no scheduler is
	// alive.
	Swept bool

	// Signals are those of the brake's that are measured, or whose limits were set.
	Signals []operator.BrakeSignal

	// Slow are the brakes of workers that hold jobs back.
	Slow []operator.BrakeWorker

	// Rate are the events of the last hour. Partly says that more jobs have worked in it
	// than are counted.
	Rate   plot.Rate
	Partly bool
}

// An overviewPage is the first page.
type overviewPage struct {
	frame
	Live overview
}

func (c *Console) overviewPage(v *visit) error {
	shown, err := c.lookAtAll(v.r.Context(), v.session.User)
	if err != nil {
		return err
	}
	return v.render(http.StatusOK, "overview", overviewPage{v.frame("Overview").in("overview"), shown})
}

func (c *Console) overviewLive(v *visit) look {
	return func(ctx context.Context) ([]byte, bool, error) {
		shown, err := c.readOverview(ctx, v.session.User)
		if err != nil {
			return nil, false, err
		}
		part, err := execute("overview", "live", shown)
		return part, false, err
	}
}

// readOverview reads what all who follow the first page see, which may be as old as a look.
func (c *Console) readOverview(ctx context.Context, who string) (overview, error) {
	return c.overview.get(func() (overview, error) { return c.lookAtAll(ctx, who) })
}

func (c *Console) lookAtAll(ctx context.Context, who string) (o overview, err error) {
	o = overview{Now: time.Now()}
	ago := func(d time.Duration) string { return strconv.FormatInt(o.Now.Add(-d).UnixMilli(), 10) }
	limit := strconv.Itoa(shownJobs)
	var ended operator.Jobs
	err = errors.Join(
		c.get(ctx, who, "/jobs", url.Values{"state": {string(journal.Running)}, "limit": {limit}}, &o.Running),
		c.get(ctx, who, "/jobs", url.Values{"state": waiting, "limit": {limit}}, &o.Waiting),
		c.get(ctx, who, "/jobs", url.Values{"state": {string(journal.Failed)}, "ended_since": {ago(24 * time.Hour)}, "limit": {limit}}, &o.Failed),
		c.get(ctx, who, "/jobs", url.Values{"ended_since": {ago(time.Hour)}, "limit": {strconv.Itoa(plottedJobs)}}, &ended),
		c.get(ctx, who, "/fleet", nil, &o.Fleet),
		c.get(ctx, who, "/brake", nil, &o.Brake),
		c.get(ctx, who, "/pauses", nil, &o.Pauses),
	)
	if err != nil {
		return o, err
	}
	if schedulers := o.Fleet.Schedulers; schedulers != nil && len(*schedulers) == 0 {
		var list operator.Schedules
		if err := c.get(ctx, who, "/schedules", nil, &list); err != nil {
			return o, err
		}
		o.Swept = slices.ContainsFunc(list.Schedules, func(s operator.Schedule) bool { return s.Configured })
	}
	for _, signal := range o.Brake.Signals {
		if signal.Says != "" || !signal.Default {
			o.Signals = append(o.Signals, signal)
		}
	}
	if workers := o.Brake.Workers; workers != nil {
		for _, worker := range *workers {
			if worker.Share < 1 {
				o.Slow = append(o.Slow, worker)
			}
		}
	}
	o.Partly = ended.Next != nil || o.Running.Next != nil
	o.Rate = plot.RateOf(append(runsOf(o.Running.Jobs), runsOf(ended.Jobs)...), o.Now.Truncate(time.Minute).Add(time.Minute), time.Minute, 60)
	return o, nil
}

// runsOf returns the times in which jobs have purged events.
func runsOf(jobs []operator.Job) (runs []plot.Run) {
	for _, job := range jobs {
		to := job.Ended
		if to == 0 {
			to = job.Updated
		}
		if job.Started > 0 && job.Events > 0 {
			runs = append(runs, plot.Run{From: time.UnixMilli(job.Started), To: time.UnixMilli(to), Events: job.Events})
		}
	}
	return runs
}

// get calls the API as the user.
func (c *Console) get(ctx context.Context, who, path string, query url.Values, answer any) error {
	return c.api.Call(ctx, who, operator.Call{Method: http.MethodGet, Path: path, Query: query}, answer)
}
