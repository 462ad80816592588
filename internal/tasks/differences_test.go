package tasks

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/jobs"
	"lethe/internal/retention"
	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
)

// A table that is not as Lethe needs it ends every kind of job that would write,
// before its first write, and the job names the difference.
func TestDifferencesEndJobs(t *testing.T) {
	t.Parallel()
	const gone, shut = "event_labels has no column event_id", "room_stats_state has no column name"
	for name, c := range map[string]struct {
		change, want string
		job          func(*lab) string
	}{
		"purge": {`ALTER TABLE event_labels DROP COLUMN event_id`, gone, func(l *lab) string { return l.submit(room, 20) }},
		"delete": {`ALTER TABLE room_tags DROP COLUMN room_id`, "room_tags has no column room_id", func(l *lab) string {
			return l.delete(room, func(d *DeleteRoom) { d.Block, d.NewRoomUser = true, "@new:x" })
		}},
		"shutdown": {`ALTER TABLE room_stats_state DROP COLUMN name`, shut, func(l *lab) string {
			return l.delete(room, func(d *DeleteRoom) { d.Block, d.Purge, d.NewRoomUser = true, false, "@new:x" })
		}},
		"retention sweep": {`ALTER TABLE event_labels DROP COLUMN event_id`, gone, func(l *lab) string { return l.sweep("all") }},
		"sweep of abandoned rooms": {`ALTER TABLE room_tags DROP COLUMN room_id`, "room_tags has no column room_id", func(l *lab) string {
			id, err := l.client.submit(l.Ctx, journal.Job{Kind: jobs.AbandonedSweep, Requester: retention.Requester}, Acceptance{}, retention.SweepParameters{}, false)
			require.NoError(l.T, err)
			return id
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := setup(t)
			l.furnish(room, 3)
			l.Exec(c.change)
			before := l.Dump("public")
			id := c.job(l)
			options := WorkerOptions{Retention: keeping(day)}
			options.Retention.Abandoned = retention.Abandoned{Enabled: true, After: 30 * day, CoolOff: day, MaxPerRun: 100}
			l.work(options)
			require.Eventually(t, func() bool { return l.Job(id).State.Ended() }, time.Minute, 20*time.Millisecond)
			require.Equal(t, journal.Failed, l.Job(id).State)
			require.Contains(t, storetest.One[string](l.Lab, `SELECT error FROM lethe.jobs WHERE id = $1`, id), c.want)
			require.Equal(t, before, l.Dump("public"))
			require.Equal(t, []string{id}, storetest.All[string](l.Lab, `SELECT id FROM lethe.jobs`), "a sweep makes no job")
		})
	}
}
