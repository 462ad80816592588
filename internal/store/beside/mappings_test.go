package beside_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"lethe/internal/store/beside"
	"lethe/internal/store/journal"
	"lethe/internal/store/postgres"
	"lethe/internal/store/storetest"
)

// A purged is a lab whose room has purged events: the rows of events are gone, and those
// of the mappings are there.
type purged struct {
	*storetest.Lab
	work storetest.Work
}

// purge makes a room whose first events, $a1 to $a<n>, were purged.
func purge(t *testing.T, n int) *purged {
	t.Helper()
	l := setup(t)
	l.Chain(room, "a", n+3, 0)
	for _, table := range []string{"event_edges", "event_json", "event_search", "events"} {
		l.Exec(`DELETE FROM `+table+` WHERE event_id IN (SELECT '$a' || i::text FROM generate_series(1, $1::int) i)`, n)
	}
	return &purged{l, l.Work(room)}
}

// delay commits a batch that has purged the events of the depths.
func (p *purged) delay(from, to int, delay beside.Delay) error {
	delay.Room = room
	delay.Events = fmt.Sprintf(`SELECT '$a' || i::text AS event_id FROM generate_series(%d, %d) i`, from, to)
	return p.InBatch(p.work, func(b *journal.Batch) (any, error) {
		_, err := b.Run(p.Ctx, delay.Statements())
		return nil, err
	})
}

// due makes all mappings that wait due.
func (p *purged) due() { p.Exec(`UPDATE lethe.delayed_mappings SET due_at = clock_timestamp()`) }

// mapped are the depths of the events whose mappings are there.
func (p *purged) mapped() []int {
	return storetest.All[int](p.Lab, `SELECT substr(event_id, 3)::int FROM event_to_state_groups ORDER BY 1`)
}

func (p *purged) waiting() int {
	return storetest.One[int](p.Lab, `SELECT count(*) FROM lethe.delayed_mappings`)
}

func (p *purged) sweep() beside.Sweep {
	p.T.Helper()
	done, err := beside.SweepMappings(p.Ctx, p.DB, "")
	require.NoError(p.T, err)
	return done
}

// candidates are the state groups to be collected.
func (p *purged) candidates() []int64 {
	return storetest.All[int64](p.Lab, `SELECT state_group FROM lethe.state_group_candidates ORDER BY 1`)
}

func TestMappingsStayForTheirDelay(t *testing.T) {
	t.Parallel()
	p := purge(t, 4)
	require.NoError(t, p.delay(1, 2, beside.Delay{For: 700 * time.Millisecond, Commit: 300 * time.Millisecond}))
	require.GreaterOrEqual(t, storetest.One[time.Duration](p.Lab, `SELECT due_at - statement_timestamp() FROM lethe.delayed_mappings`), time.Millisecond)
	require.Zero(t, p.sweep().Batches)
	require.Equal(t, []int{1, 2, 3, 4, 5, 6, 7}, p.mapped())
	require.Empty(t, p.candidates())
	backlog, err := beside.BacklogOf(p.Ctx, p.DB, room, 2*time.Hour)
	require.NoError(t, err)
	require.Equal(t, 1, backlog.Batches)
	require.Positive(t, backlog.Until)
	require.False(t, backlog.Unconfirmed)

	due := storetest.One[time.Time](p.Lab, `SELECT due_at FROM lethe.delayed_mappings`)
	var done beside.Sweep
	require.Eventually(t, func() bool {
		done = p.sweep()
		return done.Batches > 0
	}, time.Minute, 5*time.Millisecond)
	require.False(t, storetest.One[time.Time](p.Lab, `SELECT clock_timestamp()`).Before(due))
	require.EqualValues(t, 2, done.Mappings)
	require.Equal(t, []int{3, 4, 5, 6, 7}, p.mapped())
	require.Equal(t, []int64{1, 2}, p.candidates())
	require.Zero(t, p.waiting())
	backlog, err = beside.BacklogOf(p.Ctx, p.DB, room, 2*time.Hour)
	require.NoError(t, err)
	require.Zero(t, backlog)
	require.NoError(t, p.delay(9, 8, beside.Delay{}), "a batch that has purged nothing")
	require.Zero(t, p.waiting())
}

