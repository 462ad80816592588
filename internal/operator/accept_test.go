package operator_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/operator"
	"lethe/internal/store/storetest"
)

func TestRefusedRequestsChangeNothing(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "a", 9, 0)
	l.Chain("!other:x", "b", 9, 100)
	before := l.Dump("lethe", "public")
	for _, c := range []struct {
		status           int
		text, path, body string
	}{
		{400, "Missing params", "/purges", `{"room_id":"!room:x"}`},
		{400, "exclude each other", "/purges", `{"room_id":"!room:x","before_event_id":"$a5","before_ts":5}`},
		{400, "wrong room", "/purges", `{"room_id":"!room:x","before_event_id":"$b5"}`},
		{404, "Could not find event", "/purges", `{"room_id":"!room:x","before_event_id":"$none"}`},
		{404, "Could not find event", "/purges", `{"room_id":"!room:x","before_event_id":"$\u0000"}`},
		{400, "wrong room", "/purges", `{"room_id":"!none:x","before_event_id":"$a5"}`},
		{400, "not a legal room ID", "/purges", `{"room_id":"room","before_event_id":"$a5"}`},
		{400, "not a legal room ID", "/purges", `{}`},
		{400, "Unix milliseconds", "/purges", `{"room_id":"!room:x","before_ts":-5}`},
		{400, "Unknown param", "/purges", `{"room_id":"!room:x","before":"$a5"}`},
		{400, "digest of a plan", "/purges", `{"room_id":"!room:x","before_event_id":"$a5","plan":"soup"}`},
		{400, "only for a job with a plan", "/purges", `{"room_id":"!room:x","before_event_id":"$a5","tolerance":5}`},
		{400, "negative", "/purges", `{"room_id":"!room:x","before_event_id":"$a5","plan":"x","tolerance":-5}`},
		{400, "not a legal room ID", "/deletes", `{"room_id":"x"}`},
		{400, "User must be our own", "/deletes", `{"room_id":"!room:x","new_room_user_id":"@a:far"}`},
		{400, "zero byte", "/deletes", `{"room_id":"!room:x","message":"\u0000"}`},
		{404, "The database knows no room !typo:x", "/deletes", `{"room_id":"!typo:x"}`},
		{404, "The database knows no room !typo:x", "/purges", `{"room_id":"!typo:x","before_ts":5000000000000}`},
		{404, "The database knows no room !typo:x", "/plans", `{"kind":"delete_room","room_id":"!typo:x"}`},
		{400, "must be one of", "/sweeps", `{"kind":"purge_history"}`},
		{400, "no job of that kind", "/sweeps", `{"kind":"retention_sweep"}`},
		{400, "must be one of", "/plans", `{"kind":"x"}`},
		{400, "not for a sweep", "/plans", `{"kind":"retention_sweep","room_id":"!room:x"}`},
		{400, "are for a purge", "/plans", `{"kind":"delete_room","room_id":"!room:x","before_ts":5}`},
	} {
		l.refused(c.status, c.text, "POST", c.path, c.body)
	}
	require.Equal(t, before, l.Dump("lethe", "public"))

	get[operator.Hold](l, "PUT", "/holds/"+room, `{"reason":"case 7"}`)
	l.refused(403, "is held, and nothing of it may be deleted: case 7", "POST", "/purges", `{"room_id":"!room:x","before_event_id":"$a5"}`)
	l.refused(403, "is held", "POST", "/deletes", `{"room_id":"!room:x"}`)
	require.Zero(t, storetest.One[int](l.Lab, `SELECT count(*) FROM lethe.jobs`))
}

func TestPlanThatHasDrifted(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "a", 9, 0)
	type digest struct {
		Digest string `json:"digest"`
	}
	planned := get[digest](l, "POST", "/plans", `{"kind":"purge_history","room_id":"!room:x","before_event_id":"$a8","delete_local_events":true}`)
	l.Exec(`INSERT INTO events (event_id, room_id, type, topological_ordering, depth, stream_ordering, processed, outlier, sender)
		VALUES ('$late', $1, 't', 3, 3, 1000, true, false, '@zoe:far')`, room)
	body := func(more string) string {
		return `{"room_id":"!room:x","before_event_id":"$a8","delete_local_events":true,"plan":"` + planned.Digest + `"` + more + `}`
	}
	l.refused(409, "", "POST", "/purges", body(""))
	require.NotEmpty(t, get[operator.Accepted](l, "POST", "/purges", body(`,"tolerance":1`)).ID)
	require.JSONEq(t, `{"digest":"`+planned.Digest+`","tolerance":1}`, storetest.One[string](l.Lab, `SELECT plan::text FROM lethe.jobs`),
		"workers compare with it once more")
	l.refused(409, "The plan is not of this job", "POST", "/purges",
		`{"room_id":"!room:x","before_event_id":"$a8","plan":"`+planned.Digest+`"}`)
}

