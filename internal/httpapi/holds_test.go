package httpapi_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/httpapi"
	"lethe/internal/jobs"
	"lethe/internal/store/journal"
)

const holds = "/_lethe/v1/holds"

func TestHolds(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{})
	const path = holds + "/!room:x"
	none := refusal("M_NOT_FOUND", "The room !room:x is not held")
	requireJSON(t, b.send(t, "GET", path, ""), 404, none)
	requireJSON(t, b.send(t, "DELETE", path, ""), 404, none)
	requireJSON(t, b.send(t, "GET", holds, ""), 200, `{"holds":[]}`)

	r := b.send(t, "PUT", path, `{"reason":"case 7"}`)
	require.Equal(t, 200, r.status, r.body)
	require.Contains(t, r.body, `"room_id":"!room:x","reason":"case 7","placed_by":"@admin:x","placed_at":`)
	require.NotContains(t, r.body, "released")
	placed := r.body
	requireJSON(t, b.send(t, "PUT", path, `{"reason":"case 7"}`), 200, placed)
	requireJSON(t, b.send(t, "PUT", path, `{"reason":"case 8"}`), 409,
		refusal("M_UNKNOWN", "The room is held for another reason: case 7"))
	requireJSON(t, b.send(t, "GET", path, ""), 200, placed)
	requireJSON(t, b.send(t, "GET", holds, ""), 200, `{"holds":[`+placed+`]}`)

	r = b.send(t, "DELETE", path, "")
	require.Equal(t, 200, r.status, r.body)
	require.Contains(t, r.body, `"released_by":"@admin:x","released_at":`)
	requireJSON(t, b.send(t, "DELETE", path, ""), 404, none)
	requireJSON(t, b.send(t, "GET", holds, ""), 200, `{"holds":[]}`)
	requireJSON(t, b.send(t, "GET", holds+"?released=true", ""), 200, `{"holds":[`+r.body+`]}`)
}

func TestHoldRefusals(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{})
	const missing, bad = "Missing params: ['reason']", "Param 'reason' must be a string of 1 to 1000 characters"
	for body, want := range map[string]string{
		"": refusal("M_NOT_JSON", "Content not JSON."), "[]": refusal("M_BAD_JSON", "Content must be a JSON object."),
		"{}": refusal("M_MISSING_PARAM", missing), `{"reason":null}`: refusal("M_BAD_JSON", bad),
		`{"reason":""}`: refusal("M_BAD_JSON", bad), `{"reason":7}`: refusal("M_BAD_JSON", bad),
		`{"reason":"` + strings.Repeat("ü", 1001) + `"}`: refusal("M_BAD_JSON", bad),
	} {
		requireJSON(t, b.send(t, "PUT", holds+"/!room:x", body), 400, want)
	}
	for _, method := range []string{"GET", "PUT", "DELETE"} {
		requireJSON(t, b.send(t, method, holds+"/room", `{"reason":"r"}`), 400, refusal("M_UNKNOWN", "room is not a legal room ID"))
		for _, path := range []string{holds, holds + "/!room:x"} {
			if method == "GET" || path != holds {
				r := b.raw(t, method+" "+path+" HTTP/1.1\nHost: x\nAuthorization: Bearer user\nContent-Length: 0\n\n")
				requireJSON(t, r, 403, refusal("M_FORBIDDEN", "You are not a server admin"))
			}
		}
	}
	requireJSON(t, b.send(t, "GET", holds+"?released=soup", ""), 400,
		refusal("M_INVALID_PARAM", "Boolean query parameter 'released' must be one of ['true', 'false']"))
	require.Equal(t, 200, b.send(t, "PUT", holds+"/!room:x", `{"reason":"`+strings.Repeat("ü", 1000)+`"}`).status)
}

func TestHeldRoomIsNotDeleted(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{ServerName: "x"})
	require.Equal(t, 200, b.send(t, "PUT", holds+"/!room:x", `{"reason":"case 7"}`).status)
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

	require.Equal(t, 200, b.send(t, "DELETE", holds+"/!room:x", "").status)
	require.Equal(t, 200, b.send(t, "POST", room+"/$one", "").status)
	require.Equal(t, 200, b.send(t, "DELETE", roomsV2+"!room:x", `{}`).status)
}

// A job that waits for the end of a hold is under way for those who poll, and says
// why it waits.
func TestHeldJobSaysWhy(t *testing.T) {
	t.Parallel()
	b := setup(t, httpapi.Options{})
	require.Equal(t, 200, b.send(t, "PUT", holds+"/!room:x", `{"reason":"case 7"}`).status)
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
	require.Equal(t, 200, b.send(t, "PUT", holds+"/!room:x", `{"reason":"case 7"}`).status)
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