// The delay counts from the commit, as late as that may be.
func TestStallBeforeTheCommitEndsTheBatch(t *testing.T) {
	t.Parallel()
	p := purge(t, 4)
	b := p.Journal.Begin(p.work.Run, p.work.RoomLock)
	defer b.Rollback(p.Ctx)
	delay := beside.Delay{Room: room, Events: `SELECT '$a1' AS event_id`, For: 5 * time.Second, Commit: 50 * time.Millisecond}
	_, err := b.Run(p.Ctx, delay.Statements())
	require.NoError(t, err)
	conn, err := b.Conn(p.Ctx)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		return storetest.One[int](p.Lab, `SELECT count(*) FROM pg_stat_activity WHERE pid = $1`, conn.PgConn().PID()) == 0
	}, time.Minute, 5*time.Millisecond)
	require.Error(t, b.Commit(p.Ctx, "stalled"))
	require.Zero(t, p.waiting())
	require.Nil(t, p.Job(p.work.Run.JobID).Checkpoint)
}

// An event that another server has sent again keeps its mapping, however the homeserver's
// transaction and the sweep interleave.
func TestReturnedEventKeepsItsMapping(t *testing.T) {
	t.Parallel()
	const (
		event = `INSERT INTO events (event_id, room_id, type, topological_ordering, depth, stream_ordering, processed, outlier, sender)
			VALUES ('$a1', '` + room + `', 'm.room.message', 1, 1, 1000, true, false, '@zoe:far')`
		group   = `INSERT INTO state_groups VALUES (1000, '` + room + `', '$a1')`
		mapping = `INSERT INTO event_to_state_groups (event_id, state_group) VALUES ('$a1', 1000)
			ON CONFLICT (event_id) DO UPDATE SET state_group = excluded.state_group`
	)
	type sweeping func() (beside.Sweep, error)
	for name, c := range map[string]struct {
		told  bool
		order func(t *testing.T, p *purged, sweep func() sweeping)
		lost  bool // the mapping of the event that did not come back
	}{
		"before": {order: func(t *testing.T, p *purged, sweep func() sweeping) {
			p.Exec(group)
			p.Exec(event)
			p.Exec(mapping)
			_, err := sweep()()
			require.NoError(t, err)
		}},
		"while the sweep waits for its mapping": {order: func(t *testing.T, p *purged, sweep func() sweeping) {
			tx := begin(p.Lab)
			for _, sql := range []string{group, event, mapping} {
				_, err := tx.Exec(p.Ctx, sql)
				require.NoError(t, err)
			}
			done := sweep()
			p.RequireLockWait()
			require.NoError(t, tx.Commit(p.Ctx))
			_, err := done()
			require.NoError(t, err)
		}},
		"rolled back while the sweep waits": {lost: true, order: func(t *testing.T, p *purged, sweep func() sweeping) {
			tx := begin(p.Lab)
			for _, sql := range []string{group, event, mapping} {
				_, err := tx.Exec(p.Ctx, sql)
				require.NoError(t, err)
			}
			done := sweep()
			p.RequireLockWait()
			require.NoError(t, tx.Rollback(p.Ctx))
			_, err := done()
			require.NoError(t, err)
		}},
		"with the sweep between its event and its mapping": {order: func(t *testing.T, p *purged, sweep func() sweeping) {
			tx := begin(p.Lab)
			for _, sql := range []string{group, event} {
				_, err := tx.Exec(p.Ctx, sql)
				require.NoError(t, err)
			}
			_, err := sweep()()
			require.NoError(t, err)
			require.NotContains(t, p.mapped(), 1)
			_, err = tx.Exec(p.Ctx, mapping)
			require.NoError(t, err)
			require.NoError(t, tx.Commit(p.Ctx))
		}},
		"while the sweep is about to commit": {order: func(t *testing.T, p *purged, sweep func() sweeping) {
			stream := begin(p.Lab) // the sweep's last statement but one waits for it
			_, err := stream.Exec(p.Ctx, `SELECT pg_advisory_xact_lock(724001)`)
			require.NoError(t, err)
			done := sweep()
			p.RequireLockWait()
			tx := begin(p.Lab)
			for _, sql := range []string{group, event} {
				_, err := tx.Exec(p.Ctx, sql)
				require.NoError(t, err)
			}
			stored := async(t, func() (bool, error) {
				_, err := tx.Exec(p.Ctx, mapping)
				return true, err
			})
			require.Eventually(t, func() bool {
				return storetest.One[int](p.Lab, `SELECT count(*) FROM pg_locks WHERE NOT granted AND pid IN (SELECT pid FROM pg_stat_activity WHERE datname = current_database())`) == 2
			}, time.Minute, 5*time.Millisecond)
			require.NoError(t, stream.Rollback(p.Ctx))
			_, err = done()
			require.NoError(t, err)
			_, err = stored()
			require.NoError(t, err)
			require.NoError(t, tx.Commit(p.Ctx))
		}},
		"after": {order: func(t *testing.T, p *purged, sweep func() sweeping) {
			_, err := sweep()()
			require.NoError(t, err)
			p.Exec(group)
			p.Exec(event)
			p.Exec(mapping)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := purge(t, 4)
			require.NoError(t, p.delay(1, 2, beside.Delay{}))
			p.due()
			c.order(t, p, func() sweeping {
				return async(t, func() (beside.Sweep, error) { return beside.SweepMappings(p.Ctx, p.DB, "") })
			})
			want := []int{1, 3, 4, 5, 6, 7}
			if c.lost {
				want = want[1:]
			}
			require.Equal(t, want, p.mapped())
			require.Zero(t, p.waiting())
			if !c.lost {
				require.EqualValues(t, 1000, storetest.One[int64](p.Lab, `SELECT state_group FROM event_to_state_groups WHERE event_id = '$a1'`))
			}
			require.Contains(t, p.candidates(), int64(2))
			require.NotContains(t, p.candidates(), int64(1000))
		})
	}
}

