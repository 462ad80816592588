package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"lethe/internal/store/audit"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
)

// A Verb is what an operator may do to a job.
type Verb string

const (
	// VerbCancel ends a job. What it has deleted stays deleted. A run that is in a batch
	// cannot commit it.
	VerbCancel Verb = "cancel"

	// VerbPause keeps a job from running until it is resumed, or until a time.
	VerbPause Verb = "pause"

	// VerbResume ends the job's own pause.
	VerbResume Verb = "resume"

	// VerbRetry lets a job that has failed or was cancelled go on where it was, under the
	// same id.
	VerbRetry Verb = "retry"

	// VerbPriority moves a job to another queue.
	VerbPriority Verb = "priority"
)

// Verbs returns all verbs.
func Verbs() []Verb { return []Verb{VerbCancel, VerbPause, VerbResume, VerbRetry, VerbPriority} }

// A Request is a verb with what it needs.
type Request struct {
	Verb Verb

	// Who does it, and why, for the job's log.
	Who, Reason string

	// Until ends a pause. Defaults to the zero time, a resume.
	Until time.Time

	// Queue is the queue for [VerbPriority]: critical, default or low.
	Queue journal.Queue

	// DryRun only says what would be done. Defaults to false.
	DryRun bool
}

// An Outcome is what a verb has done to a job.
type Outcome struct {
	// Job is the job afterwards.
	Job Job

	// Done says that the verb was done, or would be. Otherwise Refusal says why not, in words
	// that follow "The job cannot be …: ", and the job is as it was.
	Done    bool
	Refusal string
}

// ErrRequest is returned for a request that has no meaning.
var ErrRequest = errors.New("the request has no meaning")

// queues are the queues of tasks.
var queues = []journal.Queue{"critical", "default", journal.LowQueue}

func (r Request) check() error {
	switch {
	case !slices.Contains(Verbs(), r.Verb):
		return fmt.Errorf("%w: %q is not a verb", ErrRequest, r.Verb)
	case r.Verb == VerbPriority && !slices.Contains(queues, r.Queue):
		return fmt.Errorf("%w: %q is not a queue", ErrRequest, r.Queue)
	}
	return nil
}

// candidates are the states of the jobs to which a verb may apply. A request without
// states is for these.
func (v Verb) candidates() []journal.State {
	if v == VerbRetry {
		return []journal.State{journal.Failed, journal.Cancelled}
	}
	return slices.DeleteFunc(journal.States(), journal.State.Ended)
}

// verbLockWait bounds the wait for the row of a job, which a batch locks for its commit.
const verbLockWait = 10 * time.Second

// Do does a verb to the jobs that match, the oldest first, at most limit of them and at
// most [MaxPage], each in a transaction of its own. It returns what has become of each. A
// filter without ids and states is for the jobs to which the verb may apply. After an error
// some of the jobs may be done: a second call does the others. It fails with [ErrRequest],
// and with [ErrUntil] for a pause that would have ended.
func (c *Control) Do(ctx context.Context, request Request, filter Filter, limit int) ([]Outcome, error) {
	operation := string(request.Verb) + " jobs"
	if err := request.check(); err != nil {
		return nil, err
	}
	if filter.IDs == nil && len(filter.States) == 0 {
		filter.States = request.Verb.candidates()
	}
	where, possible := filter.conditions()
	if !possible {
		return nil, nil
	}
	ids, err := postgres.ReadAll(ctx, c.db, pgx.RowTo[string], `
		SELECT j.id FROM lethe.jobs j`+where.where()+` ORDER BY j.created_at, j.id LIMIT `+strconv.Itoa(min(max(limit, 1), MaxPage)), where.args...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", operation, err)
	}
	outcomes := make([]Outcome, 0, len(ids))
	for _, id := range ids {
		outcome, err := c.do(ctx, request, id)
		if errors.Is(err, postgres.ErrNotFound) {
			continue // it was pruned meanwhile
		}
		if err != nil {
			return outcomes, fmt.Errorf("%s: job %s: %w", operation, id, err)
		}
		outcomes = append(outcomes, outcome)
	}
	return outcomes, nil
}

// errDryRun rolls the transaction of a dry run back.
var errDryRun = errors.New("dry run")

// A refusal is why a verb is not done, in words that follow "The job cannot be …: ".
type refusal string

func (r refusal) Error() string { return string(r) }

// do does the verb to one job.
func (c *Control) do(ctx context.Context, request Request, id string) (Outcome, error) {
	err := c.db.InTransaction(ctx, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT set_config('lock_timeout', $1, true)`, postgres.Milliseconds(verbLockWait)); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, `SELECT FROM lethe.jobs WHERE id = $1 FOR NO KEY UPDATE`, id); err != nil {
			return err
		}
		job, err := c.job(ctx, tx, id)
		if err != nil {
			return err
		}
		err = map[Verb]func(context.Context, pgx.Tx, Job, Request) error{
			VerbCancel: cancel, VerbPause: pause, VerbResume: resume, VerbRetry: retry, VerbPriority: prioritise,
		}[request.Verb](ctx, tx, job, request)
		if err == nil && request.DryRun {
			err = errDryRun
		}
		return err
	})
	var refused refusal
	outcome := Outcome{Done: err == nil || errors.Is(err, errDryRun)}
	switch {
	case errors.As(err, &refused):
		outcome.Refusal = refused.Error()
	case !outcome.Done:
		return Outcome{}, err
	}
	if outcome.Job, err = c.job(ctx, c.db, id); err != nil {
		return Outcome{}, err
	}
	if outcome.Done && !request.DryRun && request.Verb == VerbCancel && outcome.Job.Room != "" {
		// Nothing has done the work of the purges that it had absorbed. If this fails, the
		// reconciler queues them.
		_, _ = c.absorptions.SettleAbsorbedOf(ctx, outcome.Job.Room, MaxPage)
	}
	return outcome, nil
}

// note writes the verb into the job's log.
func note(ctx context.Context, tx pgx.Tx, job Job, request Request, detail map[string]any) error {
	detail["from"] = job.State
	encoded, err := json.Marshal(detail)
	if err != nil {
		return fmt.Errorf("encode the detail of the verb: %w", err)
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO lethe.job_events (job_id, event, who, reason, detail) VALUES ($1, $2, $3, nullif($4, ''), $5)`,
		job.ID, request.Verb, postgres.Sanitize(request.Who), postgres.Sanitize(request.Reason), string(encoded))
	if err != nil {
		return err
	}
	return audit.Note(ctx, tx, audit.Entry{
		Who: request.Who, Action: audit.Action(request.Verb), Subject: string(job.Kind), Room: job.Room, Job: job.ID, Reason: request.Reason, Detail: encoded,
	})
}

// hasEnded is the refusal of a verb for jobs that have not ended.
func hasEnded(job Job) error { return refusal("it has ended, and is " + string(job.State)) }
