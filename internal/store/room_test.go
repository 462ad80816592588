package store_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/roomgen"
	"lethe/internal/store"
)

// An ender ends rooms of one database, as a job does but without waiting for
// anybody.
type ender struct {
	ctx     context.Context
	store   *store.Store
	catalog store.Catalog
	batch   store.Batch
	purge   store.RoomPurge
}

// ender returns one for the room, by the path that checks references set-wise or
// row by row.
func (l *lab) ender(room string, rowWise bool) *ender {
	l.t.Helper()
	s := l.store
	if rowWise {
		var err error
		s, err = store.Open(l.ctx, devstacktest.AsPlainRole(l.t, l.url), store.Options{SetWiseFrom: 1})
		require.NoError(l.t, err)
		l.t.Cleanup(s.Close)
	}
	catalog, err := s.RoomCatalog(l.ctx)
	require.NoError(l.t, err)
	require.Equal(l.t, rowWise, catalog.RowWise() != "", catalog.RowWise())
	return &ender{l.ctx, s, catalog, l.begin(room), store.RoomPurge{Room: room, ServerName: serverName, Force: true}}
}

// step does one batch, and returns false if there was none to do. Before it, but
// after it has been decided what it is to do, it calls between.
func (e *ender) step(size int, between func()) (done store.RoomBatch, more bool, err error) {
	step, err := e.store.NextRoomStep(e.ctx, e.catalog, e.purge)
	if err != nil || step == nil {
		return done, false, err
	}
	if between != nil {
		between()
	}
	done, err = step(e.ctx, e.batch, e.catalog, size, nothing)
	if err == nil {
		e.purge.At = done.At
	}
	return done, true, err
}

// end does all batches, and returns what they did together.
func (e *ender) end(size int) (all store.RoomBatch, batches int, err error) {
	for ; batches < 10_000; batches++ {
		done, more, err := e.step(size, nil)
		if err != nil || !more {
			return all, batches, err
		}
		all.Events += done.Events
		all.Rows += done.Rows
		all.StateGroups += done.StateGroups
	}
	return all, batches, errors.New("it does not come to an end")
}

// The rooms of the fixture that Synapse deleted, and the one that another got the
// aliases of.
var corpusRooms = map[string]string{
	"ops":   "!KBGbwWNkqPqBYFEEJf:lab.test",
	"lobby": "!uLenUygWgGOSQDCxUO:lab.test",
	"tiny":  "!zRoOXyfDwrukfqfKbx:lab.test",
}

func TestRoomEndsOnSynapsesSchema(t *testing.T) {
	t.Parallel()
	for name, room := range corpusRooms {
		for _, rowWise := range []bool{false, true} {
			if rowWise && name != "lobby" {
				continue
			}
			t.Run(fmt.Sprintf("%s, row wise %v", name, rowWise), func(t *testing.T) {
				t.Parallel()
				l := setupOn(t, devstacktest.Restored(t, devstacktest.Shared(t, "fixtures", "synapse-1.160-corpus.dump")))
				require.NoError(t, store.Migrate(l.ctx, l.url))
				if name != "tiny" { // one as it is, too
					l.exec(`INSERT INTO destinations (destination) VALUES ('far')`)
					for _, room := range corpusRooms {
						furnish(t, l.ctx, l.conn, room)
					}
				}
				census := newCensus(t, l.ctx, l.conn, room)
				before, others := census.left(t), census.others(t)
				require.Greater(t, len(before), map[bool]int{true: 15, false: 60}[name == "tiny"], before)

				e := l.ender(room, rowWise)
				all, _, err := e.end(30)
				require.NoError(t, err)
				require.Empty(t, census.left(t))
				census.unchanged(t, others)
				require.EqualValues(t, before["events"], all.Events)
				require.EqualValues(t, before["state_groups"], all.StateGroups)
				if !rowWise {
					sum := 0
					for _, n := range before {
						sum += n
					}
					require.EqualValues(t, sum, all.Events+all.StateGroups+all.Rows)
				}
				l.noOrphans()

				// P6.
				l.unchanged(func() {
					e.purge.At = store.RoomPosition{}
					_, batches, err := e.end(5)
					require.NoError(t, err)
					require.Zero(t, batches)
				})
			})
		}
	}
}

