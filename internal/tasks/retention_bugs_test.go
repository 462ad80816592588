package tasks

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/jobs"
	"lethe/internal/retention"
	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
)

// These are bugs of Synapse's retention that Lethe must not have, each from a tick to
// what is left of the rooms.

// A cycle is a lab with a worker, and sweeps that come once a day.
type cycle struct {
	*lab
	days int
}

// setupCycle has one job, which is due each midnight, and no default policy.
func setupCycle(t *testing.T) *cycle {
	t.Helper()
	c := &cycle{lab: setup(t)}
	c.work(WorkerOptions{Retention: retention.Config{Enabled: true, Jobs: []retention.Job{{Name: "daily"}}}})
	return c
}

// tick lets the next tick come, and waits until all that it makes has ended.
func (c *cycle) tick() sweepResult {
	c.T.Helper()
	c.days++
	id, err := c.client.SubmitRetentionSweep(c.Ctx, RetentionSweep{
		Job: "daily", Tick: time.Date(2026, 3, 1+c.days, 0, 0, 0, 0, time.UTC),
	})
	require.NoError(c.T, err)
	return c.swept(id)
}

// replace makes another event the room's retention event of that state key; of the
// one before the row stays, as it does in Synapse. Nil is a content that says
// nothing, of which Synapse keeps no row.
func (c *cycle) replace(room, stateKey string, lifetime *int64) {
	c.T.Helper()
	c.Exec(`DELETE FROM current_state_events WHERE room_id = $1 AND type = 'm.room.retention' AND state_key = $2`, room, stateKey)
	event := "$" + jobs.NewID()
	c.Exec(`INSERT INTO current_state_events (event_id, room_id, type, state_key) VALUES ($1, $2, 'm.room.retention', $3)`,
		event, room, stateKey)
	if lifetime != nil {
		c.Exec(`INSERT INTO room_retention (room_id, event_id, max_lifetime) VALUES ($1, $2, $3)`, room, event, *lifetime)
	}
}

// R4: a retention event with a state key is no policy, whenever it came.
func TestStateKeysMakeNoPolicy(t *testing.T) {
	t.Parallel()
	c := setupCycle(t)
	rooms := []string{"!after:x", "!alone:x", "!before:x"}
	var events []aged
	for _, room := range rooms {
		events = append(events, steps(room, 9, 8, 7, 3, 2, 0)...)
	}
	c.arrive(events...)
	short, long := hour, 5*day
	c.replace("!after:x", "", &long)
	c.replace("!after:x", "@zoe:far", &short)
	c.replace("!alone:x", "default", &short)
	c.replace("!before:x", "@zoe:far", &short)
	c.replace("!before:x", "", &long)
	want := sweepResult{Rooms: 3, Enqueued: 2}
	want.Skipped.NoLimit = 1
	require.Equal(t, want, c.tick())
	require.Equal(t, []int64{3, 4, 5, 6}, c.depths("!after:x"))
	require.Equal(t, []int64{1, 2, 3, 4, 5, 6}, c.depths("!alone:x"))
	require.Equal(t, []int64{3, 4, 5, 6}, c.depths("!before:x"))
}

// R5: a policy that was cancelled, or lost in a state reset, has no effect any more,
// also for a process that has read it before. The first tick makes sure that all
// have.
func TestCancelledPolicyCountsNoMore(t *testing.T) {
	t.Parallel()
	c := setupCycle(t)
	rooms := []string{"!cancelled:x", "!kept:x", "!lost:x"}
	var events []aged
	for _, room := range rooms {
		events = append(events, steps(room, 9, 8, 7, 4, 3, 2, 0)...)
	}
	c.arrive(events...)
	lifetime := 8*day - hour
	for _, room := range rooms {
		c.replace(room, "", &lifetime)
	}
	require.EqualValues(t, 3, c.tick().Enqueued)
	for _, room := range rooms {
		require.Equal(t, []int64{2, 3, 4, 5, 6, 7}, c.depths(room), room)
	}
	// Time goes by: what is left of each room is a month older.
	c.Exec(`UPDATE events SET received_ts = received_ts - $1 WHERE stream_ordering < (SELECT max(stream_ordering) FROM events)`, 30*day)
	c.replace("!cancelled:x", "", nil)
	c.Exec(`DELETE FROM current_state_events WHERE room_id = '!lost:x' AND type = 'm.room.retention'`)
	want := sweepResult{Rooms: 3, Enqueued: 1}
	want.Skipped.NoLimit = 2
	require.Equal(t, want, c.tick())
	require.Equal(t, []int64{2, 3, 4, 5, 6, 7}, c.depths("!cancelled:x"))
	require.Equal(t, []int64{2, 3, 4, 5, 6, 7}, c.depths("!lost:x"))
	require.Less(t, len(c.depths("!kept:x")), 3, "the policy that is still there goes on")
}

