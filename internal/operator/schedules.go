package operator

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/labstack/echo/v4"

	"lethe/internal/jobs"
	"lethe/internal/schedule"
	"lethe/internal/store/control"
	"lethe/internal/store/journal"
	"lethe/internal/wire"
)

// scheduleList is GET /_lethe/v1/schedules.
func (o *Operator) scheduleList(c echo.Context, _ string) error {
	ctx := c.Request().Context()
	list, err := o.entries(ctx)
	if err != nil {
		return err
	}
	decisions, err := o.decisions.List(ctx)
	if err != nil {
		return err
	}
	for _, decision := range decisions {
		entry := list.of(decision.Job)
		entry.LastTick, entry.NextTick = milliseconds(decision.LastTick), milliseconds(decision.NextTick)
		entry.Outcome, entry.SkippedTicks = decision.Outcome, decision.Skipped
	}
	if err := o.addSweeps(ctx, list); err != nil {
		return err
	}
	slices.SortFunc(list.schedules, func(a, b *Schedule) int { return cmp.Compare(a.Name, b.Name) })
	answer := Schedules{Schedules: make([]Schedule, 0, len(list.schedules))}
	for _, entry := range list.schedules {
		answer.Schedules = append(answer.Schedules, *entry)
	}
	return wire.AnswerOK(c, answer, nil)
}

// scheduleEntries are schedules that are being gathered.
type scheduleEntries struct{ schedules []*Schedule }

// of returns the schedule with the name, and adds it if it is missing.
func (e *scheduleEntries) of(name string) *Schedule {
	if i := slices.IndexFunc(e.schedules, func(s *Schedule) bool { return s.Name == name }); i >= 0 {
		return e.schedules[i]
	}
	e.schedules = append(e.schedules, &Schedule{Name: name})
	return e.schedules[len(e.schedules)-1]
}

// configure adds a schedule of the api's settings.
func (e *scheduleEntries) configure(name string, kind journal.Kind) {
	entry := e.of(name)
	entry.Kind, entry.Configured = string(kind), true
}

// entries returns the schedules of the api's settings and of the schedulers that are alive,
// whose settings may differ.
func (o *Operator) entries(ctx context.Context) (*scheduleEntries, error) {
	list := &scheduleEntries{}
	for _, name := range o.options.RetentionJobs {
		list.configure(name, jobs.RetentionSweep)
	}
	if name := o.options.AbandonedJob; name != "" {
		list.configure(name, jobs.AbandonedSweep)
	}
	if o.options.Schedulers == nil {
		return list, nil
	}
	replicas, err := o.options.Schedulers(ctx)
	if err != nil {
		return nil, err
	}
	for _, replica := range replicas {
		for _, entry := range replica.Schedules {
			known := list.of(entry.Name)
			known.Kind, known.When, known.Scheduled = string(entry.Kind), entry.When, true
		}
	}
	return list, nil
}

// addSweeps adds the last sweep of each schedule.
func (o *Operator) addSweeps(ctx context.Context, list *scheduleEntries) error {
	last, err := o.decisions.LastSweeps(ctx)
	if err != nil {
		return err
	}
	ids := []string{}
	for _, entry := range list.schedules {
		if id, ok := last[entry.Name]; ok {
			ids = append(ids, id)
		}
	}
	rows, _, err := o.control.Jobs(ctx, control.Filter{IDs: ids}, control.Page{Limit: control.MaxPage})
	if err != nil {
		return err
	}
	for i, job := range o.show(ctx, rows) {
		job.Result = resultOf(rows[i])
		for _, entry := range list.schedules {
			if last[entry.Name] == job.ID {
				entry.LastSweep = &job
				entry.Kind = cmp.Or(entry.Kind, job.Kind)
			}
		}
	}
	return nil
}

// runSchedule is POST /_lethe/v1/schedules/{name}/run.
func (o *Operator) runSchedule(c echo.Context, who string) error {
	var body RunRequest
	if err := wire.ReadBody(c, &body); err != nil {
		return err
	}
	acceptance, err := o.acceptance(Acceptance{Grace: body.Grace, Reason: body.Reason})
	if err != nil {
		return err
	}
	ctx, name := c.Request().Context(), wire.Segment(c, "name")
	list, err := o.entries(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(list.schedules, func(s *Schedule) bool { return s.Name == name })
	if i < 0 {
		return wire.NotFound("There is no schedule '" + name + "' in the settings")
	}
	kind := list.schedules[i].Kind
	sweep, err := o.runner.Run(ctx, schedule.Request{
		Entry: schedule.Entry{Name: name, Kind: journal.Kind(kind)}, Requester: who, Reason: body.Reason, Grace: acceptance.Grace,
	})
	var open *schedule.OpenError
	if errors.As(err, &open) {
		return wire.New(http.StatusConflict, "M_UNKNOWN", fmt.Sprintf(
			"The schedule %s has a sweep that has not ended: the job %s is %s", name, open.Sweep, open.State))
	}
	return o.accepted(c, sweep.ID, nil, err)
}