// furnished is a room with a row in each table, and another one like it.
func furnished(t *testing.T) *lab {
	t.Helper()
	l := setup(t)
	l.exec(`INSERT INTO users (name) VALUES ('@u:x')`)
	l.exec(`INSERT INTO devices (user_id, device_id) VALUES ('@u:x', 'D')`)
	for i, room := range []string{room, "!other:x"} {
		l.chain(room, fmt.Sprint("of", i, "-"), 6, 100*i)
		furnish(t, l.ctx, l.conn, room)
		l.exec(`INSERT INTO event_txn_id_device_id VALUES ('$of' || $1::int || '-2', $2, '@u:x', 'D', 't', 0)`, i, room)
		l.exec(`INSERT INTO lethe.state_group_candidates (room_id, state_group) VALUES ($1, $2)`, room, 100*i+1)
	}
	return l
}

func TestRoomEndEmptiesEveryTable(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 4, math.MaxInt32} {
		for _, rowWise := range []bool{false, true} {
			t.Run(fmt.Sprintf("size %d, row wise %v", size, rowWise), func(t *testing.T) {
				t.Parallel()
				l := furnished(t)
				census := newCensus(t, l.ctx, l.conn, room)
				others := census.others(t)
				require.Len(t, census.left(t), len(furniture)+3-2-1, "all but the kept, and those that only Synapse has: %v", census.left(t))
				e := l.ender(room, rowWise)
				gone := false
				for {
					done, more, err := e.step(size, nil)
					require.NoError(t, err)
					if !more {
						break
					}
					if !gone { // at once, whatever the size
						gone = true
						require.Zero(t, one[int](l, `SELECT count(*) FROM current_state_events WHERE room_id = $1`, room))
						require.Zero(t, one[int](l, `SELECT count(*) FROM local_current_membership WHERE room_id = $1`, room))
						require.Zero(t, one[int](l, `SELECT count(*) FROM room_aliases WHERE room_id = $1`, room))
						continue
					}
					require.LessOrEqual(t, done.Events, int64(size))
					require.LessOrEqual(t, done.StateGroups, int64(size))
					if done.Events == 0 && (done.At.Part == "rows" || done.At.Part == "referring") {
						require.LessOrEqual(t, done.Rows, 10*int64(size), done.At)
					}
					require.Equal(t, rowWise && done.Events > 0, done.RowWise != "", done.RowWise)
					l.noOrphans()
				}
				require.Empty(t, census.left(t))
				census.unchanged(t, others)
				require.Equal(t, []string{"!other:x"}, all[string](l, `SELECT room_id FROM lethe.state_group_candidates`))
				require.Equal(t, 1, one[int](l, `SELECT count(*) FROM blocked_rooms WHERE room_id = $1`, room))
			})
		}
	}
}

// A run that dies after any number of batches of any size leaves what a new one
// finishes.
func TestRoomEndMayBeginAnywhere(t *testing.T) {
	t.Parallel()
	for size := 1; size <= 3; size++ {
		l := furnished(t)
		census := newCensus(t, l.ctx, l.conn, room)
		others := census.others(t)
		// The same database again and again: each run does one batch and dies.
		e := l.ender(room, size == 2)
		for batches := 0; ; batches++ {
			require.Less(t, batches, 1000)
			e.purge.At = store.RoomPosition{}
			_, more, err := e.step(size, nil)
			require.NoError(t, err)
			if !more {
				require.Greater(t, batches, 4)
				break
			}
			e.batch.Run = l.again(e.batch)
		}
		require.Empty(t, census.left(t))
		census.unchanged(t, others)
	}
}

// again ends a run's job and makes the next one of the room.
func (l *lab) again(batch store.Batch) store.Run {
	l.t.Helper()
	require.NoError(l.t, l.store.EndJob(l.ctx, batch.Run, store.JobComplete, ""))
	return l.claim(l.queue(batch.Room))
}

