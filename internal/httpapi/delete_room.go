package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/labstack/echo/v4"

	"lethe/internal/jobs"
	"lethe/internal/matrix"
	"lethe/internal/shutdown"
	"lethe/internal/store/journal"
	"lethe/internal/store/leftover"
	"lethe/internal/store/postgres"
	"lethe/internal/store/scheduledtasks"
	"lethe/internal/tasks"
	"lethe/internal/wait"
	"lethe/internal/wire"
)

// The times between two polls for the end of a job.
const (
	minPoll = 50 * time.Millisecond
	maxPoll = time.Second
)

// readDelete reads a delete from the request. It checks the flags before the room's id,
// as Synapse does. It does not check new_room_user_id, because the order of that check
// depends on the route.
func (s *server) readDelete(c echo.Context, requester string) (request tasks.DeleteRoom, newUser json.RawMessage, err error) {
	request = tasks.DeleteRoom{Requester: requester, Purge: true}
	body, err := wire.ReadSomeObject(c)
	if err != nil {
		return request, nil, err
	}
	for _, flag := range []struct {
		name  string
		value *bool
	}{{"block", &request.Block}, {"purge", &request.Purge}, {"force_purge", &request.ForcePurge}} {
		if value, ok := body[flag.name]; ok {
			var given *bool
			if err := json.Unmarshal(value, &given); err != nil || given == nil {
				return request, nil, wire.BadJSON("Param '" + flag.name + "' must be a boolean, if given")
			}
			*flag.value = *given
		}
	}
	request.ForcePurge = request.ForcePurge && request.Purge
	for _, text := range []struct {
		name, byDefault string
		value           *string
	}{{"room_name", shutdown.DefaultRoomName, &request.RoomName}, {"message", shutdown.DefaultMessage, &request.Message}} {
		var given *string
		if value, ok := body[text.name]; ok && json.Unmarshal(value, &given) != nil {
			return request, nil, wire.BadJSON("Param '" + text.name + "' must be a string, if given")
		}
		if *text.value = text.byDefault; given != nil && *given != "" {
			*text.value = storableText(*given)
		}
	}
	request.Room, err = wire.ReadRoomID(c)
	return request, body["new_room_user_id"], err
}

// readNewRoomUser reads the id of the user who creates the replacement room, "" for no
// replacement room.
func (s *server) readNewRoomUser(value json.RawMessage) (string, error) {
	var user *string
	if value != nil && json.Unmarshal(value, &user) != nil {
		return "", wire.BadJSON("Param 'new_room_user_id' must be a string, if given")
	}
	if user == nil {
		return "", nil
	}
	if server, ok := matrix.ServerOf(*user); !ok || server != s.options.ServerName || !matrix.ValidUserID(*user) {
		return "", wire.BadRequest("User must be our own: " + *user)
	}
	return *user, nil
}

// storableText replaces the zero bytes of a text, which PostgreSQL cannot hold.
func storableText(text string) string { return strings.ReplaceAll(text, "\x00", "\uFFFD") }

// alreadyDeleting refuses a delete of a room that has one, and in the seed dialect also
// of a room with a history purge.
func (s *server) alreadyDeleting(room string) *wire.Error {
	if s.options.SeedDialect {
		return historyPurgeInProgress(room)
	}
	return wire.BadRequest("Purge already in progress for " + room)
}

// refuseBusyHomeserver refuses a purge or a delete of a room that the homeserver itself is
// deleting, or will begin to delete within its next minute. As with Lethe's own jobs, a
// history purge of the homeserver only refuses it in the seed dialect; otherwise the job
// waits for that purge.
func (s *server) refuseBusyHomeserver(ctx context.Context, room string) error {
	actions := deletingActions
	if s.options.SeedDialect {
		actions = append(slices.Clone(actions), scheduledtasks.PurgeHistory)
	}
	switch _, err := s.homeserverTasks.Open(ctx, room, actions...); {
	case err == nil:
		return s.alreadyDeleting(room)
	case !errors.Is(err, postgres.ErrNotFound):
		return err
	}
	return nil
}

// historyPurgeInProgress is the refusal of the seed dialect, for purges and deletes.
func historyPurgeInProgress(room string) *wire.Error {
	return wire.BadRequest("History purge already in progress for " + room)
}

// deleteRoom is DELETE …/v2/rooms/{room_id}. It accepts the delete and answers with its
// id.
func (s *server) deleteRoom(c echo.Context, requester string) error {
	request, newUser, err := s.readDelete(c, requester)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	if err := s.refuseHeld(ctx, request.Room); err != nil {
		return err
	}
	switch _, err := s.journal.OpenJob(ctx, jobs.DeleteRoom, request.Room); {
	case err == nil:
		return s.alreadyDeleting(request.Room)
	case !errors.Is(err, postgres.ErrNotFound):
		return err
	}
	if err := s.refuseBusyHomeserver(ctx, request.Room); err != nil {
		return err
	}
	if request.NewRoomUser, err = s.readNewRoomUser(newUser); err != nil {
		return err
	}
	request.PurgeDelay, request.Exclusive, request.Grace = s.options.PurgeDelay, s.options.SeedDialect, s.options.Grace
	id, err := s.tasks.SubmitDeleteRoom(ctx, request)
	return wire.AnswerOK(c, map[string]string{"delete_id": id}, wire.Instead(err, journal.ErrRoomBusy, s.alreadyDeleting(request.Room)))
}

