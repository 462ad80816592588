package httpapi

import (
	"encoding/json"
	"net/http"
	"slices"
	"time"

	"lethe/internal/jobs"
	"lethe/internal/store/journal"

	"github.com/labstack/echo/v4"
)

const (
	// taskAge is for how long the tasks that have ended are listed.
	taskAge = 7 * 24 * time.Hour

	// maxTasks bounds a list. With max_timestamp the older ones can be had.
	maxTasks = 10_000
)

// Each word for tasks belongs to the word for jobs at the same place.
var (
	taskActions, jobKinds = taskActionsAndKinds()

	taskStatuses = []string{"scheduled", "active", "complete", "failed", "cancelled"}
	jobStates    = []journal.State{journal.Queued, journal.Running, journal.Complete, journal.Failed, journal.Cancelled}
)

func taskActionsAndKinds() (actions []string, kinds []journal.Kind) {
	for _, definition := range jobs.Registry() {
		actions, kinds = append(actions, definition.TaskAction), append(kinds, definition.Kind)
	}
	return append(actions, string(journal.ListedPurge)), append(kinds, journal.ListedPurge)
}

// taskStatus is the word for a job's state. One that is held waits to go on.
func taskStatus(state journal.State) string {
	if state == journal.Held {
		state = journal.Queued
	}
	return translate([]journal.State{state}, jobStates, taskStatuses)[0]
}

// translate replaces words by those at the same place. It leaves unknown words out,
// and returns all that there are if it is given none.
func translate[From, To ~string](words, from []From, to []To) []To {
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

// scheduledTasks is GET …/v1/scheduled_tasks: the jobs, in the words of
// Synapse's own task queue.
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
		Room      *string         `json:"resource_id"` // nil if it is about no room
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
			Action:    translate([]journal.Kind{job.Kind}, jobKinds, taskActions)[0],
			Status:    taskStatus(job.State),
			ChangedTS: job.ChangedTS,
			Room:      room,
			Result:    job.Result,
			Error:     job.Error,
		})
	}
	return answer(c, http.StatusOK, struct {
		Tasks []task `json:"scheduled_tasks"`
	}{tasks})
}

func readJobList(q query) (journal.JobList, error) {
	list := journal.JobList{EndedWithin: taskAge, Limit: maxTasks}
	actions, err := q.several("action_name")
	if err != nil {
		return list, err
	}
	list.Kinds = translate(actions, taskActions, jobKinds)
	if _, ok := q.value("resource_id"); ok {
		room, err := q.ascii("resource_id")
		if err != nil {
			return list, err
		}
		list.Room = &room
	}
	statuses, err := q.severalOf("status", taskStatuses...)
	if err == nil && statuses == nil {
		statuses, err = q.severalOf("job_status", taskStatuses...)
	}
	if err != nil {
		return list, err
	}
	list.States = translate(statuses, taskStatuses, jobStates)
	if slices.Contains(list.States, journal.Queued) {
		list.States = append(slices.Clone(list.States), journal.Held)
	}
	until, ok, err := q.optionalInteger("max_timestamp")
	if ok {
		list.Until = &until
	}
	return list, err
}