func TestRoomEndFindsWhatArrivesMeanwhile(t *testing.T) {
	t.Parallel()
	for _, rowWise := range []bool{false, true} {
		for _, within := range []bool{false, true} {
			t.Run(fmt.Sprintf("row wise %v, after the step is chosen %v", rowWise, within), func(t *testing.T) {
				t.Parallel()
				l := furnished(t)
				census := newCensus(t, l.ctx, l.conn, room)
				others := census.others(t)
				e := l.ender(room, rowWise)
				parts := map[string]bool{}
				for batches := 0; ; batches++ {
					require.Less(t, batches, 1000)
					var between func()
					if within && batches%2 == 0 && batches < 40 {
						between = func() { arrive(t, l.ctx, l.conn, room) }
					}
					done, more, err := e.step(1, between)
					require.NoError(t, err)
					if !more {
						break
					}
					if parts[done.At.Part] = true; !within && batches%2 == 0 && batches < 40 {
						arrive(t, l.ctx, l.conn, room)
					}
					l.noOrphans()
				}
				require.Len(t, parts, 5, parts) // but for one that ends with the part before
				require.Empty(t, census.left(t))
				census.unchanged(t, others)
			})
		}
	}
}

// What comes to reference an event while its batch is at work.
func TestRoomEndBesideWriters(t *testing.T) {
	t.Parallel()
	for _, rowWise := range []bool{false, true} {
		for name, sql := range map[string]string{
			"an edge": `INSERT INTO event_edges (event_id, prev_event_id) VALUES ('$of0-5', '$0')`,
			"a membership": `INSERT INTO room_memberships (event_id, user_id, sender, room_id, membership, event_stream_ordering)
				VALUES ('$of0-5', '@w:x', '@w:x', '!room:x', 'leave', 5)`,
			"current state": `INSERT INTO current_state_events (event_id, room_id, type, state_key, event_stream_ordering)
				VALUES ('$of0-5', '!room:x', 'w', '', 5)`,
			"a thread subscription": `INSERT INTO thread_subscriptions (stream_id, instance_name, room_id, event_id, user_id, subscribed, automatic)
				VALUES (9, 'm', '!room:x', '$of0-5', '@u:x', true, true)`,
			"a destination": `INSERT INTO destination_rooms (destination, room_id, stream_ordering) VALUES ('w', '!room:x', 1)`,
		} {
			t.Run(fmt.Sprintf("%s, row wise %v", name, rowWise), func(t *testing.T) {
				t.Parallel()
				l := furnished(t)
				census := newCensus(t, l.ctx, l.conn, room)
				others := census.others(t)
				e := l.ender(room, rowWise)
				for e.purge.At.Part != "events" {
					_, more, err := e.step(3, nil)
					require.NoError(t, err)
					require.True(t, more)
				}
				tx := l.writer()
				_, err := tx.Exec(l.ctx, sql)
				require.NoError(t, err)
				ended := make(chan error, 1)
				go func() {
					_, _, err := e.end(10)
					ended <- err
				}()
				l.waits()
				require.NoError(t, tx.Commit(l.ctx))
				require.NoError(t, <-ended)
				l.noOrphans()
				require.Empty(t, census.left(t))
				census.unchanged(t, others)
			})
		}
	}
}

// What is not the room's is not deleted with it, and stops it.
func TestRoomEndStopsAtAnothersReference(t *testing.T) {
	t.Parallel()
	for _, rowWise := range []bool{false, true} {
		l := furnished(t)
		l.exec(`INSERT INTO room_memberships (event_id, user_id, sender, room_id, membership, event_stream_ordering)
			VALUES ('$elsewhere', '@w:x', '@w:x', '!other:x', 'leave', 3)`)
		census := newCensus(t, l.ctx, l.conn, room)
		others := census.others(t)
		e := l.ender(room, rowWise)
		_, _, err := e.end(100)
		require.ErrorContains(t, err, "room_memberships")
		require.ErrorContains(t, err, "23503")
		require.Equal(t, 6, census.left(t)["events"])
		census.unchanged(t, others)
		l.noOrphans()

		l.exec(`DELETE FROM room_memberships WHERE event_id = '$elsewhere'`)
		_, _, err = e.end(100)
		require.NoError(t, err)
		require.Empty(t, census.left(t))
	}
}

