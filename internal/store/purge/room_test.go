package purge_test

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
	"lethe/internal/store/journal"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/store/storetest"
)

// A deleter deletes a room, as a job does but without waiting for a lock.
type deleter struct {
	ctx     context.Context
	journal *journal.Journal
	room    *purge.Room
	at      purge.RoomPosition
	work    storetest.Work
}

// deleter returns one for the room, by the path that checks references set-wise or
// row by row.
func (l *lab) deleter(room string, rowWise bool) *deleter {
	l.T.Helper()
	if rowWise {
		db, err := postgres.Open(l.Ctx, devstacktest.AsPlainRole(l.T, l.URL), postgres.Options{})
		require.NoError(l.T, err)
		l.T.Cleanup(db.Close)
		l = &lab{new(*l.Lab)}
		l.use(db, purge.Options{SetWiseFrom: 1})
	}
	catalog, err := l.Purger.RoomCatalog(l.Ctx)
	require.NoError(l.T, err)
	if version := storetest.Version(l.T, l.Conn); !rowWise && version < 15_00_00 {
		l.T.Skip("before PostgreSQL 15 only a superuser may check references set-wise")
	}
	require.Equal(l.T, rowWise, catalog.RowWise() != "", catalog.RowWise())
	deleted, err := l.Purger.Room(l.Ctx, purge.RoomRequest{Room: room, ServerName: serverName, Force: true})
	require.NoError(l.T, err)
	return &deleter{ctx: l.Ctx, journal: l.Journal, room: deleted, work: l.Work(room)}
}

// step does one batch, and returns false if there was none to do. Before it, but
// after it has been decided what it is to do, it calls between.
func (e *deleter) step(size int, between func()) (done purge.RoomBatch, more bool, err error) {
	parts, err := e.room.Next(e.ctx, e.at)
	if err != nil || len(parts) == 0 {
		return done, false, err
	}
	if between != nil {
		between()
	}
	done, err = e.delete(parts, size)
	if err == nil {
		e.at = done.At
	}
	return done, true, err
}

// delete does one batch of these parts.
func (e *deleter) delete(parts purge.Parts, size int) (done purge.RoomBatch, err error) {
	err = storetest.InBatch(e.ctx, e.journal, e.work, func(b *journal.Batch) (any, error) {
		done, err = e.room.Delete(e.ctx, b, parts, e.at, size)
		return nil, err
	})
	return done, err
}

// end does all batches, and returns what they did together.
func (e *deleter) end(size int) (all purge.RoomBatch, batches int, err error) {
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

func TestDeleteOnSynapsesSchema(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		version, name string
		rowWise       bool
	}{
		{"1.160", "ops", false},
		{"1.160", "lobby", false},
		{"1.160", "lobby", true},
		{"1.160", "tiny", false},
		{"1.98", "lobby", false},
		{"1.98", "lobby", true},
		{"1.91", "lobby", false},
		{"1.91", "lobby", true},
		{"1.91", "tiny", false},
	} {
		t.Run(fmt.Sprintf("%s, %s, row wise %v", c.version, c.name, c.rowWise), func(t *testing.T) {
			t.Parallel()
			room := corpusRooms[c.name]
			l := setupOn(t, storetest.Restored(t, "synapse-1.160-corpus.dump", c.version))
			require.NoError(t, migrate.Up(l.Ctx, l.URL))
			fewest := 15
			if c.name != "tiny" { // one as it is, too
				fewest = map[string]int{"1.160": 60, "1.98": 50, "1.91": 50}[c.version]
				l.Exec(`INSERT INTO destinations (destination) VALUES ('far')`)
				for _, room := range corpusRooms {
					furnish(t, l.Ctx, l.Conn, room)
				}
			}
			if c.version == "1.91" {
				l.plantOldRows()
			}
			census := newCensus(t, l.Ctx, l.Conn, room)
			before, others := census.left(t), census.others(t)
			require.Greater(t, len(before), fewest, before)

			e := l.deleter(room, c.rowWise)
			all, _, err := e.end(30)
			require.NoError(t, err)
			require.Empty(t, census.left(t))
			census.unchanged(t, others)
			require.EqualValues(t, before["events"], all.Events)
			require.EqualValues(t, before["state_groups"], all.StateGroups)
			if !c.rowWise {
				sum := 0
				for _, n := range before {
					sum += n
				}
				require.EqualValues(t, sum, all.Events+all.StateGroups+all.Rows)
			}
			l.noOrphans()

			// P6.
			l.RequireUnchanged(func() {
				e.at = purge.RoomPosition{}
				_, batches, err := e.end(5)
				require.NoError(t, err)
				require.Zero(t, batches)
			})
		})
	}
}

