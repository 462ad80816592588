package httpapi

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/labstack/echo/v4"

	"lethe/internal/jobs"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/scheduledtasks"
	"lethe/internal/wire"
)

const (
	// taskAge is how long tasks are listed after their end.
	taskAge = 7 * 24 * time.Hour

	// maxTasks is the maximum number of tasks in a list. A request with max_timestamp
	// gets older ones.
	maxTasks = 10_000
)

// deletingActions are the actions of Synapse's tasks that delete a room.
var deletingActions = []string{scheduledtasks.DeleteRoom, scheduledtasks.PurgeRoom}

// Synapse's words for tasks, and Lethe's words for jobs. Words with the same index mean
// the same.
var (
	taskActions, jobKinds = taskActionsAndKinds()

	taskStatuses = []string{"scheduled", "active", "complete", "failed", "cancelled"}
	jobStates    = []journal.State{journal.Queued, journal.Running, journal.Complete, journal.Failed, journal.Cancelled}

	// waitingStates are further states of jobs that wait. Synapse has no words for them.
	waitingStates = []journal.State{journal.Scheduled, journal.Held, journal.Paused, journal.Absorbed}
)

// taskActionsAndKinds returns Synapse's word for each kind of job. Synapse does not
// know those of the sweeps.
func taskActionsAndKinds() (actions []string, kinds []journal.Kind) {
	for _, definition := range jobs.Registry() {
		actions, kinds = append(actions, definition.TaskAction), append(kinds, definition.Kind)
	}
	return append(actions, string(journal.ListedPurge)), append(kinds, journal.ListedPurge)
}

// taskStatus returns Synapse's word for a job's state. A job that waits, for whatever
// reason, is a queued one.
func taskStatus(state journal.State) string {
	if slices.Contains(waitingStates, state) {
		state = journal.Queued
	}
	return translateWords([]journal.State{state}, jobStates, taskStatuses)[0]
}

// translateWords replaces each word of one list by the word of the other list with the
// same index. It drops unknown words. Without words it returns the whole other list.
func translateWords[From, To ~string](words, from []From, to []To) []To {
	if len(words) == 0 {
		return to
	}
	translated := []To{}
	for _, word := range words {
		if i := slices.Index(from, word); i >= 0 {
			translated = append(translated, to[i])
		}
	}
	return translated
}

// A taskBody is a task in a list.
type taskBody struct {
	ID        string          `json:"id"`
	Action    string          `json:"action"`
	Status    string          `json:"status"`
	ChangedTS int64           `json:"timestamp_ms"`
	Resource  *string         `json:"resource_id"` // nil for a job without a room
	Result    json.RawMessage `json:"result"`
	Error     *string         `json:"error"`
	Progress  json.RawMessage `json:"progress,omitempty"` // not of Synapse's own tasks
}

func newTaskBody(job journal.ListedJob) taskBody {
	body := taskBody{
		ID:        job.ID,
		Action:    translateWords([]journal.Kind{job.Kind}, jobKinds, taskActions)[0],
		Status:    taskStatus(job.State),
		ChangedTS: job.ChangedTS,
		Result:    job.Result,
		Error:     job.Error,
		Progress:  job.Progress,
	}
	if job.Room != "" {
		body.Resource = &job.Room
	}
	return body
}

// scheduledTasks is GET …/v1/scheduled_tasks. It lists the jobs in the words of Synapse's
// task queue, together with the tasks in that queue.
func (s *server) scheduledTasks(c echo.Context, _ string) error {
	ctx := c.Request().Context()
	list, err := readTaskList(wire.QueryOf(c))
	if err != nil {
		return err
	}
	listed, err := s.journal.ListJobs(ctx, list.jobs())
	if err != nil {
		return err
	}
	others, err := s.homeserverTasks.List(ctx, list.Filter)
	if err != nil {
		return err
	}
	tasks := make([]taskBody, 0, len(listed)+len(others))
	for _, job := range listed {
		tasks = append(tasks, newTaskBody(job))
	}
	for _, task := range others {
		tasks = append(tasks, taskBody{task.ID, task.Action, task.Status, task.ChangedTS, task.Resource, task.Result, task.Error, nil})
		if result := &tasks[len(tasks)-1].Result; !json.Valid(*result) {
			*result = nil
		}
	}
	slices.SortStableFunc(tasks, func(a, b taskBody) int {
		return cmp.Or(cmp.Compare(a.ChangedTS, b.ChangedTS), cmp.Compare(a.ID, b.ID))
	})
	tasks = tasks[max(0, len(tasks)-maxTasks):]
	return wire.AnswerOK(c, map[string][]taskBody{"scheduled_tasks": tasks}, nil)
}

// A taskList says which tasks to list, in Synapse's words.
type taskList struct{ scheduledtasks.Filter }

// jobs says the same in Lethe's words.
func (l *taskList) jobs() journal.JobList {
	list := journal.JobList{
		Kinds: translateWords(l.Actions, taskActions, jobKinds), States: translateWords(l.Statuses, taskStatuses, jobStates),
		Room: l.Resource, Until: l.Until, EndedWithin: taskAge, Limit: maxTasks,
	}
	if slices.Contains(list.States, journal.Queued) {
		list.States = append(slices.Clone(list.States), waitingStates...)
	}
	return list
}

func readTaskList(q *wire.Query) (taskList, error) {
	list := taskList{scheduledtasks.Filter{Limit: maxTasks}}
	list.Actions = q.Several("action_name")
	if resource := q.ASCII("resource_id"); resource != "" {
		list.Resource = &resource
	}
	list.Statuses = q.SeveralOf("status", taskStatuses...)
	if list.Statuses == nil {
		list.Statuses = q.SeveralOf("job_status", taskStatuses...)
	}
	if _, ok := q.Value("max_timestamp"); ok {
		list.Until = new(q.Integer("max_timestamp", 0))
	}
	return list, q.Err()
}

// homeserverTask returns a task of Synapse's own queue that does one of the actions. Other
// ids are not found, as ids that are not known.
func (s *server) homeserverTask(ctx context.Context, id string, actions ...string) (scheduledtasks.Task, error) {
	task, err := s.homeserverTasks.Get(ctx, id)
	switch {
	case errors.Is(err, postgres.ErrNotFound), err == nil && !slices.Contains(actions, task.Action):
		return scheduledtasks.Task{}, jobs.ErrNotFound
	case err != nil:
		return scheduledtasks.Task{}, err
	}
	return task, nil
}

// stateOf returns Lethe's word for the status of a task, and the reason of its failure.
func stateOf(task scheduledtasks.Task) (state journal.State, reason string) {
	state = journal.Running
	if i := slices.Index(taskStatuses, task.Status); i >= 0 {
		state = jobStates[i]
	}
	if task.Error != nil {
		reason = *task.Error
	}
	return state, reason
}
