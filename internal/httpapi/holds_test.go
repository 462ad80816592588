package httpapi_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/httpapi"
	"lethe/internal/jobs"
	"lethe/internal/store/journal"
)

func TestHeldRoomIsNotDeleted(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{ServerName: "x"})
	b.requireExec(t, `INSERT INTO lethe.holds (room_id, reason, placed_by) VALUES ('!room:x', 'case 7', '@a:x')`)
	held := refusal("M_FORBIDDEN", "The room !room:x is held, and nothing of it may be deleted: case 7")
	requireJSON(t, b.send(t, "POST", room+"/$one", ""), 403, held)
	requireJSON(t, b.send(t, "DELETE", roomsV2+"!room:x", `{}`), 403, held)
	requireJSON(t, b.send(t, "DELETE", roomsV2+"!room:x", `{"purge":false}`), 403, held)
	requireJSON(t, b.send(t, "DELETE", roomsV1+"!room:x", `{}`), 403, held)
	requireJSON(t, b.send(t, "DELETE", roomsV1+"!room:x/forward_extremities", ``), 403, held)
	require.Empty(t, b.tasks.taken())
	require.Empty(t, b.tasks.takenDeletes())
	// What is wrong with the request itself comes first, and other rooms are free.
	requireJSON(t, b.send(t, "POST", room+"/$other", ""), 400, refusal("M_UNKNOWN", "Event is for wrong room."))
	require.Equal(t, 200, b.send(t, "DELETE", roomsV2+"!other:x", `{}`).status)

	b.requireExec(t, `UPDATE lethe.holds SET released_by = '@a:x', released_at = now()`)
	require.Equal(t, 200, b.send(t, "POST", room+"/$one", "").status)
	require.Equal(t, 200, b.send(t, "DELETE", roomsV2+"!room:x", `{}`).status)
}

// A job that waits for the end of a hold is under way for those who poll, and says
// why it waits.
func TestHeldJobSaysWhy(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{})
	b.requireExec(t, `INSERT INTO lethe.holds (room_id, reason, placed_by) VALUES ('!room:x', 'case 7', '@a:x')`)
	b.jobs["purge"] = jobs.Status{State: journal.Held, Room: "!room:x"}
	requireJSON(t, b.send(t, "GET", status+"purge", ""), 200, `{"status":"active","held":"case 7"}`)
	b.jobs["purge"] = jobs.Status{State: journal.Held, Room: "!released:x"}
	requireJSON(t, b.send(t, "GET", status+"purge", ""), 200, `{"status":"active"}`)

	const lists = `"shutdown_room":{"kicked_users":[],"failed_to_kick_users":[],"local_aliases":[],"new_room_id":null}`
	begun := `{"delete_id":"HeldDeleteOfRoom","room_id":"!room:x","status":"active","phase":"purging","held":"case 7",` + lists + `}`
	b.jobs["HeldDeleteOfRoom"] = jobs.Status{
		Kind: jobs.DeleteRoom, Room: "!room:x", State: journal.Held, Progress: `{"phase":"purging"}`,
	}
	requireJSON(t, b.send(t, "GET", roomsV2+"delete_status/HeldDeleteOfRoom", ""), 200, begun)
	b.requireExec(t, `
		INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, state, checkpoint, updated_at)
		VALUES ('HeldDeleteOfRoom', 'delete_room', '!room:x', '{}', '@admin:x', 'held', '{"phase":"purging"}', $1)`,
		time.UnixMilli(5000))
	requireJSON(t, b.send(t, "GET", roomsV2+"!room:x/delete_status", ""), 200, `{"results":[`+begun+`]}`)

	task := `{"scheduled_tasks":[{"id":"HeldDeleteOfRoom","action":"shutdown_and_purge_room","status":"scheduled",
		"timestamp_ms":5000,"resource_id":"!room:x","result":null,"error":null}]}`
	const tasks = "/_synapse/admin/v1/scheduled_tasks"
	requireJSON(t, b.send(t, "GET", tasks, ""), 200, task)
	requireJSON(t, b.send(t, "GET", tasks+"?status=scheduled", ""), 200, task)
	requireJSON(t, b.send(t, "GET", tasks+"?status=active", ""), 200, `{"scheduled_tasks":[]}`)
}

// A purge that another one has absorbed waits with it.
func TestAbsorbedPurgeIsShown(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{})
	b.requireExec(t, `INSERT INTO lethe.holds (room_id, reason, placed_by) VALUES ('!room:x', 'case 7', '@a:x')`)
	b.jobs["purge"] = jobs.Status{State: journal.Absorbed, Room: "!room:x", Progress: `{"absorbed_by":"other"}`}
	requireJSON(t, b.send(t, "GET", status+"purge", ""), 200, `{"status":"active","held":"case 7","absorbed_by":"other"}`)
	b.requireExec(t, `
		INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, state, checkpoint, updated_at)
		VALUES ('AbsorbedAbsorbed', 'purge_history', '!room:x', '{}', '@admin:x', 'absorbed', '{"absorbed_by":"OtherOtherOtherO"}', $1)`,
		time.UnixMilli(5000))
	const tasks = "/_synapse/admin/v1/scheduled_tasks"
	requireJSON(t, b.send(t, "GET", tasks+"?status=scheduled", ""), 200, `{"scheduled_tasks":[{"id":"AbsorbedAbsorbed",
		"action":"purge_history","status":"scheduled","timestamp_ms":5000,"resource_id":"!room:x","result":null,"error":null}]}`)
}

// Who waits for a delete is told when it is held, and is not left to wait.
func TestSynchronousDeleteThatIsHeldMeanwhile(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{ServerName: "x"})
	b.jobs[submittedDelete] = jobs.Status{Kind: jobs.DeleteRoom, Room: "!room:x", State: journal.Held}
	requireJSON(t, b.send(t, "DELETE", roomsV1+"!room:x", `{}`), 403,
		refusal("M_FORBIDDEN", "The delete waits, since the room was held meanwhile: its status is that of delete_id "+submittedDelete))
}

// A delete that a sweep for abandoned rooms has made is what Synapse calls purge_room.
func TestDeleteOfAnAbandonedRoomIsAPurgeRoom(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{})
	b.requireExec(t, `
		INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, updated_at)
		VALUES ('DeleteAbandonedA', 'delete_room', '!room:x', '{"purge": true, "abandoned": true}', 'retention', $1)`, time.UnixMilli(5000))
	task := `{"scheduled_tasks":[{"id":"DeleteAbandonedA","action":"purge_room","status":"scheduled",
		"timestamp_ms":5000,"resource_id":"!room:x","result":null,"error":null}]}`
	const tasks = "/_synapse/admin/v1/scheduled_tasks"
	requireJSON(t, b.send(t, "GET", tasks, ""), 200, task)
	requireJSON(t, b.send(t, "GET", tasks+"?action_name=purge_room", ""), 200, task)
	requireJSON(t, b.send(t, "GET", tasks+"?action_name=shutdown_and_purge_room", ""), 200, `{"scheduled_tasks":[]}`)
	require.Contains(t, b.send(t, "GET", roomsV2+"!room:x/delete_status", "").body, `"delete_id":"DeleteAbandonedA"`)
	requireJSON(t, b.send(t, "DELETE", roomsV2+"!room:x", `{}`), 400, refusal("M_UNKNOWN", "Purge already in progress for !room:x"))
}