func TestRoomWithLocalUsersEndsOnlyByForce(t *testing.T) {
	t.Parallel()
	l := setup(t)
	for i, c := range []struct {
		member, membership string
		refused            bool
	}{
		{"@a:" + serverName, "join", true},
		{"@:" + serverName, "join", true},
		{"@a:" + serverName, "invite", false},
		{"@a:" + serverName, "knock", false},
		{"@a:" + serverName, "ban", false},
		{"@a:" + serverName, "leave", false},
		{"@a:far", "join", false},
		{"@a:" + serverName + ":1", "join", false},
		{"@a:far:" + serverName, "join", false},
		{"@a:myXserver:8448", "join", false},
		{serverName, "join", false},
	} {
		room := fmt.Sprintf("!%d:x", i)
		l.chain(room, fmt.Sprint(i, "-"), 3, 10*i)
		l.exec(`INSERT INTO current_state_events (event_id, room_id, type, state_key, membership, event_stream_ordering)
			SELECT event_id, $1, 'm.room.member', $2, $3, stream_ordering FROM events WHERE room_id = $1 LIMIT 1`, room, c.member, c.membership)
		e := l.ender(room, false)
		e.purge.Force = false
		step, err := e.store.NextRoomStep(l.ctx, e.catalog, e.purge)
		require.NoError(t, err)
		if c.refused {
			require.ErrorIs(t, e.store.GuardRoom(l.ctx, e.purge), store.ErrUsersJoined, c)
			l.unchanged(func() {
				_, err := step(l.ctx, e.batch, e.catalog, 9, nothing)
				require.ErrorIs(t, err, store.ErrUsersJoined, c)
			})
			e.purge.Force = true
		}
		require.NoError(t, e.store.GuardRoom(l.ctx, e.purge), c)
		_, _, err = e.end(9)
		require.NoError(t, err, c)
		require.Zero(t, one[int](l, `SELECT count(*) FROM events`))
	}
}

// A user who joins while the room is being deleted stops it as one who was there.
func TestRoomEndIsStoppedByAUserWhoJoinsMeanwhile(t *testing.T) {
	t.Parallel()
	for _, rowWise := range []bool{false, true} {
		l := furnished(t)
		e := l.ender(room, rowWise)
		e.purge.Force = false
		for e.purge.At.Part != "events" {
			_, _, err := e.step(3, nil)
			require.NoError(t, err)
		}
		const join = `INSERT INTO current_state_events (event_id, room_id, type, state_key, membership, event_stream_ordering)
			VALUES ('$of0-5', '!room:x', 'm.room.member', '@u:` + serverName + `', 'join', 5)`
		_, _, err := e.step(9, func() { l.exec(join) })
		require.ErrorIs(t, err, store.ErrUsersJoined)
		require.ErrorIs(t, e.store.GuardRoom(l.ctx, e.purge), store.ErrUsersJoined)
		e.purge.Force = true
		_, _, err = e.end(9)
		require.NoError(t, err)
	}
}

func TestUnknownRoomEnds(t *testing.T) {
	t.Parallel()
	l := furnished(t)
	e := l.ender("!unknown:x", false)
	require.NoError(t, e.store.GuardRoom(l.ctx, e.purge))
	l.unchanged(func() {
		_, batches, err := e.end(9)
		require.NoError(t, err)
		require.Zero(t, batches)
	})
	// One that left something without a row of its own, wherever it is.
	l.exec(`INSERT INTO room_tags VALUES ('@u:x', '!unknown:x', 't', '{}')`)
	l.exec(`INSERT INTO room_retention (room_id, event_id) VALUES ('!unknown:x', '$none')`)
	l.exec(`INSERT INTO events (event_id, room_id, type, topological_ordering, processed, outlier) VALUES ('$no stream', '!unknown:x', 't', 1, true, true)`)
	all, batches, err := e.end(9)
	require.NoError(t, err)
	require.Equal(t, 1, batches)
	require.EqualValues(t, 1, all.Events)
	require.EqualValues(t, 2, all.Rows)
}