// A purge keeps some events as outliers. These are not in the history.
func TestOutliersLoseTheirMappings(t *testing.T) {
	t.Parallel()
	p := purge(t, 4)
	p.Exec(`UPDATE events SET outlier = true WHERE depth = 5`)
	require.NoError(t, p.delay(5, 6, beside.Delay{}))
	p.due()
	require.EqualValues(t, 1, p.sweep().Mappings)
	require.Equal(t, []int{1, 2, 3, 4, 6, 7}, p.mapped(), "that of an outlier, but not that of an event in the history")
}

func TestHeldRoomsKeepTheirMappings(t *testing.T) {
	t.Parallel()
	p := purge(t, 4)
	require.NoError(t, p.delay(1, 4, beside.Delay{Told: true}))
	p.due()
	holds := journal.NewHolds(storeDB(p.Lab))
	_, err := holds.Place(p.Ctx, room, "case 7", "@counsel:x")
	require.NoError(t, err)
	before := p.Dump("public")
	require.Zero(t, p.sweep())
	require.Equal(t, before, p.Dump("public"))
	require.InDelta(t, 30*time.Second, storetest.One[time.Duration](p.Lab, `SELECT due_at - clock_timestamp() FROM lethe.delayed_mappings`),
		float64(15*time.Second), "it is not looked at every second")

	_, err = holds.Release(p.Ctx, room, "@counsel:x")
	require.NoError(t, err)
	p.due()
	require.EqualValues(t, 4, p.sweep().Mappings)
}

// A hold that is being placed is waited for.
func TestHoldPlacedMeanwhile(t *testing.T) {
	t.Parallel()
	p := purge(t, 4)
	require.NoError(t, p.delay(1, 4, beside.Delay{Told: true}))
	p.due()
	tx := begin(p.Lab)
	_, err := tx.Exec(p.Ctx, `SELECT FROM lethe.room_fences WHERE room_id = $1 FOR UPDATE`, room) // as placing one does
	require.NoError(t, err)
	done := async(t, func() (beside.Sweep, error) { return beside.SweepMappings(p.Ctx, p.DB, "") })
	p.RequireLockWait()
	_, err = tx.Exec(p.Ctx, `INSERT INTO lethe.holds (room_id, reason, placed_by) VALUES ($1, 'case 7', '@counsel:x')`, room)
	require.NoError(t, err)
	require.NoError(t, tx.Commit(p.Ctx))
	swept, err := done()
	require.NoError(t, err)
	require.Zero(t, swept)
	require.Len(t, p.mapped(), 7)
}

// storeDB returns a DB that may do everything, as an api's may place holds.
func storeDB(l *storetest.Lab) *postgres.DB { return storetest.On(l.T, l.URL).DB }

