package control_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/jobs"
	"lethe/internal/schema"
	"lethe/internal/store/control"
	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
)

func TestMain(m *testing.M) { devstacktest.Main(m) }

const room = storetest.Room

// A lab has a Control with the rights of the api, and a Lab with those of all processes.
type lab struct {
	*storetest.Lab
	control *control.Control
	pauses  *journal.Pauses
}

func setup(t *testing.T) *lab {
	t.Helper()
	l := storetest.New(t)
	api := storetest.OnAs(t, l.URL, schema.API)
	return &lab{l, control.New(api.DB), journal.NewPauses(l.DB)}
}

// in makes a purge in a state, with a checkpoint, and returns its id.
func (l *lab) in(state journal.State, room string) string {
	l.T.Helper()
	id := jobs.NewID()
	l.Exec(`
		INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, state, checkpoint, started_at, heartbeat_at, ended_at, due_at, error)
		VALUES ($1, 'purge_history', $2, '{}', '@admin:x', $3,
		        CASE WHEN $3 = 'absorbed' THEN jsonb_build_object('absorbed_by', 'ABCDEFGHIJKLMNOP')
		             ELSE '{"phase": "events", "complete_below": 7, "events_deleted": 5, "events_kept": 2, "batches": 3}' END, now(),
		        CASE WHEN $3 = 'running' THEN now() END, CASE WHEN $3 IN ('complete', 'failed', 'cancelled') THEN now() END,
		        CASE WHEN $3 = 'scheduled' THEN now() + interval '1 hour' END, CASE WHEN $3 = 'failed' THEN 'why' END)`, id, room, string(state))
	return id
}

// do does a verb to one job.
func (l *lab) do(request control.Request, id string) control.Outcome {
	l.T.Helper()
	request.Who, request.Reason = "@op:x", "because"
	outcomes, err := l.control.Do(l.Ctx, request, control.Filter{IDs: []string{id}}, 1)
	require.NoError(l.T, err)
	require.Len(l.T, outcomes, 1)
	return outcomes[0]
}

// log returns the events of a job's log.
func (l *lab) log(id string) []control.Event {
	l.T.Helper()
	log, err := l.control.Log(l.Ctx, id)
	require.NoError(l.T, err)
	return log
}

// names returns what happened.
func names(log []control.Event) (names []string) {
	for _, e := range log {
		names = append(names, e.Event)
	}
	return names
}

// soon is a time that comes after the test.
func soon() time.Time { return time.Now().Add(time.Hour) }