// Aliases that lead to another room by now are that room's.
func TestMovedAliasesSurviveTheRoom(t *testing.T) {
	t.Parallel()
	l := furnished(t)
	l.exec(`INSERT INTO room_aliases (room_alias, room_id, creator) VALUES ('#moved:x', '!other:x', '@u:x')`)
	l.exec(`INSERT INTO room_alias_servers VALUES ('#moved:x', 'far')`)
	_, _, err := l.ender(room, false).end(9)
	require.NoError(t, err)
	require.Equal(t, []string{"#furniture!other:x", "#moved:x"}, all[string](l, `SELECT room_alias FROM room_aliases ORDER BY 1`))
	require.Equal(t, []string{"#furniture!other:x", "#moved:x"}, all[string](l, `SELECT room_alias FROM room_alias_servers ORDER BY 1`))
}

func TestStateOfARoomGoesInBatches(t *testing.T) {
	t.Parallel()
	l := setup(t)
	// One large group, between small ones and one that stores nothing.
	l.exec(`INSERT INTO state_groups SELECT i, $1, '$e' FROM generate_series(1, 9) i`, room)
	l.exec(`INSERT INTO state_groups_state SELECT g, $1, 't', 'k' || i, '$e' FROM generate_series(1, 8) g, generate_series(1, CASE g WHEN 4 THEN 500 ELSE 2 END) i`, room)
	l.exec(`INSERT INTO state_group_edges SELECT i, i - 1 FROM generate_series(2, 9) i`)
	l.exec(`INSERT INTO state_group_edges VALUES (77, 4)`) // forgotten, with its group
	l.exec(`INSERT INTO state_groups VALUES (88, '!other:x', '$e')`)
	l.exec(`INSERT INTO state_groups_state VALUES (88, '!other:x', 't', '', '$e')`)
	e := l.ender(room, false)
	var groups, rows int64
	for {
		left := one[int64](l, `SELECT count(*) FROM state_groups_state`)
		done, more, err := e.step(7, nil)
		require.NoError(t, err)
		if !more {
			break
		}
		require.LessOrEqual(t, left-one[int64](l, `SELECT count(*) FROM state_groups_state`), int64(70))
		require.Zero(t, one[int](l, `
			SELECT count(*) FROM state_groups_state t WHERE NOT EXISTS (SELECT FROM state_groups g WHERE g.id = t.state_group)`))
		groups, rows = groups+done.StateGroups, rows+done.Rows
	}
	require.EqualValues(t, 9, groups)
	require.EqualValues(t, 500+7*2+8+1, rows)
	require.Equal(t, []int64{88}, l.groups())
	require.Equal(t, 1, one[int](l, `SELECT count(*) FROM state_groups_state`))
	require.Zero(t, one[int](l, `SELECT count(*) FROM state_group_edges`))
}

func TestRoomMayBeMadeAgain(t *testing.T) {
	t.Parallel()
	for _, rowWise := range []bool{false, true} {
		l := setup(t)
		keep, err := roomgen.Generate(l.ctx, l.conn, roomgen.Room{Server: serverName, Seed: 1, Events: 60})
		require.NoError(t, err)
		room := roomgen.Room{Server: serverName, Seed: 2, Events: 700, StateEvery: 5}
		made, err := roomgen.Generate(l.ctx, l.conn, room)
		require.NoError(t, err)
		for range 2 {
			census := newCensus(t, l.ctx, l.conn, made.Room)
			others := census.others(t)
			e := l.ender(made.Room, rowWise)
			all, _, err := e.end(150)
			require.NoError(t, err)
			require.Empty(t, census.left(t))
			census.unchanged(t, others)
			require.EqualValues(t, made.Events, all.Events)
			require.EqualValues(t, made.StateGroups, all.StateGroups)
			require.NoError(t, e.store.EndJob(l.ctx, e.batch.Run, store.JobComplete, ""))
			made, err = roomgen.Generate(l.ctx, l.conn, room)
			require.NoError(t, err)
		}
		require.NotEmpty(t, l.timeline(keep.Room))
	}
}

func TestRoomCatalogNamesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.exec(`CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'`)
	l.exec(`ALTER TABLE receipts_linearized ADD UNIQUE (stream_id, user_id)`)
	for want, c := range map[string]struct{ make, undo string }{
		"unknown table stars references events": {
			`CREATE TABLE stars (event_id text REFERENCES events (event_id))`, `DROP TABLE stars`,
		},
		"unknown table stars references rooms": {
			`CREATE TABLE stars (room_id text REFERENCES rooms ON DELETE CASCADE)`, `DROP TABLE stars`,
		},
		"unknown table stars references receipts_linearized": {
			`CREATE TABLE stars (i bigint, u text, FOREIGN KEY (i, u) REFERENCES receipts_linearized (stream_id, user_id))`, `DROP TABLE stars`,
		},
		"unknown table stars references partial_state_rooms": {
			`CREATE TABLE stars (room_id text REFERENCES partial_state_rooms)`, `DROP TABLE stars`,
		},
		"room_tags has the unknown trigger audit": {
			`CREATE TRIGGER audit BEFORE DELETE ON room_tags FOR EACH ROW EXECUTE FUNCTION nop()`, `DROP TRIGGER audit ON room_tags`,
		},
		"e2e_room_keys has the unknown rule keep": {
			`CREATE RULE keep AS ON DELETE TO e2e_room_keys DO INSTEAD NOTHING`, `DROP RULE keep ON e2e_room_keys`,
		},
		"event_push_summary has the unknown child table archive": {
			`CREATE TABLE archive () INHERITS (event_push_summary)`, `DROP TABLE archive`,
		},
		"it has no table room_account_data": {
			`ALTER TABLE room_account_data RENAME TO hidden`, `ALTER TABLE hidden RENAME TO room_account_data`,
		},
	} {
		l.exec(c.make)
		l.unchanged(func() {
			_, err := l.store.RoomCatalog(l.ctx)
			require.ErrorIs(t, err, store.ErrCatalog, want)
			require.ErrorContains(t, err, want)
		})
		l.exec(c.undo)
	}
	_, err := l.store.RoomCatalog(l.ctx)
	require.NoError(t, err)
}

// With the wrong catalog the room would seem to be gone before it is.
func TestRoomEndTakesOnlyItsOwnCatalog(t *testing.T) {
	t.Parallel()
	l := furnished(t)
	e := l.ender(room, false)
	step, err := e.store.NextRoomStep(l.ctx, e.catalog, e.purge)
	require.NoError(t, err)
	history, err := l.store.Catalog(l.ctx)
	require.NoError(t, err)
	l.unchanged(func() {
		for _, catalog := range []store.Catalog{history, {}} {
			_, err := e.store.NextRoomStep(l.ctx, catalog, e.purge)
			require.ErrorContains(t, err, "catalog")
			_, err = step(l.ctx, e.batch, catalog, 9, nothing)
			require.ErrorContains(t, err, "catalog")
		}
	})
}

func TestRoomEndDoesWithoutOptionalTables(t *testing.T) {
	t.Parallel()
	l := furnished(t)
	l.exec(`DROP TABLE msc4242_state_dag_edges, msc4242_state_dag_forward_extremities, sliding_sync_joined_rooms,
		sliding_sync_joined_rooms_to_recalculate, sliding_sync_membership_snapshots, state_groups_pending_deletion,
		state_groups_persisting, sticky_events, thread_subscriptions, timeline_gaps`)
	// As before there was this index, and with what 1.91 had.
	l.exec(`DROP INDEX room_account_data_room_id`)
	l.exec(`CREATE TABLE insertion_events (event_id text, room_id text, next_batch_id text)`)
	l.exec(`INSERT INTO insertion_events SELECT event_id, room_id, 'b' FROM events`)
	census := newCensus(t, l.ctx, l.conn, room)
	others := census.others(t)
	_, _, err := l.ender(room, false).end(3)
	require.NoError(t, err)
	require.Empty(t, census.left(t))
	census.unchanged(t, others)
}

func TestRoomEndIsFenced(t *testing.T) {
	t.Parallel()
	l := furnished(t)
	e := l.ender(room, false)
	_, err := l.store.NextFence(l.ctx, room)
	require.NoError(t, err)
	before := l.dump("public")
	_, _, err = e.end(9)
	require.ErrorIs(t, err, store.ErrFenced)
	require.Equal(t, before, l.dump("public"))
}

