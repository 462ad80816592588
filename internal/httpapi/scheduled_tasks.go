package httpapi

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/labstack/echo/v4"

	"lethe/internal/jobs"
	"lethe/internal/store/journal"
	"lethe/internal/wire"
)

const (
	// taskAge is how long tasks are listed after their end.
	taskAge = 7 * 24 * time.Hour

	// maxTasks is the maximum number of tasks in a list. A request with max_timestamp
	// gets older ones.
	maxTasks = 10_000
)

// Synapse's words for tasks, and Lethe's words for jobs. Words with the same index mean
// the same.
var (
	taskActions, jobKinds = taskActionsAndKinds()

	taskStatuses = []string{"scheduled", "active", "complete", "failed", "cancelled"}
	jobStates    = []journal.State{journal.Queued, journal.Running, journal.Complete, journal.Failed, journal.Cancelled}

	// waitingStates are further states of jobs that wait. Synapse has no words for them.
	waitingStates = []journal.State{journal.Held, journal.Absorbed}
)

// taskActionsAndKinds returns Synapse's word for each kind of job. Synapse does not
// know those of the sweeps.
func taskActionsAndKinds() (actions []string, kinds []journal.Kind) {
	for _, definition := range jobs.Registry() {
		actions, kinds = append(actions, definition.TaskAction), append(kinds, definition.Kind)
	}
	return append(actions, string(journal.ListedPurge)), append(kinds, journal.ListedPurge)
}

// taskStatus returns Synapse's word for a job's state. A held or absorbed job is a
// queued one.
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

// scheduledTasks is GET …/v1/scheduled_tasks. It lists the jobs in the words of Synapse's
// task queue.
func (s *server) scheduledTasks(c echo.Context, _ string) error {
	list, err := readJobList(queryOf(c))
	if err != nil {
		return err
	}
	listed, err := s.journal.ListJobs(c.Request().Context(), list)
	if err != nil {
		return err
	}
	type task struct {
		ID        string          `json:"id"`
		Action    string          `json:"action"`
		Status    string          `json:"status"`
		ChangedTS int64           `json:"timestamp_ms"`
		Room      *string         `json:"resource_id"` // nil for a job without a room
		Result    json.RawMessage `json:"result"`
		Error     *string         `json:"error"`
	}
	tasks := make([]task, 0, len(listed))
	for _, job := range listed {
		var room *string
		if job.Room != "" {
			room = &job.Room
		}
		tasks = append(tasks, task{
			ID:        job.ID,
			Action:    translateWords([]journal.Kind{job.Kind}, jobKinds, taskActions)[0],
			Status:    taskStatus(job.State),
			ChangedTS: job.ChangedTS,
			Room:      room,
			Result:    job.Result,
			Error:     job.Error,
		})
	}
	return answerOK(c, map[string][]task{"scheduled_tasks": tasks}, nil)
}

func readJobList(q *wire.Query) (journal.JobList, error) {
	list := journal.JobList{EndedWithin: taskAge, Limit: maxTasks}
	list.Kinds = translateWords(q.Several("action_name"), taskActions, jobKinds)
	if _, ok := q.Value("resource_id"); ok {
		list.Room = new(q.ASCII("resource_id"))
	}
	statuses := q.SeveralOf("status", taskStatuses...)
	if statuses == nil {
		statuses = q.SeveralOf("job_status", taskStatuses...)
	}
	list.States = translateWords(statuses, taskStatuses, jobStates)
	if slices.Contains(list.States, journal.Queued) {
		list.States = append(slices.Clone(list.States), waitingStates...)
	}
	if _, ok := q.Value("max_timestamp"); ok {
		list.Until = new(q.Integer("max_timestamp", 0))
	}
	return list, q.Err()
}
