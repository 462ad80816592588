package tasks

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/jobs"
	"lethe/internal/store/beside/besidetest"
	"lethe/internal/store/journal"
	"lethe/internal/store/storetest"
	"lethe/internal/synapse"
)

// A purge has left its last level to the homeserver. Then the settings change, so that
// nothing asks the homeserver for that level any more.
func TestSettingsChangeWhileALevelIsLeft(t *testing.T) {
	t.Parallel()
	for name, then := range map[string]func(*besideLab) *synapse.Synapse{
		"the homeserver gets Redis": func(l *besideLab) *synapse.Synapse {
			l.listen(false)
			return l.beside(synapse.Options{Redis: l.homeserverRedis()})
		},
		"the homeserver is gone for good": func(l *besideLab) *synapse.Synapse {
			return l.beside(synapse.Options{Mode: synapse.Stopped})
		},
	} {
		for requested, forget := range map[string]string{"before the request": `{task}`, "after it": `{}`} {
			t.Run(name+" "+requested, func(t *testing.T) {
				t.Parallel()
				l := setupBeside(t)
				l.Chain(room, "a", 30, 0)
				end := besidetest.Sessions(t, l.URL)
				s := l.beside(synapse.Options{})
				id := l.submit(room, 25)
				stop := l.work(WorkerOptions{BatchEvents: 10, MappingDelay: quickly, Synapse: s})
				l.requested("purge_history")
				l.requireWaits(id, "has to run its task")
				stop()
				require.Equal(t, []int64{24, 25, 26, 27, 28, 29, 30}, l.depths(room))
				if forget == `{task}` { // as if the worker was killed before
					l.Exec(`DELETE FROM scheduled_tasks`)
					l.Exec(`UPDATE lethe.jobs SET checkpoint = checkpoint #- $1::text::text[]`, forget)
				}
				end()

				s = then(l)
				l.sweep(s)
				l.work(WorkerOptions{BatchEvents: 10, MappingDelay: quickly, Synapse: s})
				l.requireComplete(id)
				require.Equal(t, []int64{25, 26, 27, 28, 29, 30}, l.depths(room))
				if s.Beside() {
					require.Equal(t, 6, l.mapped())
					require.Zero(t, l.delayed())
				}
			})
		}
	}
}

// Events that were purged without Redis are not known to be forgotten because Redis is
// there: the homeserver is told of them first.
func TestRedisComesAfterAPurgeThatFailed(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	l.Chain(room, "a", 30, 0)
	besidetest.Sessions(t, l.URL)
	id := l.submit(room, 20)
	stop := l.work(WorkerOptions{MappingDelay: quickly, Synapse: l.beside(synapse.Options{})})
	l.requested("purge_history")
	l.Exec(`UPDATE scheduled_tasks SET status = 'failed'`)
	require.Equal(t, journal.Failed, l.ends(id).State)
	stop()
	require.Equal(t, 18, storetest.One[int](l.Lab, `SELECT sum(cardinality(event_ids)) FROM lethe.delayed_mappings WHERE due_at = 'infinity'`))
	l.Exec(`DELETE FROM cache_invalidation_stream_by_instance`)

	l.listen(false)
	s := l.beside(synapse.Options{Redis: l.homeserverRedis()})
	l.work(WorkerOptions{MappingDelay: quickly, Synapse: s})
	l.requireComplete(l.submit(room, 15)) // which finds nothing to purge
	require.NotEmpty(t, l.invalidated())
	require.Zero(t, l.delayed())
	require.Equal(t, 12, l.mapped())
}

// The next purge of a room waits for no mappings of a purge that has failed, and does not
// end their wait: nothing has made the homeserver forget their events.
func TestPurgeAfterAPurgeThatFailed(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	l.Chain(room, "a", 30, 0)
	besidetest.Sessions(t, l.URL)
	s := l.beside(synapse.Options{})
	l.sweep(s)
	l.work(WorkerOptions{MappingDelay: quickly, Synapse: s})
	id := l.submit(room, 20)
	l.requested("purge_history")
	l.Exec(`UPDATE scheduled_tasks SET status = 'failed'`)
	require.Equal(t, journal.Failed, l.ends(id).State)
	l.requireComplete(l.submit(room, 15)) // which finds nothing to purge
	l.Exec(`UPDATE lethe.delayed_mappings SET due_at = now() + interval '1 hour'`)
	l.requireComplete(l.submit(room, 15))
	require.Positive(t, l.delayed())
	require.Equal(t, 30, l.mapped())

	// The confirmation of another purge is for all events that were purged before.
	l.Exec(`DELETE FROM scheduled_tasks`)
	id = l.submit(room, 25)
	l.requested("purge_history")
	for _, table := range []string{"event_edges", "event_json", "event_search", "event_to_state_groups", "events"} {
		l.Exec(`DELETE FROM ` + table + ` WHERE event_id = '$a24'`)
	}
	l.Exec(`UPDATE scheduled_tasks SET status = 'complete'`)
	l.requireComplete(id)
	l.soon(func() bool { return l.delayed() == 0 })
	require.Equal(t, 6, l.mapped())
}

