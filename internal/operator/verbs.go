package operator

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"

	"lethe/internal/jobs"
	"lethe/internal/store/control"
	"lethe/internal/store/journal"
	"lethe/internal/wire"
)

// A verb is what an operator can do to a job.
type verb struct {
	verb control.Verb

	// summary says in a line what it does, and past is its participle.
	summary, past string
}

// verbs are all verbs, for the API and for the command line.
var verbs = []verb{
	{control.VerbCancel, "Cancel a job", "cancelled"},
	{control.VerbPause, "Pause a job until it is resumed, or until a time", "paused"},
	{control.VerbResume, "Resume a paused job", "resumed"},
	{control.VerbRetry, "Run a job again that has failed or was cancelled, from where it was", "retried"},
	{control.VerbPriority, "Move a waiting job to another queue", "moved"},
}

// queues are the queues to which a job can be moved.
var queues = []string{string(jobs.Critical), string(jobs.Default), string(jobs.Low)}

// maxBulk is the most jobs of one request.
const maxBulk = 1000

// errPast is the refusal of a pause that would have ended already.
var errPast = wire.InvalidParam("'until_ts' is in the past")

// verbNames are the names of all verbs.
func verbNames() (names []string) {
	for _, v := range verbs {
		names = append(names, string(v.verb))
	}
	return names
}

// requested returns the store's request of a verb. It refuses one that lacks something.
func (r VerbRequest) requested(verb control.Verb, who string) (control.Request, error) {
	request := control.Request{Verb: verb, Who: who, Reason: r.Reason, Until: timeOf(r.Until), Queue: journal.Queue(r.Queue), DryRun: r.DryRun}
	if err := errors.Join(checkReason(r.Reason, false), checkTime("until_ts", r.Until)); err != nil {
		return request, err
	}
	switch {
	case verb == control.VerbPriority:
		if r.Queue == "" {
			return request, wire.MissingParam("Missing params: ['queue']")
		}
		return request, oneOf("queue", []string{r.Queue}, queues)
	case r.Queue != "":
		return request, wire.InvalidParam("'queue' is only for the verb priority")
	case verb != control.VerbPause && r.Until != 0:
		return request, wire.InvalidParam("'until_ts' is only for the verb pause")
	}
	return request, nil
}

// do is POST /_lethe/v1/jobs/{job_id}/{verb}.
func (o *Operator) do(c echo.Context, who string, verb control.Verb) error {
	var body VerbRequest
	if err := wire.ReadBody(c, &body); err != nil {
		return err
	}
	request, err := body.requested(verb, who)
	if err != nil {
		return err
	}
	id := wire.Segment(c, "job_id")
	if !jobs.ValidID(id) {
		return noJob(id)
	}
	ctx := c.Request().Context()
	done, err := o.control.Do(ctx, request, control.Filter{IDs: []string{id}}, 1)
	switch {
	case err != nil:
		return wire.Instead(err, control.ErrUntil, errPast)
	case len(done) == 0:
		return noJob(id)
	case done[0].Refusal != "":
		return cannotBe(verb, done[0].Refusal)
	}
	return wire.AnswerOK(c, o.outcomes(c, request, done)[0], nil)
}

// cannotBe is the refusal of a verb.
func cannotBe(verb control.Verb, why string) *wire.Error {
	return wire.New(http.StatusConflict, "M_UNKNOWN", "The job cannot be "+Participle(string(verb))+": "+why)
}

// Participle returns the participle of a verb, such as cancelled.
func Participle(name string) string {
	for _, v := range verbs {
		if string(v.verb) == name {
			return v.past
		}
	}
	return name
}

// bulk is POST /_lethe/v1/jobs/bulk.
func (o *Operator) bulk(c echo.Context, who string) error {
	var body BulkRequest
	if err := wire.ReadBody(c, &body); err != nil {
		return err
	}
	if err := oneOf("verb", []string{body.Verb}, verbNames()); err != nil {
		return err
	}
	if body.Limit < 0 || body.Limit > maxBulk {
		return wire.InvalidParam(fmt.Sprintf("'limit' must be from 1 to %d", maxBulk))
	}
	if body.Limit == 0 {
		body.Limit = maxBulk
	}
	request, err := body.requested(control.Verb(body.Verb), who)
	if err != nil {
		return err
	}
	if err := errors.Join(checkTime("since_ts", body.Filter.Since), checkTime("before_ts", body.Filter.Before), checkTime("ended_since_ts", body.Filter.EndedSince)); err != nil {
		return err
	}
	if body.Filter.empty() {
		return wire.InvalidParam("'filter' must select jobs: an empty one would select all")
	}
	filter, err := body.Filter.selected()
	if err != nil {
		return err
	}
	done, err := o.control.Do(c.Request().Context(), request, filter, body.Limit)
	if err != nil {
		return wire.Instead(err, control.ErrUntil, errPast)
	}
	answer := Outcomes{Outcomes: o.outcomes(c, request, done), Matched: len(done)}
	for _, outcome := range done {
		if outcome.Done {
			answer.Done++
		}
	}
	return wire.AnswerOK(c, answer, nil)
}

// outcomes returns what a verb has done, and lets the jobs' statuses follow.
func (o *Operator) outcomes(c echo.Context, request control.Request, done []control.Outcome) []Outcome {
	ctx := c.Request().Context()
	outcomes := make([]Outcome, 0, len(done))
	for _, one := range done {
		if one.Done && !request.DryRun {
			o.options.Changed(ctx, one.Job.Job)
		}
		outcomes = append(outcomes, Outcome{Job: newJob(one.Job), Done: one.Done, Refusal: one.Refusal})
	}
	return outcomes
}