// An index that leads to rows of other events must not cost these their mappings.
func TestCorruptIndexOfMappingsIsRefused(t *testing.T) {
	t.Parallel()
	p := purge(t, 4)
	require.NoError(t, p.delay(1, 2, beside.Delay{}))
	p.due()
	// Another index takes the place of the one by event_id. In it $a1 and $a7 have
	// changed places.
	index := storetest.One[string](p.Lab, `SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 'event_to_state_groups'::regclass AND indisunique`)
	p.Exec(`CREATE INDEX corrupted ON event_to_state_groups ((CASE event_id WHEN '$a1' THEN '$a7' WHEN '$a7' THEN '$a1' ELSE event_id END))`)
	p.Exec(`SET allow_system_table_mods = on`)
	p.Exec(`
		UPDATE pg_class c SET relfilenode = o.relfilenode
		FROM pg_class o WHERE (c.oid, o.oid) IN (($1::text::regclass, 'corrupted'::regclass), ('corrupted'::regclass, $1::text::regclass))`, index)
	p.Exec(`DROP INDEX corrupted`)
	p.Exec(`DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET enable_seqscan = off', current_database()); END $$`)
	p.DB = storetest.OnAs(t, p.URL).DB
	before := p.Dump("public", "lethe")
	_, err := beside.SweepMappings(p.Ctx, p.DB, "")
	require.ErrorIs(t, err, beside.ErrCorruptMappings)
	require.Equal(t, before, p.Dump("public", "lethe"))
	p.Exec(`REINDEX TABLE event_to_state_groups`)
	require.EqualValues(t, 2, p.sweep().Mappings)
	require.Equal(t, []int{3, 4, 5, 6, 7}, p.mapped())
}

// Any number of processes sweep the mappings of many small purges at once.
func TestManySweepsAtOnce(t *testing.T) {
	t.Parallel()
	l := setup(t)
	const rooms, batches = 40, 10
	for r := range rooms {
		l.Exec(`INSERT INTO lethe.room_fences VALUES ($1, 1)`, fmt.Sprintf("!r%d:x", r))
	}
	l.Exec(`INSERT INTO state_groups SELECT i, '!r' || i % $1 || ':x', '$e' || i FROM generate_series(1, $2::int) i`, rooms, rooms*batches*3)
	l.Exec(`INSERT INTO event_to_state_groups SELECT event_id, id FROM state_groups`)
	l.Exec(`
		INSERT INTO lethe.delayed_mappings (room_id, event_ids, told, due_at)
		SELECT room_id, array_agg(event_id), id % 2 = 0, clock_timestamp()
		FROM state_groups GROUP BY room_id, id % 2, id / $1 / 6`, rooms)
	waiting := storetest.One[int](l, `SELECT count(*) FROM lethe.delayed_mappings`)
	require.Greater(t, waiting, rooms*2)
	var group errgroup.Group
	results := make(chan beside.Sweep, 1000)
	for n := range 6 {
		group.Go(func() error {
			for {
				var one string
				if n == 0 {
					one = "!r7:x"
				}
				done, err := beside.SweepMappings(l.Ctx, l.DB, one)
				if err != nil || done.Batches == 0 {
					return err
				}
				results <- done
			}
		})
	}
	require.NoError(t, group.Wait())
	// One that found all rows locked has ended early.
	for {
		done, err := beside.SweepMappings(l.Ctx, l.DB, "")
		require.NoError(t, err)
		if done.Batches == 0 {
			break
		}
		results <- done
	}
	close(results)
	var sum beside.Sweep
	for done := range results {
		sum.Batches += done.Batches
		sum.Mappings += done.Mappings
	}
	require.Equal(t, waiting, sum.Batches)
	require.EqualValues(t, rooms*batches*3, sum.Mappings)
	require.Zero(t, storetest.One[int](l, `SELECT count(*) FROM event_to_state_groups`))
	require.Equal(t, rooms*batches*3, storetest.One[int](l, `SELECT count(*) FROM lethe.state_group_candidates`))
	require.Equal(t, rooms/2, storetest.One[int](l, `SELECT count(DISTINCT keys) FROM cache_invalidation_stream_by_instance`), "each room that was not told of")
}

// One sweep is bounded, whatever has piled up, but does at least one batch.
func TestSweepIsBounded(t *testing.T) {
	t.Parallel()
	p := purge(t, 1)
	for range 3 {
		require.NoError(t, p.delay(1, 15_000, beside.Delay{Told: true}))
	}
	require.NoError(t, p.delay(1, 50_000, beside.Delay{Told: true}))
	p.Exec(`UPDATE lethe.delayed_mappings SET due_at = clock_timestamp() + (id - 1000) * interval '1 second'`)
	for range 2 {
		p.Exec(`INSERT INTO lethe.delayed_mappings (room_id, event_ids, told, due_at) VALUES ($1, '{$a1}', true, 'yesterday')`, room)
	}
	for _, want := range []int{3, 1, 1, 1, 0} { // two small ones and a large one, and then no two fit
		require.Equal(t, want, p.sweep().Batches)
	}
}

