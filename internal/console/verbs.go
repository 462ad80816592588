package console

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"lethe/internal/jobs"
	"lethe/internal/operator"
	"lethe/internal/store/control"
	"lethe/internal/wire"
)

// A verb is what a user can do to a job, in the words of a page.
type verb struct {
	Name control.Verb

	// Label is on the button, and Effect says what will happen.
	Label, Effect string

	// Grave says that the verb ends work.
	Grave bool

	// said is what the job's page says afterwards.
	said string
}

var verbs = []verb{
	{
		Name: control.VerbPause, Label: "Pause",
		Effect: "A running job stops after its current batch, and the job waits until it is resumed or the time is over. What is deleted stays deleted.",
		said:   "The job is paused. A running batch ends first.",
	},
	{
		Name: control.VerbResume, Label: "Resume",
		Effect: "The pause ends, and the job goes on where it stopped when its turn comes.",
		said:   "The job is resumed.",
	},
	{
		Name: control.VerbRetry, Label: "Retry",
		Effect: "The job goes on where it stopped, when its grace is over and its turn comes. It then deletes what is left of its work.",
		said:   "The job goes on when its turn comes.",
	},
	{
		Name: control.VerbPriority, Label: "Move to another queue",
		Effect: "Workers take jobs from the queue critical before default, and from default before low. The job's work stays the same.",
		said:   "The job has moved to the other queue.",
	},
	{
		Name: control.VerbCancel, Label: "Cancel", Grave: true,
		Effect: "The job ends. A running job stops after its current batch, and never goes on by itself. What is deleted stays deleted, and what is left stays. Retry continues a job that was cancelled.",
		said:   "The job is cancelled. A running batch ends first.",
	},
}

func verbOf(name string) (verb, bool) {
	i := slices.IndexFunc(verbs, func(v verb) bool { return string(v.Name) == name })
	if i < 0 {
		return verb{}, false
	}
	return verbs[i], true
}

// An offer is a verb with why the job refuses it now, "" if it does not.
type offer struct {
	verb
	Refusal string
}

// offers returns all verbs. The API itself says which of them the job refuses.
func (c *Console) offers(ctx context.Context, who string, job operator.Job) (offers []offer, err error) {
	for _, verb := range verbs {
		request := operator.VerbRequest{DryRun: true}
		if verb.Name == control.VerbPriority {
			request.Queue = otherQueues(job)[0]
		}
		refused, err := c.do(ctx, who, job.ID, verb, request)
		if err != nil && refused == nil {
			return nil, err
		}
		one := offer{verb: verb}
		if refused != nil {
			one.Refusal = sentence(refused.Text)
		}
		offers = append(offers, one)
	}
	return offers, nil
}

// otherQueues are the queues to which a job can be moved.
func otherQueues(job operator.Job) []string {
	all := []string{string(jobs.Critical), string(jobs.Default), string(jobs.Low)}
	return slices.DeleteFunc(all, func(queue string) bool { return queue == job.Queue })
}

// do does a verb. A refusal because of the job's state is also returned as such.
func (c *Console) do(ctx context.Context, who, id string, verb verb, request operator.VerbRequest) (refused *wire.Error, err error) {
	err = c.api.Call(ctx, who, operator.Call{
		Method: http.MethodPost, Path: "/jobs/{job_id}/" + string(verb.Name), Parameters: map[string]string{"job_id": id}, Body: request,
	}, &operator.Outcome{})
	if errors.As(err, &refused) && refused.Status != http.StatusConflict {
		refused = nil
	}
	return refused, err
}

// A verbPage asks whether a verb is meant.
type verbPage struct {
	frame
	Job  operator.Job
	Verb verb

	// Refusal is why it is not possible now, "" if it is.
	Refusal string

	// Queues can be chosen for the verb priority.
	Queues []string
}

func (c *Console) verbPage(v *visit) error {
	verb, ok := verbOf(v.r.PathValue("verb"))
	if !ok {
		return errNoPage
	}
	if v.reads {
		return errReads
	}
	ctx, who := v.r.Context(), v.session.User
	shown, err := c.readJob(ctx, who, v.r.PathValue("job"))
	if err != nil {
		return err
	}
	page := verbPage{frame: v.frame(verb.Label + ": job " + shown.Job.ID).in("jobs"), Job: shown.Job, Verb: verb}
	offers, err := c.offers(ctx, who, shown.Job)
	if err != nil {
		return err
	}
	for _, offer := range offers {
		if offer.Name == verb.Name {
			page.Refusal = offer.Refusal
		}
	}
	if verb.Name == control.VerbPriority {
		page.Queues = otherQueues(shown.Job)
	}
	return v.render(http.StatusOK, "verb", page)
}

// pauseTimes are how long a pause can last, by the value in the form. "" is until a resume.
var pauseTimes = map[string]time.Duration{"": 0, "1h": time.Hour, "8h": 8 * time.Hour, "24h": 24 * time.Hour, "168h": 7 * 24 * time.Hour}

// doVerb does what the form asks for.
func (c *Console) doVerb(v *visit) error {
	verb, ok := verbOf(v.r.PathValue("verb"))
	if !ok {
		return errNoPage
	}
	id, form := v.r.PathValue("job"), v.r.PostForm
	request := operator.VerbRequest{Reason: strings.TrimSpace(form.Get("reason"))}
	switch verb.Name {
	case control.VerbPriority:
		request.Queue = form.Get("queue")
	case control.VerbPause:
		lasts, ok := pauseTimes[form.Get("for")]
		if !ok {
			return wire.InvalidParam("A pause cannot last for that long")
		}
		if lasts > 0 {
			request.Until = time.Now().Add(lasts).UnixMilli()
		}
	}
	if _, err := c.do(v.r.Context(), v.session.User, id, verb, request); err != nil {
		return err
	}
	return v.redirect(Root + "/jobs/" + id + "?done=" + string(verb.Name))
}