// furnished is a room with a row in each table, and another one like it.
func furnished(t *testing.T) *lab {
	t.Helper()
	l := setup(t)
	l.Exec(`INSERT INTO users (name) VALUES ('@u:x')`)
	l.Exec(`INSERT INTO devices (user_id, device_id) VALUES ('@u:x', 'D')`)
	// Tables that only Synapse makes.
	l.Exec(`CREATE TABLE delayed_events (delay_id text, user_localpart text, delay bigint, send_ts bigint, room_id text, event_type text,
		state_key text, content text)`)
	for i, room := range []string{room, "!other:x"} {
		l.Chain(room, fmt.Sprint("of", i, "-"), 6, 100*i)
		furnish(t, l.Ctx, l.Conn, room)
		l.Exec(`INSERT INTO event_txn_id_device_id VALUES ('$of' || $1::int || '-2', $2, '@u:x', 'D', 't', 0)`, i, room)
		l.Exec(`INSERT INTO lethe.state_group_candidates (room_id, state_group) VALUES ($1, $2)`, room, 100*i+1)
	}
	return l
}

func TestDeleteEmptiesEveryTable(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 4, math.MaxInt32} {
		for _, rowWise := range []bool{false, true} {
			t.Run(fmt.Sprintf("size %d, row wise %v", size, rowWise), func(t *testing.T) {
				t.Parallel()
				l := furnished(t)
				census := newCensus(t, l.Ctx, l.Conn, room)
				others := census.others(t)
				require.Len(t, census.left(t), len(furniture)+3-2-1, "all but the kept, and those that only Synapse has: %v", census.left(t))
				e := l.deleter(room, rowWise)
				gone := false
				for {
					done, more, err := e.step(size, nil)
					require.NoError(t, err)
					if !more {
						break
					}
					if !gone { // at once, whatever the size
						gone = true
						require.Zero(t, storetest.One[int](l.Lab, `SELECT count(*) FROM current_state_events WHERE room_id = $1`, room))
						require.Zero(t, storetest.One[int](l.Lab, `SELECT count(*) FROM local_current_membership WHERE room_id = $1`, room))
						require.Zero(t, storetest.One[int](l.Lab, `SELECT count(*) FROM room_aliases WHERE room_id = $1`, room))
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
				require.Equal(t, []string{"!other:x"}, storetest.All[string](l.Lab, `SELECT room_id FROM lethe.state_group_candidates`))
				require.Equal(t, 1, storetest.One[int](l.Lab, `SELECT count(*) FROM blocked_rooms WHERE room_id = $1`, room))
			})
		}
	}
}

// A run that dies after any number of batches of any size leaves what a new one
// finishes.
func TestDeleteMayBeginAnywhere(t *testing.T) {
	t.Parallel()
	for size := 1; size <= 3; size++ {
		l := furnished(t)
		census := newCensus(t, l.Ctx, l.Conn, room)
		others := census.others(t)
		// The same database again and again: each run does one batch and dies.
		e := l.deleter(room, size == 2)
		for batches := 0; ; batches++ {
			require.Less(t, batches, 1000)
			e.at = purge.RoomPosition{}
			_, more, err := e.step(size, nil)
			require.NoError(t, err)
			if !more {
				require.Greater(t, batches, 4)
				break
			}
			e.work.Run = l.again(e.work)
		}
		require.Empty(t, census.left(t))
		census.unchanged(t, others)
	}
}

// again ends a run's job and makes the next one of the room.
func (l *lab) again(work storetest.Work) journal.Run {
	l.T.Helper()
	require.NoError(l.T, l.Journal.EndJob(l.Ctx, work.Run, journal.Complete, ""))
	return l.Claim(l.Queue(work.Room))
}

func TestDeleteFindsLateRows(t *testing.T) {
	t.Parallel()
	for _, rowWise := range []bool{false, true} {
		for _, within := range []bool{false, true} {
			t.Run(fmt.Sprintf("row wise %v, after the step is chosen %v", rowWise, within), func(t *testing.T) {
				t.Parallel()
				l := furnished(t)
				census := newCensus(t, l.Ctx, l.Conn, room)
				others := census.others(t)
				e := l.deleter(room, rowWise)
				parts := map[string]bool{}
				for batches := 0; ; batches++ {
					require.Less(t, batches, 1000)
					var between func()
					if within && batches%2 == 0 && batches < 40 {
						between = func() { arrive(t, l.Ctx, l.Conn, room) }
					}
					done, more, err := e.step(1, between)
					require.NoError(t, err)
					if !more {
						break
					}
					if parts[done.At.Part] = true; !within && batches%2 == 0 && batches < 40 {
						arrive(t, l.Ctx, l.Conn, room)
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

// Rows that begin to reference an event while its batch runs.
func TestDeleteBesideWriters(t *testing.T) {
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
				census := newCensus(t, l.Ctx, l.Conn, room)
				others := census.others(t)
				e := l.deleter(room, rowWise)
				for e.at.Part != "events" {
					_, more, err := e.step(3, nil)
					require.NoError(t, err)
					require.True(t, more)
				}
				tx := l.writer()
				_, err := tx.Exec(l.Ctx, sql)
				require.NoError(t, err)
				ended := make(chan error, 1)
				go func() {
					_, _, err := e.end(10)
					ended <- err
				}()
				l.RequireLockWait()
				require.NoError(t, tx.Commit(l.Ctx))
				require.NoError(t, <-ended)
				l.noOrphans()
				require.Empty(t, census.left(t))
				census.unchanged(t, others)
			})
		}
	}
}

// A row of another room is not deleted, and stops the delete.
func TestDeleteStopsAtAReferenceOfAnotherRoom(t *testing.T) {
	t.Parallel()
	for _, rowWise := range []bool{false, true} {
		l := furnished(t)
		l.Exec(`INSERT INTO room_memberships (event_id, user_id, sender, room_id, membership, event_stream_ordering)
			VALUES ('$elsewhere', '@w:x', '@w:x', '!other:x', 'leave', 3)`)
		census := newCensus(t, l.Ctx, l.Conn, room)
		others := census.others(t)
		e := l.deleter(room, rowWise)
		_, _, err := e.end(100)
		require.ErrorContains(t, err, "room_memberships")
		require.ErrorContains(t, err, "23503")
		require.Equal(t, 6, census.left(t)["events"])
		census.unchanged(t, others)
		l.noOrphans()

		l.Exec(`DELETE FROM room_memberships WHERE event_id = '$elsewhere'`)
		_, _, err = e.end(100)
		require.NoError(t, err)
		require.Empty(t, census.left(t))
	}
}

func TestDeleteWithLocalUsersNeedsForce(t *testing.T) {
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
		l.Chain(room, fmt.Sprint(i, "-"), 3, 10*i)
		l.Exec(`INSERT INTO current_state_events (event_id, room_id, type, state_key, membership, event_stream_ordering)
			SELECT event_id, $1, 'm.room.member', $2, $3, stream_ordering FROM events WHERE room_id = $1 LIMIT 1`, room, c.member, c.membership)
		e := l.deleter(room, false)
		e.room.Force = false
		parts, err := e.room.Next(l.Ctx, e.at)
		require.NoError(t, err)
		if c.refused {
			require.ErrorIs(t, e.room.Guard(l.Ctx), purge.ErrUsersJoined, c)
			l.RequireUnchanged(func() {
				_, err := e.delete(parts, 9)
				require.ErrorIs(t, err, purge.ErrUsersJoined, c)
			})
			e.room.Force = true
		}
		require.NoError(t, e.room.Guard(l.Ctx), c)
		_, _, err = e.end(9)
		require.NoError(t, err, c)
		require.Zero(t, storetest.One[int](l.Lab, `SELECT count(*) FROM events`))
	}
}

// A user who joins during the delete stops it, like a user who was joined before.
func TestDeleteStopsWhenAUserJoins(t *testing.T) {
	t.Parallel()
	for _, rowWise := range []bool{false, true} {
		l := furnished(t)
		e := l.deleter(room, rowWise)
		e.room.Force = false
		for e.at.Part != "events" {
			_, _, err := e.step(3, nil)
			require.NoError(t, err)
		}
		const join = `INSERT INTO current_state_events (event_id, room_id, type, state_key, membership, event_stream_ordering)
			VALUES ('$of0-5', '!room:x', 'm.room.member', '@u:` + serverName + `', 'join', 5)`
		_, _, err := e.step(9, func() { l.Exec(join) })
		require.ErrorIs(t, err, purge.ErrUsersJoined)
		require.ErrorIs(t, e.room.Guard(l.Ctx), purge.ErrUsersJoined)
		e.room.Force = true
		_, _, err = e.end(9)
		require.NoError(t, err)
	}
}

func TestDeleteOfAnUnknownRoom(t *testing.T) {
	t.Parallel()
	l := furnished(t)
	e := l.deleter("!unknown:x", false)
	require.NoError(t, e.room.Guard(l.Ctx))
	l.RequireUnchanged(func() {
		_, batches, err := e.end(9)
		require.NoError(t, err)
		require.Zero(t, batches)
	})
	// One that left something without a row of its own, wherever it is.
	l.Exec(`INSERT INTO room_tags VALUES ('@u:x', '!unknown:x', 't', '{}')`)
	l.Exec(`INSERT INTO room_retention (room_id, event_id) VALUES ('!unknown:x', '$none')`)
	l.Exec(`INSERT INTO events (event_id, room_id, type, topological_ordering, processed, outlier) VALUES ('$no stream', '!unknown:x', 't', 1, true, true)`)
	all, batches, err := e.end(9)
	require.NoError(t, err)
	require.Equal(t, 1, batches)
	require.EqualValues(t, 1, all.Events)
	require.EqualValues(t, 2, all.Rows)
}

// Aliases that lead to another room by now belong to that room.
func TestMovedAliasesSurviveTheRoom(t *testing.T) {
	t.Parallel()
	l := furnished(t)
	l.Exec(`INSERT INTO room_aliases (room_alias, room_id, creator) VALUES ('#moved:x', '!other:x', '@u:x')`)
	l.Exec(`INSERT INTO room_alias_servers VALUES ('#moved:x', 'far')`)
	_, _, err := l.deleter(room, false).end(9)
	require.NoError(t, err)
	require.Equal(t, []string{"#furniture!other:x", "#moved:x"}, storetest.All[string](l.Lab, `SELECT room_alias FROM room_aliases ORDER BY 1`))
	require.Equal(t, []string{"#furniture!other:x", "#moved:x"}, storetest.All[string](l.Lab, `SELECT room_alias FROM room_alias_servers ORDER BY 1`))
}

func TestStateIsDeletedInBatches(t *testing.T) {
	t.Parallel()
	l := setup(t)
	// One large group, between small ones and one that stores nothing.
	l.Exec(`INSERT INTO state_groups SELECT i, $1, '$e' FROM generate_series(1, 9) i`, room)
	l.Exec(`INSERT INTO state_groups_state SELECT g, $1, 't', 'k' || i, '$e' FROM generate_series(1, 8) g, generate_series(1, CASE g WHEN 4 THEN 500 ELSE 2 END) i`, room)
	l.Exec(`INSERT INTO state_group_edges SELECT i, i - 1 FROM generate_series(2, 9) i`)
	l.Exec(`INSERT INTO state_group_edges VALUES (77, 4)`) // forgotten, with its group
	l.Exec(`INSERT INTO state_groups VALUES (88, '!other:x', '$e')`)
	l.Exec(`INSERT INTO state_groups_state VALUES (88, '!other:x', 't', '', '$e')`)
	e := l.deleter(room, false)
	var groups, rows int64
	for {
		left := storetest.One[int64](l.Lab, `SELECT count(*) FROM state_groups_state`)
		done, more, err := e.step(7, nil)
		require.NoError(t, err)
		if !more {
			break
		}
		require.LessOrEqual(t, left-storetest.One[int64](l.Lab, `SELECT count(*) FROM state_groups_state`), int64(70))
		require.Zero(t, storetest.One[int](l.Lab, `
			SELECT count(*) FROM state_groups_state t WHERE NOT EXISTS (SELECT FROM state_groups g WHERE g.id = t.state_group)`))
		groups, rows = groups+done.StateGroups, rows+done.Rows
	}
	require.EqualValues(t, 9, groups)
	require.EqualValues(t, 500+7*2+8+1, rows)
	require.Equal(t, []int64{88}, l.groups())
	require.Equal(t, 1, storetest.One[int](l.Lab, `SELECT count(*) FROM state_groups_state`))
	require.Zero(t, storetest.One[int](l.Lab, `SELECT count(*) FROM state_group_edges`))
}

func TestRoomMayBeMadeAgain(t *testing.T) {
	t.Parallel()
	for _, rowWise := range []bool{false, true} {
		l := setup(t)
		keep, err := roomgen.Generate(l.Ctx, l.Conn, roomgen.Room{Server: serverName, Seed: 1, Events: 60})
		require.NoError(t, err)
		room := roomgen.Room{Server: serverName, Seed: 2, Events: 700, StateEvery: 5}
		made, err := roomgen.Generate(l.Ctx, l.Conn, room)
		require.NoError(t, err)
		for range 2 {
			census := newCensus(t, l.Ctx, l.Conn, made.Room)
			others := census.others(t)
			e := l.deleter(made.Room, rowWise)
			all, _, err := e.end(150)
			require.NoError(t, err)
			require.Empty(t, census.left(t))
			census.unchanged(t, others)
			require.EqualValues(t, made.Events, all.Events)
			require.EqualValues(t, made.StateGroups, all.StateGroups)
			require.NoError(t, e.journal.EndJob(l.Ctx, e.work.Run, journal.Complete, ""))
			made, err = roomgen.Generate(l.Ctx, l.Conn, room)
			require.NoError(t, err)
		}
		require.NotEmpty(t, l.Timeline(keep.Room))
	}
}

func TestRoomCatalogNamesWhatItDoesNotKnow(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Exec(`CREATE FUNCTION nop() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'`)
	l.Exec(`ALTER TABLE receipts_linearized ADD UNIQUE (stream_id, user_id)`)
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
		l.Exec(c.make)
		l.RequireUnchanged(func() {
			_, err := l.Purger.RoomCatalog(l.Ctx)
			require.ErrorIs(t, err, purge.ErrCatalog, want)
			require.ErrorContains(t, err, want)
		})
		l.Exec(c.undo)
	}
	_, err := l.Purger.RoomCatalog(l.Ctx)
	require.NoError(t, err)
}

func TestDeleteWithoutOptionalTables(t *testing.T) {
	t.Parallel()
	l := furnished(t)
	l.Exec(`DROP TABLE msc4242_state_dag_edges, msc4242_state_dag_forward_extremities, sliding_sync_joined_rooms,
		sliding_sync_joined_rooms_to_recalculate, sliding_sync_membership_snapshots, state_groups_pending_deletion,
		state_groups_persisting, sticky_events, thread_subscriptions, timeline_gaps, delayed_events, room_ban_redactions`)
	// As before there was this index, and with what 1.91 had.
	l.Exec(`DROP INDEX room_account_data_room_id`)
	l.Exec(`CREATE TABLE insertion_events (event_id text, room_id text, next_batch_id text)`)
	l.Exec(`INSERT INTO insertion_events SELECT event_id, room_id, 'b' FROM events`)
	census := newCensus(t, l.Ctx, l.Conn, room)
	others := census.others(t)
	_, _, err := l.deleter(room, false).end(3)
	require.NoError(t, err)
	require.Empty(t, census.left(t))
	census.unchanged(t, others)
}

func TestDeleteIsFenced(t *testing.T) {
	t.Parallel()
	l := furnished(t)
	e := l.deleter(room, false)
	_, err := l.Journal.NextFence(l.Ctx, room)
	require.NoError(t, err)
	before := l.Dump("public")
	_, _, err = e.end(9)
	require.ErrorIs(t, err, journal.ErrFenced)
	require.Equal(t, before, l.Dump("public"))
}

// The delete waits for a process that persists an event of the room.
func TestDeleteWaitsForAPersistingProcess(t *testing.T) {
	t.Parallel()
	l := furnished(t)
	census := newCensus(t, l.Ctx, l.Conn, room)
	e := l.deleter(room, false)
	tx := l.writer()
	_, err := tx.Exec(l.Ctx, `SELECT room_version FROM rooms WHERE room_id = $1 FOR SHARE`, room)
	require.NoError(t, err)
	_, err = tx.Exec(l.Ctx, `INSERT INTO events (event_id, room_id, type, topological_ordering, stream_ordering, processed, outlier)
		VALUES ('$new', $1, 't', 9, 9, true, false)`, room)
	require.NoError(t, err)
	_, err = tx.Exec(l.Ctx, `INSERT INTO event_forward_extremities VALUES ('$new', $1)`, room)
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() {
		_, _, err := e.end(100)
		ended <- err
	}()
	l.RequireLockWait()
	require.NoError(t, tx.Commit(l.Ctx))
	require.NoError(t, <-ended)
	require.Empty(t, census.left(t))
	err = l.tryWrite(`INSERT INTO destination_rooms VALUES ('far', '` + room + `', 1)`)
	var refused *pgconn.PgError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "23503", refused.Code)
}

// TestDeleteOfDrawnRooms deletes small rooms of every shape in batches of any size,
// by each path, with runs that die and rows that arrive, and checks every table
// afterwards.
func TestDeleteOfDrawnRooms(t *testing.T) {
	t.Parallel()
	url := devstacktest.Database(t, "embedded", migrate.UpEmbedded)
	p := newPurger(t, url, url, purge.Options{SetWiseFrom: 1})
	searching := newPurger(t, url, url, purge.Options{SetWiseFrom: 1, SearchFrom: 1})
	plain := newPurger(t, url, devstacktest.AsPlainRole(t, url), purge.Options{})
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
		catalog, err := by.purger.RoomCatalog(p.ctx)
		require.NoError(t, err)
		require.Equal(t, by == plain, catalog.RowWise() != "")
		room, err := by.purger.Room(p.ctx, purge.RoomRequest{Room: weirdRoom, ServerName: serverName, Force: true})
		require.NoError(t, err)
		e := &deleter{ctx: p.ctx, journal: by.journal, room: room, work: p.begin(t, weirdRoom)}
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
				e.at = purge.RoomPosition{}
			}
		}
		require.NoError(t, p.journal.EndJob(p.ctx, e.work.Run, journal.Complete, ""))
		require.Empty(t, census.left(t))
		census.unchanged(t, others)
	})
}