// deleteRoomNow is DELETE …/v1/rooms/{room_id}. It waits for the end of the delete. If
// the caller disconnects, the delete continues, and the same request waits for it again.
func (s *server) deleteRoomNow(c echo.Context, requester string) error {
	request, newUser, err := s.readDelete(c, requester)
	if err != nil {
		return err
	}
	if err := s.refuseHeld(c.Request().Context(), request.Room); err != nil {
		return err
	}
	if err := s.refuseBusyHomeserver(c.Request().Context(), request.Room); err != nil {
		return err
	}
	// A room that does not exist is not replaced.
	known, err := s.queries.RoomExists(c.Request().Context(), request.Room)
	if err != nil {
		return err
	}
	if known {
		if request.NewRoomUser, err = s.readNewRoomUser(newUser); err != nil {
			return err
		}
	}
	s.extendTimeout(c, s.options.DeletePatience)
	ctx := c.Request().Context()
	id, err := s.submitOrJoin(ctx, request)
	if err != nil {
		return err
	}
	status, err := s.awaitEnd(ctx, id, "The delete")
	if err != nil {
		return err
	}
	if status.State != journal.Complete {
		return deleteError(status)
	}
	details, err := tasks.DeleteStatusOf([]byte(status.Progress))
	return wire.AnswerOK(c, details.Shutdown, err)
}

// submitOrJoin submits the delete, or finds the one that the same request submitted
// before. If another delete of the room is unfinished, it waits for that one first.
func (s *server) submitOrJoin(ctx context.Context, request tasks.DeleteRoom) (id string, err error) {
	for {
		id, err := s.tasks.SubmitDeleteRoom(ctx, request)
		if !errors.Is(err, journal.ErrRoomBusy) {
			return id, err
		}
		open, err := s.journal.OpenJob(ctx, jobs.DeleteRoom, request.Room)
		switch {
		case errors.Is(err, postgres.ErrNotFound): // it has just ended
			continue
		case err != nil:
			return "", err
		case request.IsOf(open):
			return open.ID, nil
		}
		if _, err := s.awaitEnd(ctx, open.ID, "Another delete of the room"); err != nil {
			return "", err
		}
	}
}

// awaitEnd waits for the end of a delete. It fails if the context ends, or if the room is
// held. What describes the delete in the text of these refusals.
func (s *server) awaitEnd(ctx context.Context, id, what string) (jobs.Status, error) {
	backoff := wait.Backoff{Min: minPoll, Max: maxPoll}
	for {
		status, err := s.jobs.Status(ctx, jobs.DeleteRoom, id)
		if ctx.Err() == nil && (err != nil || status.State.Ended()) {
			return status, err
		}
		if ctx.Err() == nil && status.State == journal.Held {
			return jobs.Status{}, wire.Forbidden(what + " waits, since the room was held meanwhile: its status is that of delete_id " + id)
		}
		if backoff.Wait(ctx) == nil {
			continue
		}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return jobs.Status{}, wire.New(http.StatusGatewayTimeout, "M_UNKNOWN", what+" goes on: its status is that of delete_id "+id)
		}
		return jobs.Status{}, ctx.Err()
	}
}

// deleteError returns the refusal for a delete that did not complete. An error of the
// job that begins with a status from 400 to 499 is answered with that status.
func deleteError(status jobs.Status) error {
	if status.State == journal.Cancelled {
		return wire.New(http.StatusInternalServerError, "M_UNKNOWN", "cancelled")
	}
	code, text, ok := strings.Cut(status.Error, ": ")
	if n, err := strconv.Atoi(code); ok && err == nil && n >= 400 && n < 500 {
		return wire.New(n, "M_UNKNOWN", text)
	}
	return wire.New(http.StatusInternalServerError, "M_UNKNOWN", status.Error)
}

// A deleteBody is the body of a delete's status.
type deleteBody struct {
	ID       string          `json:"delete_id"`
	Room     string          `json:"room_id"`
	Status   string          `json:"status"`
	Phase    string          `json:"phase,omitempty"`
	Shutdown shutdown.Result `json:"shutdown_room"`
	Error    string          `json:"error,omitempty"`

	// Held is the reason of the room's hold, "" if the room is not held.
	Held string `json:"held,omitempty"`

	// WaitsFor says what the delete waits for, "" if it runs or only waits for its turn.
	WaitsFor string `json:"waits_for,omitempty"`

	// Report is what the delete has left, nil before the check at its end.
	*leftover.Report
}