func TestSweepTellsOfWhatNobodyToldOf(t *testing.T) {
	t.Parallel()
	p := purge(t, 4)
	require.NoError(t, p.delay(1, 1, beside.Delay{Told: true}))
	p.due()
	require.Zero(t, p.sweep().Position)
	require.NoError(t, p.delay(2, 2, beside.Delay{}))
	require.NoError(t, p.delay(3, 3, beside.Delay{}))
	p.due()
	done := p.sweep()
	require.Equal(t, []int64{done.Position}, storetest.All[int64](p.Lab, `SELECT stream_id FROM cache_invalidation_stream_by_instance`), "once for the room")
	require.NoError(t, p.delay(4, 4, beside.Delay{}))
	require.NoError(t, p.InBatch(p.work, func(b *journal.Batch) (any, error) {
		_, err := b.Run(p.Ctx, []postgres.Statement{beside.MarkTold(room)})
		return nil, err
	}))
	p.due()
	require.Zero(t, p.sweep().Position, "the purge has")
}

// Without Redis the homeserver has to confirm that it has forgotten the events.
func TestUnconfirmedMappingsWait(t *testing.T) {
	t.Parallel()
	p := purge(t, 4)
	require.NoError(t, p.delay(1, 2, beside.Delay{Unconfirmed: true}))
	require.Zero(t, p.sweep().Batches)
	backlog, err := beside.BacklogOf(p.Ctx, p.DB, room, 2*time.Hour)
	require.NoError(t, err)
	require.Equal(t, beside.Backlog{Unconfirmed: true}, backlog)

	require.NoError(t, beside.Confirm(p.Ctx, p.DB, room, time.Hour))
	require.Zero(t, p.sweep().Batches)
	backlog, err = beside.BacklogOf(p.Ctx, p.DB, room, 2*time.Hour)
	require.NoError(t, err)
	require.False(t, backlog.Unconfirmed)
	require.InDelta(t, time.Hour, backlog.Until, float64(time.Minute))
	none, err := beside.BacklogOf(p.Ctx, p.DB, room, time.Minute)
	require.NoError(t, err)
	require.Zero(t, none, "those that are due later are of another purge")
	require.NoError(t, beside.Confirm(p.Ctx, p.DB, room, 2*time.Hour), "which makes none due later")
	require.Less(t, storetest.One[time.Duration](p.Lab, `SELECT due_at - now() FROM lethe.delayed_mappings`), 61*time.Minute)
	require.NoError(t, beside.Confirm(p.Ctx, p.DB, room, 30*time.Minute))
	require.Less(t, storetest.One[time.Duration](p.Lab, `SELECT due_at - now() FROM lethe.delayed_mappings`), 31*time.Minute)
	require.Zero(t, p.sweep().Batches)
	waited, err := beside.EndDelay(p.Ctx, p.DB, room)
	require.NoError(t, err)
	require.True(t, waited)
	require.Equal(t, 1, p.sweep().Batches)
	waited, err = beside.EndDelay(p.Ctx, p.DB, room)
	require.NoError(t, err)
	require.False(t, waited)
}

// A purge that has failed asks for no confirmation any more.
func TestUnconfirmedMappingsOfAnEndedPurge(t *testing.T) {
	t.Parallel()
	for state, ends := range map[string]bool{"running": false, "queued": false, "held": false, "failed": true, "cancelled": true, "complete": true} {
		t.Run(state, func(t *testing.T) {
			t.Parallel()
			p := purge(t, 4)
			require.NoError(t, p.delay(1, 2, beside.Delay{Unconfirmed: true}))
			p.Exec(`UPDATE lethe.jobs SET state = $1, error = CASE WHEN $1 = 'failed' THEN 'why' END,
				heartbeat_at = CASE WHEN $1 = 'running' THEN now() END, ended_at = CASE WHEN $2 THEN now() END`, state, ends)
			ended, err := beside.EndUnconfirmed(p.Ctx, p.DB)
			require.NoError(t, err)
			backlog, err := beside.BacklogOf(p.Ctx, p.DB, room, 2*time.Hour)
			require.NoError(t, err)
			require.Equal(t, !ends, backlog.Unconfirmed)
			if ends {
				require.EqualValues(t, 1, ended)
				require.InDelta(t, time.Hour, backlog.Until, float64(time.Minute))
			}
		})
	}
}

// The state groups of a room that was deleted meanwhile are gone, and nothing would
// collect them.
func TestDeletedRoomLeavesNoCandidates(t *testing.T) {
	t.Parallel()
	p := purge(t, 4)
	require.NoError(t, p.delay(1, 4, beside.Delay{}))
	p.due()
	p.Exec(`DELETE FROM state_groups WHERE id <= 3`)
	require.EqualValues(t, 4, p.sweep().Mappings)
	require.Equal(t, []int64{4}, p.candidates())
}
