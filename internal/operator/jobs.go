package operator

import (
	"context"
	"errors"
	"time"

	"github.com/labstack/echo/v4"

	"lethe/internal/jobs"
	"lethe/internal/store/control"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/vacuum"
	"lethe/internal/wire"
)

// jobs is GET /_lethe/v1/jobs.
func (o *Operator) jobs(c echo.Context, _ string) error {
	q := wire.QueryOf(c)
	filter := Filter{
		States: q.SeveralOf("state", states...), Kinds: q.SeveralOf("kind", kinds()...),
		Since: q.Integer("since", 0), Before: q.Integer("before", 0), EndedSince: q.Integer("ended_since", 0),
	}
	filter.Room, _ = q.Text("room")
	filter.Requester, _ = q.Text("requester")
	page := pageOf(q)
	if err := q.Err(); err != nil {
		return err
	}
	selected, err := filter.selected()
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	rows, next, err := o.control.Jobs(ctx, selected, page)
	if err != nil {
		return wire.Instead(err, control.ErrPosition, errPage)
	}
	return wire.AnswerOK(c, Jobs{Jobs: o.show(ctx, rows), Next: nextOf(next)}, nil)
}

// job is GET /_lethe/v1/jobs/{job_id}.
func (o *Operator) job(c echo.Context, _ string) error {
	ctx := c.Request().Context()
	job, row, err := o.one(ctx, c)
	if err != nil {
		return err
	}
	log, err := o.control.Log(ctx, job.ID)
	job.Request, job.Result, job.Log = requestOf(row), resultOf(row), eventsOf(log)
	job.Vacuum = vacuum.Decode(row.Vacuum)
	if err != nil {
		return err
	}
	samples, err := o.control.Samples(ctx, job.ID)
	for _, sample := range samples {
		job.Samples = append(job.Samples, Sample{At: milliseconds(sample.At), Done: sample.Done})
	}
	return wire.AnswerOK(c, job, err)
}

// one returns the job that the path names, and its row.
func (o *Operator) one(ctx context.Context, c echo.Context) (Job, control.Job, error) {
	id := wire.Segment(c, "job_id")
	if !jobs.ValidID(id) {
		return Job{}, control.Job{}, noJob(id)
	}
	row, err := o.control.Job(ctx, id)
	if err != nil {
		return Job{}, row, wire.Instead(err, postgres.ErrNotFound, noJob(id))
	}
	return o.show(ctx, []control.Job{row})[0], row, nil
}

func noJob(id string) *wire.Error { return wire.NotFound("There is no job '" + id + "'") }

// states are the states by which jobs can be listed.
var states = []string{
	string(journal.Scheduled), string(journal.Queued), string(journal.Running), string(journal.Held), string(journal.Paused),
	string(journal.Absorbed), string(journal.Complete), string(journal.Failed), string(journal.Cancelled),
}

// kinds are the kinds of jobs.
func kinds() (names []string) {
	for _, definition := range jobs.Registry() {
		names = append(names, string(definition.Kind))
	}
	return names
}

// empty reports whether the filter selects all jobs. A list without entries is no list.
func (f Filter) empty() bool {
	return len(f.States)+len(f.Kinds) == 0 && f.Room == "" && f.Requester == "" && f.Since == 0 && f.Before == 0 && f.EndedSince == 0
}

// selected returns the filter of the store. It refuses words that mean nothing there.
func (f Filter) selected() (control.Filter, error) {
	selected := control.Filter{Room: f.Room, Requester: f.Requester, Since: timeOf(f.Since), Before: timeOf(f.Before), EndedSince: timeOf(f.EndedSince)}
	for _, state := range f.States {
		selected.States = append(selected.States, journal.State(state))
	}
	for _, kind := range f.Kinds {
		selected.Kinds = append(selected.Kinds, journal.Kind(kind))
	}
	if err := errors.Join(oneOf("state", f.States, states), oneOf("kind", f.Kinds, kinds())); err != nil {
		return selected, err
	}
	if f.Room != "" {
		if err := wire.CheckRoomID(f.Room); err != nil {
			return selected, err
		}
	}
	if !postgres.Storable(f.Requester) {
		return selected, wire.InvalidParam("The requester has a zero byte")
	}
	return selected, nil
}

// show returns the jobs as the API shows them.
func (o *Operator) show(ctx context.Context, rows []control.Job) []Job {
	shown := make([]Job, 0, len(rows))
	var alive *bool // asked once, and only if a job waits for nothing else
	for _, row := range rows {
		job := newJob(row)
		if job.WaitsFor == "" && row.State == journal.Queued {
			if alive == nil {
				alive = new(o.Alive(ctx))
			}
			if !*alive {
				job.WaitsFor = NoWorker
			}
		}
		shown = append(shown, job)
	}
	return shown
}

// newJob returns a job as the API shows it.
func newJob(row control.Job) Job {
	job := Job{
		ID: row.ID, Kind: string(row.Kind), Room: row.Room, State: string(row.State), Queue: string(jobs.QueueOf(row.Job)),
		Requester: row.Requester, Phase: row.Phase, Done: row.Done, Total: row.Total, Events: row.Events,
		Worker: row.Worker, Batches: row.Batches, Attempts: row.Attempt, WaitsFor: row.WaitsFor, Deleted: row.Deleted,
		LastFailure: row.LastFailure, Error: row.Error, CompleteBelow: row.CompleteBelow, AbsorbedBy: row.AbsorbedBy,
		Created: milliseconds(row.Created), Started: milliseconds(row.Started), Updated: milliseconds(row.Updated),
		Ended: milliseconds(row.Ended), Due: milliseconds(row.Due),
	}
	if row.State.Ended() {
		job.WaitsFor = ""
	} else if row.WaitsSince > 0 {
		job.WaitsSince = time.Now().Add(-row.WaitsSince).UnixMilli()
	}
	if took := row.Updated.Sub(row.Started).Seconds(); !row.Started.IsZero() && took > 0 {
		job.Rate = float64(job.Done) / took
		if row.State == journal.Running && row.Total != nil && job.Rate > 0 {
			job.ETA = new(max(0, float64(*row.Total-job.Done)/job.Rate))
		}
	}
	return job
}

func eventsOf(rows []control.Event) []Event {
	events := make([]Event, 0, len(rows))
	for _, row := range rows {
		events = append(events, eventOf(row))
	}
	return events
}

func eventOf(row control.Event) Event {
	return Event{ID: row.ID, At: milliseconds(row.At), Event: row.Event, Who: row.Who, Reason: row.Reason, Detail: row.Detail}
}
