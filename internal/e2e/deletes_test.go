package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
)

// withKey tells a worker the signing key of the corpus's homeserver.
func withKey(t *testing.T) string {
	t.Helper()
	return "LETHE_SIGNING_KEY_FILE=" + devstacktest.Shared(t, "fixtures", "signing.key")
}

// delete submits a delete, and returns its id.
func (f *fleet) delete(room string, body any) string {
	f.t.Helper()
	code, answer := f.ask(http.MethodDelete, "/_synapse/admin/v2/rooms/"+url.PathEscape(room), body)
	require.Equal(f.t, http.StatusOK, code, "%v", answer)
	return answer["delete_id"].(string)
}

// deleteStatus returns what the api says of a delete.
func (f *fleet) deleteStatus(id string) map[string]any {
	f.t.Helper()
	code, answer := f.ask(http.MethodGet, "/_synapse/admin/v2/rooms/delete_status/"+id, nil)
	require.Equal(f.t, http.StatusOK, code, "%v", answer)
	return answer
}

// awaitDelete waits for a delete's end, and returns its status.
func (f *fleet) awaitDelete(within time.Duration, id string) map[string]any {
	f.t.Helper()
	var status map[string]any
	f.eventually(within, func() bool {
		status = f.deleteStatus(id)
		return status["status"] == "complete" || status["status"] == "failed"
	}, "delete %s has not ended", id)
	return status
}

// deleteAll does the deletes that Synapse did, and holds their results against
// Synapse's. It returns those that purged the room.
func (f *fleet) deleteAll(deletes []operation, within time.Duration, disturb func()) (purged []operation) {
	f.t.Helper()
	ids := make([]string, len(deletes))
	for i, op := range deletes {
		ids[i] = f.delete(op.Room, op.Request)
	}
	disturb()
	for i, op := range deletes {
		status := f.awaitDelete(within, ids[i])
		require.Equal(f.t, "complete", status["status"], "%v", status)
		require.Equal(f.t, op.Room, status["room_id"])
		got, want := status["shutdown_room"].(map[string]any), op.Final.Shutdown
		require.ElementsMatch(f.t, want.KickedUsers, got["kicked_users"], op.Room)
		require.Empty(f.t, got["failed_to_kick_users"])
		require.ElementsMatch(f.t, want.LocalAliases, got["local_aliases"], op.Room)
		if want.NewRoomID == nil {
			require.Nil(f.t, got["new_room_id"])
		} else {
			newRoom := got["new_room_id"].(string)
			require.Equal(f.t, want.LocalAliases, query[[]string](f, `
				SELECT array_agg(room_alias ORDER BY room_alias) FROM room_aliases WHERE room_id = $1`, newRoom))
			require.Equal(f.t, 1, query[int](f, `SELECT count(DISTINCT room_id) FROM room_memberships WHERE room_id = $1`, newRoom))
			require.Equal(f.t, 1, query[int](f, `
				SELECT count(*) FROM event_json j JOIN events e USING (event_id)
				WHERE e.room_id = $1 AND e.type = 'm.room.message'
				  AND j.json::jsonb -> 'content' ->> 'body' = $2`, newRoom, op.Request["message"]))
		}
		if op.Request["purge"] != false {
			purged = append(purged, op)
		}
	}
	require.Equal(f.t, 1, query[int](f, `SELECT count(*) FROM rooms r JOIN room_aliases a USING (room_id) WHERE room_alias LIKE '#lobby-%'`))
	return purged
}

// leftovers counts, for each table, the rows that are left of the rooms, and of
// events that are not there.
func (f *fleet) leftovers(purged []operation) map[string]int {
	f.t.Helper()
	var rooms []string
	for _, op := range purged {
		rooms = append(rooms, op.Room)
	}
	counts := map[string]int{}
	for column, condition := range map[string]string{
		"room_id":  `room_id = ANY ($1)`,
		"event_id": `cardinality($1::text[]) > 0 AND NOT EXISTS (SELECT FROM events e WHERE e.event_id = t.event_id)`,
	} {
		tables := query[[]string](f, `
			SELECT array_agg(table_name::text) FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name)
			WHERE table_schema = 'public' AND table_type = 'BASE TABLE' AND column_name = $1`, column)
		require.Greater(f.t, len(tables), 20)
		for _, table := range tables {
			counts[table+"."+column] = query[int](f, `
				SELECT count(*) FROM `+pgx.Identifier{table}.Sanitize()+` t WHERE `+condition, rooms)
		}
	}
	return counts
}

// deleted is what deletes leave when nothing disturbs them, and what compare.py
// says of it. [TestDeletesAsSynapseDoes] has it that this is what Synapse leaves;
// other runs are held against it.
var deleted struct {
	sync.Mutex
	leftovers map[string]int
	rooms     int
	said      string
}

func referenceLeftovers(t *testing.T) (leftovers map[string]int, rooms int, said string) {
	t.Helper()
	deleted.Lock()
	defer deleted.Unlock()
	if deleted.leftovers == nil {
		f, purged := deletedCorpus(t)
		leftovers := f.leftovers(purged)
		require.Zero(t, leftovers["events.room_id"])
		deleted.rooms, deleted.said = len(purged), f.compare(purged)
		deleted.leftovers = leftovers
	}
	return deleted.leftovers, deleted.rooms, deleted.said
}

// deletedCorpus is the corpus after its deletes, which nothing disturbed.
func deletedCorpus(t *testing.T) (f *fleet, purged []operation) {
	t.Helper()
	f, deletes := corpus(t, "delete")
	require.Len(t, deletes, 4)
	worker := f.start("worker", withKey(t))
	purged = f.deleteAll(deletes, time.Minute, func() {})
	worker.kill()
	return f, purged
}

