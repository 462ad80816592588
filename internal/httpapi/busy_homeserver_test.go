package httpapi_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/httpapi"
)

// queueOfHomeserver is Synapse's own queue, with a task of each kind and status that matters.
const queueOfHomeserver = `
	CREATE TABLE public.scheduled_tasks (id text, action text, status text, timestamp bigint, resource_id text, params text, result text, error text);
	INSERT INTO scheduled_tasks (id, action, status, timestamp, resource_id, result) VALUES
		('ActiveDelete', 'shutdown_and_purge_room', 'active',    1, '!active:x', '{"kicked_users":["@a:x"]}'),
		('DuePurge',     'purge_room',              'scheduled', 2, '!due:x',    NULL),
		('LaterPurge',   'purge_room',              'scheduled', 253402300800000, '!later:x', NULL),
		('PastDelete',   'shutdown_and_purge_room', 'complete',  4, '!past:x',   NULL),
		('History',      'purge_history',           'active',    5, '!history:x', NULL);
	INSERT INTO rooms (room_id) VALUES ('!active:x'), ('!due:x'), ('!later:x'), ('!past:x'), ('!history:x');
	INSERT INTO events (event_id, room_id, type, topological_ordering, depth, stream_ordering, processed, outlier, received_ts)
	SELECT '$' || room_id, room_id, 't', 1, 1, 100 + row_number() OVER (), true, false, 10000 FROM rooms;
	INSERT INTO event_json (event_id, room_id, internal_metadata, json)
	SELECT event_id, room_id, '{}', '{}' FROM events WHERE stream_ordering > 100`

// While Synapse deletes a room, or is about to, Lethe begins nothing there.
func TestRoomsThatTheHomeserverIsDeleting(t *testing.T) {
	t.Parallel()
	for _, seed := range []bool{false, true} {
		b := setupDeletes(t, httpapi.Options{SeedDialect: seed})
		b.requireExec(t, queueOfHomeserver)
		words := map[bool]string{false: "Purge", true: "History purge"}[seed] + " already in progress for "
		for room, refused := range map[string]bool{
			"!active:x": true, "!due:x": true, "!later:x": false, "!past:x": false, "!history:x": seed,
		} {
			purge := "/_synapse/admin/v1/purge_history/" + room
			for _, request := range [][3]string{
				{"DELETE", roomsV1 + room, "{}"},
				{"DELETE", roomsV2 + room, "{}"},
				{"POST", purge, `{"purge_up_to_ts":20000}`},
				{"POST", purge + "/$" + room, ""},
			} {
				r := b.send(t, request[0], request[1], request[2])
				if refused {
					requireJSON(t, r, 400, refusal("M_UNKNOWN", words+room))
				} else {
					require.Equal(t, 200, r.status, "%s: %s", request, r.body)
				}
			}
			require.Len(t, b.tasks.takenDeletes(), map[bool]int{false: 2, true: 0}[refused], room)
			require.Len(t, b.tasks.taken(), map[bool]int{false: 2, true: 0}[refused], room)
		}
		// The order of checks is Synapse's: what is wrong with the request comes first, but
		// for the creator of the new room.
		requireJSON(t, b.send(t, "DELETE", roomsV2+"!due:x", `{"block":1}`), 400,
			refusal("M_BAD_JSON", "Param 'block' must be a boolean, if given"))
		requireJSON(t, b.send(t, "DELETE", roomsV2+"!due:x", `{"new_room_user_id":"@a:far"}`), 400, refusal("M_UNKNOWN", words+"!due:x"))
		requireJSON(t, b.send(t, "POST", "/_synapse/admin/v1/purge_history/!due:x/$unknown", ""), 404,
			refusal("M_NOT_FOUND", "Could not find event $unknown"))

		// The room is free as soon as Synapse is done.
		b.requireExec(t, `UPDATE scheduled_tasks SET status = 'complete' WHERE resource_id = '!due:x'`)
		require.Equal(t, 200, b.send(t, "DELETE", roomsV2+"!due:x", "{}").status)
	}
}

// Admin tools see the tasks of both, whichever answers.
func TestTasksOfBothAreSeen(t *testing.T) {
	t.Parallel()
	b := setupDeletes(t, httpapi.Options{})
	b.requireExec(t, queueOfHomeserver)
	b.requireExec(t, `
		INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester) VALUES
			('OursOursOursOurs', 'delete_room', '!active:x', '{}', '@admin:x')`)
	const shutdown = `{"kicked_users":["@a:x"],"failed_to_kick_users":[],"local_aliases":[],"new_room_id":null}`
	active := `{"delete_id":"ActiveDelete","room_id":"!active:x","status":"active","shutdown_room":` + shutdown + `}`
	requireJSON(t, b.send(t, "GET", roomsV2+"delete_status/ActiveDelete", ""), 200, active)
	requireJSON(t, b.send(t, "GET", roomsV2+"!active:x/delete_status", ""), 200, `{"results":[`+active+`,
		{"delete_id":"OursOursOursOurs","room_id":"!active:x","status":"scheduled","shutdown_room":`+noShutdown+`}]}`)
	requireJSON(t, b.send(t, "GET", "/_synapse/admin/v1/purge_history_status/History", ""), 200, `{"status":"active"}`)

	r := b.send(t, "GET", scheduledTasks, "")
	require.Equal(t, 200, r.status)
	for _, id := range []string{"ActiveDelete", "DuePurge", "LaterPurge", "PastDelete", "History", "OursOursOursOurs", "BusyBusyBusyBusy"} {
		require.Contains(t, r.body, `"id":"`+id+`"`)
	}
}
