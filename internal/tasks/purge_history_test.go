package tasks

import (
	"encoding/json"
	"testing"

	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"

	"github.com/stretchr/testify/require"
)

// A purge that fits into a batch takes one batch, unless it leaves unused state
// groups.
func TestSmallPurgeIsOneBatch(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.work(WorkerOptions{})
	for room, c := range map[string]struct{ batches, groups int64 }{"!used:x": {1, 0}, "!unused:x": {3, 1}} {
		l.chain(room, 4)
		l.Exec(`
			INSERT INTO state_groups (id, room_id, event_id)
			SELECT g + (SELECT coalesce(max(id), 0) FROM state_groups), $1, '$' || g || $1 FROM generate_series(1, 2) g`, room)
		// The events that stay use the second group, and in one room the first too.
		l.Exec(`
			INSERT INTO event_to_state_groups (event_id, state_group)
			SELECT event_id, (SELECT CASE WHEN depth < 3 OR depth = 3 AND $2 THEN min(id) ELSE max(id) END FROM state_groups WHERE room_id = $1)
			FROM events WHERE room_id = $1`, room, room == "!used:x")
		status := l.ends(l.submit(room, 3))
		require.Equal(t, journal.Complete, status.State, status.Error)
		var at purgeHistoryCheckpoint
		require.NoError(t, json.Unmarshal([]byte(status.Progress), &at))
		require.Equal(t, c.batches, at.Batches, room)
		require.Equal(t, c.groups, at.StateGroupsDeleted, room)
		require.EqualValues(t, 2, at.EventsDeleted)
		require.Equal(t, 2-c.groups, storetest.All[int64](l.Lab, `SELECT count(*) FROM state_groups WHERE room_id = $1`, room)[0])
	}
	require.Zero(t, storetest.All[int](l.Lab, `SELECT count(*) FROM lethe.state_group_candidates`)[0])
}

// A purge that goes too far is refused, whether or not it would find anything.
func TestPurgeBeyondTheExtremitiesIsRefused(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.work(WorkerOptions{})
	l.chain("!some:x", 3)
	l.chain("!nothing:x", 3)
	l.Exec(`INSERT INTO state_events (event_id, room_id, type, state_key) SELECT event_id, room_id, 't', event_id FROM events WHERE room_id = '!nothing:x'`)
	l.Exec(`UPDATE events SET outlier = true WHERE room_id = '!nothing:x'`)
	for _, room := range []string{"!some:x", "!nothing:x"} {
		status := l.ends(l.submit(room, 4))
		require.Equal(t, journal.Failed, status.State, room)
		require.Contains(t, status.Error, "greater than forward extremities")
		require.Len(t, l.depths(room), 3)
	}
}