// R7: a purge that fails says so, and why.
func TestPurgeOfASweepThatFailsSaysWhy(t *testing.T) {
	t.Parallel()
	c := setupCycle(t)
	c.arrive(steps(room, 9, 8, 7, 0)...)
	lifetime := day
	c.replace(room, "", &lifetime)
	c.failing("P0001", 0)
	require.EqualValues(t, 1, c.tick().Enqueued)
	id := storetest.All[string](c.Lab, `SELECT id FROM lethe.jobs WHERE kind = 'purge_history'`)[0]
	status := c.ends(id)
	require.Equal(t, journal.Failed, status.State)
	require.Contains(t, status.Error, "made to fail")
	require.Equal(t, journal.Failed, c.Job(id).State)
	require.Contains(t, c.Job(id).Error, "made to fail")
	require.Len(t, c.depths(room), 4)
}

// R8: a room's policy is deleted with the room. A new room with the same id does not
// have it.
func TestPolicyGoesWithItsRoom(t *testing.T) {
	t.Parallel()
	c := setupCycle(t)
	c.arrive(append(steps(room, 9, 8, 7, 0), steps("!other:x", 9, 8, 7, 0)...)...)
	lifetime := day
	c.replace(room, "", &lifetime)
	c.replace("!other:x", "", &lifetime)
	c.Exec(`CREATE SCHEMA aside`)
	c.Exec(`CREATE TABLE aside.mine AS SELECT * FROM events WHERE room_id = '!room:x'`)
	id := c.delete(room, nil)
	status, _ := c.deleteEnds(id)
	require.Equal(t, journal.Complete, status.State, c.reason(id))
	require.Equal(t, []string{"!other:x"}, storetest.All[string](c.Lab, `SELECT room_id FROM room_retention`))

	c.Exec(`DELETE FROM blocked_rooms`)
	c.Exec(`INSERT INTO rooms (room_id) VALUES ($1)`, room)
	c.Exec(`INSERT INTO events SELECT * FROM aside.mine`)
	c.Exec(`INSERT INTO event_forward_extremities (event_id, room_id) SELECT event_id, room_id FROM aside.mine ORDER BY depth DESC LIMIT 1`)
	c.Exec(`INSERT INTO current_state_events (event_id, room_id, type, state_key) VALUES ('$create', $1, 'm.room.create', '')`, room)
	want := sweepResult{Rooms: 2, Enqueued: 1}
	want.Skipped.NoLimit = 1
	require.Equal(t, want, c.tick())
	require.Equal(t, []int64{1, 2, 3, 4}, c.depths(room))
	require.Equal(t, []int64{3, 4}, c.depths("!other:x"))
}

// Rows of a hostile server or a broken database neither purge what must stay nor
// keep other rooms from being purged.
func TestSweepOfAbsurdRooms(t *testing.T) {
	t.Parallel()
	c := setupCycle(t)
	policies := map[string]int64{
		"!ages:x": math.MaxInt64, "!negative:x": math.MinInt64, "!zero:x": 0, "!plain:x": 5 * day, "!roomless:x": 5 * day, "!timeless:x": 5 * day,
	}
	var events []aged
	for room := range policies {
		events = append(events, steps(room, 9, 8, 7, 1, 0)...)
	}
	c.arrive(events...)
	for room, lifetime := range policies {
		c.replace(room, "", &lifetime)
	}
	c.Exec(`DELETE FROM rooms WHERE room_id = '!roomless:x'`)
	// Its time of arrival is unknown, so it arrived before all others.
	c.Exec(`UPDATE events SET received_ts = NULL WHERE room_id = '!timeless:x' AND depth < 3`)
	c.Exec(`INSERT INTO current_state_events (event_id, room_id, type, state_key) VALUES ('$nowhere', '!eventless:x', 'm.room.create', '')`)
	lifetime := hour
	c.replace("!eventless:x", "", &lifetime)
	result := c.tick()
	require.Empty(t, result.Failures)
	require.EqualValues(t, 7, result.Rooms)
	require.EqualValues(t, 5, result.Enqueued)
	require.EqualValues(t, 2, result.Skipped.NothingExpired)
	require.Empty(t, storetest.All[string](c.Lab, `SELECT room_id || ' ' || coalesce(error, state) FROM lethe.jobs WHERE state <> 'complete'`))
	require.Equal(t, []int64{1, 2, 3, 4, 5}, c.depths("!ages:x"))
	require.Equal(t, []int64{5}, c.depths("!negative:x"), "a room keeps its last event")
	require.Equal(t, []int64{5}, c.depths("!zero:x"))
	for _, room := range []string{"!plain:x", "!roomless:x", "!timeless:x"} {
		require.Equal(t, []int64{3, 4, 5}, c.depths(room), room)
	}
}