// A room that is being persisted to is waited for.
func TestRoomEndWaitsForWhoPersists(t *testing.T) {
	t.Parallel()
	l := furnished(t)
	census := newCensus(t, l.ctx, l.conn, room)
	e := l.ender(room, false)
	tx := l.writer()
	_, err := tx.Exec(l.ctx, `SELECT room_version FROM rooms WHERE room_id = $1 FOR SHARE`, room)
	require.NoError(t, err)
	_, err = tx.Exec(l.ctx, `INSERT INTO events (event_id, room_id, type, topological_ordering, stream_ordering, processed, outlier)
		VALUES ('$new', $1, 't', 9, 9, true, false)`, room)
	require.NoError(t, err)
	_, err = tx.Exec(l.ctx, `INSERT INTO event_forward_extremities VALUES ('$new', $1)`, room)
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() {
		_, _, err := e.end(100)
		ended <- err
	}()
	l.waits()
	require.NoError(t, tx.Commit(l.ctx))
	require.NoError(t, <-ended)
	require.Empty(t, census.left(t))
	err = l.tryWrite(`INSERT INTO destination_rooms VALUES ('far', '` + room + `', 1)`)
	var refused *pgconn.PgError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "23503", refused.Code)
}

// TestDrawnRoomsEnd ends small rooms of every shape in batches of any size, by
// each path, with runs that die and rows that arrive, and looks at every table
// afterwards.
func TestDrawnRoomsEnd(t *testing.T) {
	t.Parallel()
	url := devstacktest.Database(t, "embedded", store.MigrateEmbedded)
	p := newPurger(t, url, url, store.Options{SetWiseFrom: 1})
	searching := newPurger(t, url, url, store.Options{SetWiseFrom: 1, SearchFrom: 1})
	plain := newPurger(t, url, devstacktest.AsPlainRole(t, url), store.Options{})
	var others []string // tables that fill does not know
	for table := range newCensus(t, p.ctx, p.conn, weirdRoom).tables {
		if !slices.Contains(filled, table) {
			others = append(others, table)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		_, err := p.conn.Exec(p.ctx, `BEGIN; SET LOCAL session_replication_role = replica;
			DELETE FROM `+strings.Join(others, "; DELETE FROM ")+`; COMMIT`)
		require.NoError(t, err)
		p.fill(t, drawDatabase(t))
		for _, room := range []string{weirdRoom, bystanderRoom} {
			if rapid.Bool().Draw(t, "furnished") {
				furnish(t, p.ctx, p.conn, room)
			}
		}
		census := newCensus(t, p.ctx, p.conn, weirdRoom)
		others := census.others(t)

		by := rapid.SampledFrom([]*purger{p, searching, plain}).Draw(t, "by")
		s := by.store
		catalog, err := s.RoomCatalog(p.ctx)
		require.NoError(t, err)
		require.Equal(t, by == plain, catalog.RowWise() != "")
		e := &ender{p.ctx, s, catalog, p.begin(t, weirdRoom), store.RoomPurge{Room: weirdRoom, ServerName: serverName, Force: true}}
		arrivals := rapid.IntRange(0, 3).Draw(t, "arrivals")
		for batches := 0; ; batches++ {
			require.Less(t, batches, 1000)
			size := rapid.SampledFrom([]int{2, 5, 20, 1000, 1}).Draw(t, "size")
			var between func()
			if arrivals > 0 && rapid.IntRange(0, 3).Draw(t, "arrives") == 0 {
				arrivals--
				between = func() { arrive(t, p.ctx, p.conn, weirdRoom) }
			}
			_, more, err := e.step(size, between)
			require.NoError(t, err)
			if !more {
				break
			}
			if rapid.IntRange(0, 4).Draw(t, "dies") == 0 {
				e.purge.At = store.RoomPosition{}
			}
		}
		require.NoError(t, p.store.EndJob(p.ctx, e.batch.Run, store.JobComplete, ""))
		require.Empty(t, census.left(t))
		census.unchanged(t, others)
	})
}