// newDeleteBody translates a delete's state into the words of the dialect. Admin tools
// poll until the status is complete or failed.
func (s *server) newDeleteBody(id, room string, state journal.State, details tasks.DeleteStatus, reason string) deleteBody {
	body := deleteBody{ID: id, Room: room, Shutdown: details.Shutdown, Report: details.Report}
	switch state {
	case journal.Complete:
		body.Status = "complete"
	case journal.Failed:
		body.Status, body.Error = "failed", reason
	case journal.Cancelled:
		body.Status, body.Error = "failed", "cancelled"
	default:
		// A delete that has begun is active while it waits for a worker, too.
		body.Status, body.Phase = "active", details.Phase
		if details.Phase == "" && state != journal.Running {
			body.Status = "scheduled"
		}
		if s.options.SeedDialect {
			body.Status = "purging" // also before the first phase
			if details.Phase != "" {
				body.Status = details.Phase
			}
		}
	}
	return body
}

// taskDeleteBody is newDeleteBody for a delete in Synapse's own queue.
func (s *server) taskDeleteBody(task scheduledtasks.Task) deleteBody {
	state, reason := stateOf(task)
	var details tasks.DeleteStatus
	// A result that cannot be read is as good as none.
	_ = json.Unmarshal(task.Result, &details.Shutdown)
	details.Shutdown = details.Shutdown.WithLists()
	room := ""
	if task.Resource != nil {
		room = *task.Resource
	}
	return s.newDeleteBody(task.ID, room, state, details, reason)
}

// deleteStatus is GET …/v2/rooms/delete_status/{delete_id}.
func (s *server) deleteStatus(c echo.Context, _ string) error {
	id, ctx := wire.Segment(c, "delete_id"), c.Request().Context()
	status, err := s.jobs.Status(ctx, jobs.DeleteRoom, id)
	if errors.Is(err, jobs.ErrNotFound) {
		var task scheduledtasks.Task
		if task, err = s.homeserverTask(ctx, id, deletingActions...); err == nil {
			return wire.AnswerOK(c, s.taskDeleteBody(task), nil)
		}
	}
	if err != nil {
		return wire.Instead(err, jobs.ErrNotFound, wire.NotFound("delete id '"+id+"' not found"))
	}
	details, err := tasks.DeleteStatusOf([]byte(status.Progress))
	if err != nil {
		return err
	}
	body := s.newDeleteBody(id, status.Room, status.State, details, status.Error)
	if !status.State.Ended() {
		body.WaitsFor = s.waitsFor(ctx, status)
	}
	body.Held, err = s.holdReason(ctx, status.Room, status.State)
	return wire.AnswerOK(c, body, err)
}

// deletesOfRoom is GET …/v2/rooms/{room_id}/delete_status.
func (s *server) deletesOfRoom(c echo.Context, _ string) error {
	room, err := wire.ReadRoomID(c)
	if err != nil {
		return err
	}
	ctx := c.Request().Context()
	deletes, err := s.journal.ListJobs(ctx, journal.JobList{
		Kinds: []journal.Kind{jobs.DeleteRoom, journal.ListedPurge}, States: journal.States(), Room: &room,
		EndedWithin: s.options.StatusTTL, Limit: maxTasks,
	})
	if err != nil {
		return err
	}
	others, err := s.homeserverTasks.List(ctx, scheduledtasks.Filter{
		// A scheduled one is a delete that Synapse plans for a forgotten room.
		Actions: deletingActions, Statuses: []string{"active", "complete", "failed"},
		Resource: &room, Limit: maxTasks,
	})
	if err != nil {
		return err
	}
	if len(deletes)+len(others) == 0 {
		return wire.NotFound(fmt.Sprintf("No delete task for room_id '%s' found", room))
	}
	results := make([]deleteBody, 0, len(deletes)+len(others))
	for _, job := range deletes {
		for len(others) > 0 && others[0].ChangedTS < job.ChangedTS {
			results, others = append(results, s.taskDeleteBody(others[0])), others[1:]
		}
		details := tasks.DeleteStatus{Phase: job.Phase}
		if job.Result != nil {
			// What was left is in the same object as the result of the shutdown.
			var left struct{ *leftover.Report }
			if err := errors.Join(json.Unmarshal(job.Result, &details.Shutdown), json.Unmarshal(job.Result, &left)); err != nil {
				return fmt.Errorf("decode the result of job %s: %w", job.ID, err)
			}
			details.Report = left.Report
		}
		details.Shutdown = details.Shutdown.WithLists()
		reason := ""
		if job.Error != nil {
			reason = *job.Error
		}
		body := s.newDeleteBody(job.ID, job.Room, job.State, details, reason)
		body.WaitsFor = job.WaitsFor
		if body.Held, err = s.holdReason(ctx, job.Room, job.State); err != nil {
			return err
		}
		results = append(results, body)
	}
	for _, task := range others {
		results = append(results, s.taskDeleteBody(task))
	}
	return wire.AnswerOK(c, map[string][]deleteBody{"results": results}, nil)
}