func TestDeletesAsSynapseDoes(t *testing.T) {
	t.Parallel()
	_, rooms, said := referenceLeftovers(t)
	judged(t, rooms, said)
}

// TestDeletesAsSynapseDoesThroughKills kills the worker twice in each run,
// each time after a random number of batches.
func TestDeletesAsSynapseDoesThroughKills(t *testing.T) {
	t.Parallel()
	for run := range killRuns(t) {
		t.Run(fmt.Sprint(run), func(t *testing.T) {
			t.Parallel()
			f, deletes := corpus(t, "delete")
			f.start("scheduler")
			small := []string{"LETHE_WORKER_BATCH_EVENTS=20", withKey(t)}
			worker := f.start("worker", small...)
			purged := f.deleteAll(deletes, 3*time.Minute, func() {
				for range 2 {
					f.afterBatches(1 + rand.IntN(20))
					worker.kill()
					t.Logf("killed after %d batches", f.committed())
					worker = f.start("worker", small...)
				}
			})
			require.Positive(t, query[int](f, `SELECT count(*) FROM lethe.jobs WHERE generation > 1`), "no kill met a job")
			leftovers, _, _ := referenceLeftovers(t)
			require.Empty(t, cmp.Diff(leftovers, f.leftovers(purged)))
		})
	}
}

func TestDeletesOfARoomAreListedAndOneAtATime(t *testing.T) {
	t.Parallel()
	f, deletes := corpus(t, "delete")
	room := deletes[0].Room
	path := "/_synapse/admin/v2/rooms/" + url.PathEscape(room)
	code, answer := f.ask(http.MethodGet, path+"/delete_status", nil)
	require.Equal(t, http.StatusNotFound, code)
	require.Equal(t, "No delete task for room_id '"+room+"' found", answer["error"])

	id := f.delete(room, map[string]any{})
	require.Equal(t, "scheduled", f.deleteStatus(id)["status"])
	code, answer = f.ask(http.MethodDelete, path, map[string]any{"new_room_user_id": "@far:away"})
	require.Equal(t, http.StatusBadRequest, code)
	require.Equal(t, "Purge already in progress for "+room, answer["error"])
	history := f.purge(room, map[string]any{"purge_up_to_ts": time.Now().UnixMilli()})

	f.start("worker", withKey(t))
	status := f.awaitDelete(time.Minute, id)
	require.Equal(t, "complete", status["status"], "%v", status)
	f.eventually(time.Minute, func() bool { return f.status(history)["status"] != "active" }, "the history purge has not ended")
	second := f.delete(room, map[string]any{"block": true, "new_room_user_id": "@alice:lab.test"})
	status = f.awaitDelete(time.Minute, second)
	require.Equal(t, "complete", status["status"], "a room that is unknown by now: %v", status)
	require.Equal(t, map[string]any{
		"kicked_users": []any{}, "failed_to_kick_users": []any{}, "local_aliases": []any{}, "new_room_id": nil,
	}, status["shutdown_room"])
	code, answer = f.ask(http.MethodGet, path+"/delete_status", nil)
	require.Equal(t, http.StatusOK, code)
	var listed []string
	for _, result := range answer["results"].([]any) {
		listed = append(listed, result.(map[string]any)["delete_id"].(string))
	}
	require.Equal(t, []string{id, second}, listed)
	code, answer = f.ask(http.MethodGet, "/_synapse/admin/v1/rooms/"+url.PathEscape(room)+"/block", nil)
	require.Equal(t, http.StatusOK, code)
	require.Equal(t, true, answer["block"])
}

func TestSynchronousDeleteIsJoinedByTheSameCall(t *testing.T) {
	t.Parallel()
	f, deletes := corpus(t, "delete")
	i := slices.IndexFunc(deletes, func(op operation) bool { return op.Request["new_room_user_id"] != nil })
	op := deletes[i]
	path := "/_synapse/admin/v1/rooms/" + url.PathEscape(op.Room)
	type result struct {
		code   int
		answer map[string]any
	}
	results := make(chan result, 3)
	for range 3 {
		go func() {
			code, answer := f.ask(http.MethodDelete, path, op.Request)
			results <- result{code, answer}
		}()
	}
	f.eventually(time.Minute, func() bool { return query[int](f, `SELECT count(*) FROM lethe.jobs`) == 1 }, "no delete")
	f.start("worker", withKey(t))
	first := <-results
	require.Equal(t, http.StatusOK, first.code, "%v", first.answer)
	require.ElementsMatch(t, op.Final.Shutdown.KickedUsers, first.answer["kicked_users"])
	require.NotNil(t, first.answer["new_room_id"])
	for range 2 {
		require.Equal(t, first, <-results)
	}
	require.Equal(t, 1, query[int](f, `SELECT count(*) FROM lethe.jobs`))
}

func TestDeleteOfARoomWithMembersElsewhereNeedsTheSigningKey(t *testing.T) {
	t.Parallel()
	f, _ := corpus(t, "delete")
	f.start("worker")
	room := query[string](f, `
		SELECT room_id FROM current_state_events WHERE type = 'm.room.member' AND membership = 'join'
		GROUP BY room_id HAVING bool_or(state_key LIKE '%:lab.test') AND bool_or(state_key NOT LIKE '%:lab.test')
		ORDER BY room_id LIMIT 1`)
	id := f.delete(room, map[string]any{"purge": true})
	status := f.awaitDelete(time.Minute, id)
	require.Equal(t, "failed", status["status"])
	require.Contains(t, status["error"], "400: ")
	require.Contains(t, status["error"], "LETHE_SIGNING_KEY_FILE")
	require.Positive(t, query[int](f, `SELECT count(*) FROM events WHERE room_id = $1`, room), "nothing was purged")
}