// A delete that a hold stops at its very end waits for the end of the hold as others do.
func TestHoldAtTheEndOfADelete(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	l.Chain(room, "a", 30, 0)
	s := l.byStream(time.Nanosecond)
	id := l.delete(room, nil)
	l.work(WorkerOptions{MappingDelay: 2 * time.Second, Synapse: s})
	l.requireWaits(id, "the room is gone")
	l.place(room)
	l.Exec(`INSERT INTO lethe.delayed_mappings (room_id, event_ids, told, due_at) VALUES ($1, '{$a1}', true, 'infinity')`, room)
	l.held(id)
	require.Equal(t, 1, storetest.One[int](l.Lab, `SELECT count(*) FROM lethe.delayed_mappings WHERE event_ids <> '{}'`))
	l.release(room)
	l.requireComplete(id)
	require.Zero(t, l.delayed())
}

// A job that finds the mappings of its purge in the hands of another worker waits in the
// queue.
func TestMappingsThatAnotherWorkerSweeps(t *testing.T) {
	t.Parallel()
	l := setupBeside(t)
	l.Chain(room, "a", 30, 0)
	s := l.byStream(time.Nanosecond)
	id := l.submit(room, 25)
	l.work(WorkerOptions{MappingDelay: quickly, Synapse: s})
	l.soon(func() bool { return l.delayed() > 0 })
	l.Exec(`BEGIN`)
	l.Exec(`SELECT FROM lethe.delayed_mappings FOR UPDATE`)
	l.requireWaits(id, "another worker deletes the mappings")
	l.Exec(`COMMIT`)
	l.requireComplete(id)
	require.Equal(t, 6, l.mapped())
}

// A task whose row is gone says nothing about the room.
func TestDeleteWhoseTaskIsForgotten(t *testing.T) {
	t.Parallel()
	for _, ran := range []bool{true, false} {
		t.Run(fmt.Sprint(ran), func(t *testing.T) {
			t.Parallel()
			l := setupBeside(t)
			l.furnish(room, 2)
			besidetest.Sessions(t, l.URL)
			id := l.delete(room, nil)
			l.work(WorkerOptions{MappingDelay: quickly, Synapse: l.beside(synapse.Options{}), HomeserverRuns: true})
			l.requested("purge_room")
			if ran {
				l.Exec(`SET session_replication_role = replica`)
				l.Exec(`DELETE FROM rooms WHERE room_id = $1`, room)
			}
			l.Exec(`DELETE FROM scheduled_tasks`)
			status, _ := l.deleteEnds(id)
			if ran {
				require.Equal(t, journal.Complete, status.State, status.Error)
				l.gone(room)
				return
			}
			require.Equal(t, journal.Failed, status.State)
			require.Contains(t, status.Error, "its row is gone, and the room is there")
		})
	}
}

// A delete that was interrupted when it had deleted the room's last row leaves the room
// alone if it is back. That holds for the deletes of sweeps too, and for each way to tell
// Synapse.
func TestRoomIsBackWhenADeleteGoesOn(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		abandoned bool
		synapse   func(*besideLab) *synapse.Synapse
	}{
		"of a sweep":                      {true, func(l *besideLab) *synapse.Synapse { return l.byStream(time.Nanosecond) }},
		"while no Synapse is there":       {false, func(l *besideLab) *synapse.Synapse { return l.beside(synapse.Options{}) }},
		"of a sweep, without a way to it": {true, func(l *besideLab) *synapse.Synapse { return l.beside(synapse.Options{}) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := setupBeside(t)
			l.lodge(room, "leave", 40, "ban", 31)
			options := forsaking()
			options.MappingDelay, options.Synapse = quickly, test.synapse(l)
			id, err := l.client.submit(l.Ctx, journal.Job{Kind: jobs.DeleteRoom, Room: room, Requester: "retention"}, Acceptance{},
				deleteRoomParameters{Purge: true, ForcePurge: !test.abandoned, Abandoned: test.abandoned}, false)
			require.NoError(t, err)
			run := l.claim(id)
			first, err := l.worker(options).newWorkFromRow(l.Ctx, run)
			require.NoError(t, err)
			for storetest.One[int](l.Lab, `SELECT count(*) FROM rooms`) > 0 {
				_, err = first.next(l.Ctx)
				require.NoError(t, err)
			}
			first.leave(l.Ctx, true)

			l.lodge(room)
			l.enter(room, "@new:x", "invite", 0)
			before := l.rows(room)
			l.soon(func() bool {
				again, err := l.worker(options).newWorkFromRow(l.Ctx, run)
				require.NoError(t, err)
				defer again.leave(l.Ctx, false)
				done, err := again.next(l.Ctx)
				var yield jobs.YieldError
				if !errors.As(err, &yield) {
					require.NoError(t, err)
				}
				return done
			})
			require.Equal(t, before, l.rows(room))
		})
	}
}