// A database with tables that Lethe does not know is refused as jobs refuse it.
func TestUnknownTable(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "a", 9, 0)
	l.Exec(`CREATE TABLE future_secrets (room_id text NOT NULL, event_id text NOT NULL)`)
	const text = "Lethe does not know the column future_secrets.event_id"
	l.refused(409, text, "POST", "/plans", `{"kind":"purge_history","room_id":"!room:x","before_event_id":"$a5"}`)
	l.refused(409, text, "POST", "/plans", `{"kind":"delete_room","room_id":"!room:x"}`)
	l.refused(409, text, "GET", "/rooms/"+room, "")
}

// Only to block it is a reason to delete a room that the database does not know.
func TestDeleteOfAnUnknownRoom(t *testing.T) {
	t.Parallel()
	l := setup(t)
	accepted := get[operator.Accepted](l, "POST", "/deletes", `{"room_id":"!typo:x","block":true}`)
	require.Equal(t, []string{"The database knows no room !typo:x: the delete only blocks it"}, accepted.Warnings)
	// Each of these is a trace of a room.
	l.Exec(`INSERT INTO rooms (room_id, is_public) VALUES ('!row:x', false)`)
	l.Exec(`INSERT INTO local_current_membership (room_id, user_id, event_id, membership) VALUES ('!invite:x', '@user:x', '$i', 'invite')`)
	l.Chain("!event:x", "e", 1, 0)
	l.Exec(`DELETE FROM rooms WHERE room_id = '!event:x'`)
	for _, room := range []string{"!row:x", "!invite:x", "!event:x"} {
		require.Empty(t, get[operator.Accepted](l, "POST", "/deletes", `{"room_id":"`+room+`"}`).Warnings, room)
	}
}

// A new room has a name and a message, whatever the request leaves out.
func TestDeleteWithANewRoom(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "a", 9, 0)
	get[operator.Accepted](l, "POST", "/deletes", `{"room_id":"!room:x","new_room_user_id":"@user:x","message":"gone"}`)
	require.JSONEq(t, `{"block":false,"purge":true,"force_purge":false,"new_room_user_id":"@user:x",
		"new_room_name":"Content Violation Notification","message":"gone"}`, storetest.One[string](l.Lab, `SELECT parameters FROM lethe.jobs`))
}

func TestDeleteIsAcceptedOnce(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "a", 9, 0)
	require.Equal(t, "queued", get[operator.Accepted](l, "POST", "/deletes", `{"room_id":"!room:x","block":true}`).State)
	l.refused(409, "has a delete already", "POST", "/deletes", `{"room_id":"!room:x"}`)
	require.JSONEq(t, `{"block":true,"purge":true,"force_purge":false}`, storetest.One[string](l.Lab, `SELECT parameters FROM lethe.jobs`))
}

func TestSweepTakesNoPlan(t *testing.T) {
	t.Parallel()
	l := setupWith(t, operator.Options{RetentionJobs: []string{"nightly"}})
	l.refused(400, "A sweep takes no plan", "POST", "/sweeps", `{"kind":"retention_sweep","plan":"x"}`)
	require.Zero(t, storetest.One[int](l.Lab, `SELECT count(*) FROM lethe.jobs`))
	get[operator.Accepted](l, "POST", "/sweeps", `{"kind":"retention_sweep"}`)
}

func TestRoomThatSynapseItselfDeletes(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "a", 9, 0)
	l.Exec(`CREATE TABLE scheduled_tasks (
		id text PRIMARY KEY, action text NOT NULL, status text NOT NULL, timestamp bigint NOT NULL, resource_id text,
		params text, result text, error text)`)
	l.Exec(`GRANT SELECT ON scheduled_tasks TO PUBLIC`)
	l.Exec(`INSERT INTO scheduled_tasks (id, action, status, timestamp, resource_id)
		VALUES ('TASK', 'shutdown_and_purge_room', 'active', extract(epoch FROM now()) * 1000, $1)`, room)
	const text = "Synapse itself has a task for the room: shutdown_and_purge_room TASK"
	l.refused(409, text, "POST", "/purges", `{"room_id":"!room:x","before_event_id":"$a5"}`)
	l.refused(409, text, "POST", "/deletes", `{"room_id":"!room:x"}`)
	require.Zero(t, storetest.One[int](l.Lab, `SELECT count(*) FROM lethe.jobs`))
}
