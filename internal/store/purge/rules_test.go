package purge_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/schema"
	"lethe/internal/store/purge"
	"lethe/internal/store/storetest"
)

// A rule of the operator takes an unknown table into purges and deletes. The table may
// have a foreign key, and need not have an index.
func TestRulesForUnknownTables(t *testing.T) {
	t.Parallel()
	for name, table := range map[string]string{
		"plain":     `CREATE TABLE future (room_id text, event_id text, body text)`,
		"indexed":   `CREATE TABLE future (room_id text, event_id text, body text); CREATE INDEX ON future (room_id)`,
		"reference": `CREATE TABLE future (room_id text, event_id text REFERENCES events (event_id), body text)`,
	} {
		for rule, left := range map[schema.Rule][2]int64{ // of 3 rows of each room, after a purge and a delete of one
			schema.Keep:          {6, 6},
			schema.DeleteByRoom:  {6, 3},
			schema.DeleteByEvent: {4, 3},
		} {
			t.Run(name+", "+string(rule), func(t *testing.T) {
				t.Parallel()
				l := setup(t)
				for i, room := range []string{room, "!other:x"} {
					l.Chain(room, string(rune('a'+i)), 3, 10*i)
				}
				l.Exec(table)
				l.Exec(`INSERT INTO future SELECT room_id, event_id, 'the text' FROM events`)
				_, err := l.Purger.History(l.Ctx, storetest.PurgeRequest(room, 3))
				require.ErrorIs(t, err, purge.ErrCatalog)
				if name == "plain" { // it names both columns, and says once what is wrong with them
					require.Equal(t, 1, strings.Count(err.Error(), purge.ErrCatalog.Error()), err)
				}
				_, err = l.Purger.Room(l.Ctx, purge.RoomRequest{Room: room, ServerName: serverName})
				require.ErrorIs(t, err, purge.ErrCatalog)

				l.use(l.DB, purge.Options{SetWiseFrom: 1, SearchFrom: 1, Tables: schema.Rules{"future": rule}})
				rows := func() int64 { return storetest.One[int64](l.Lab, `SELECT count(*) FROM future`) }
				if name == "reference" && rule != schema.DeleteByEvent {
					return // the rows that stay keep their events
				}
				work := l.Work(room)
				_, err = l.PurgeBatch(work, 3, 100)
				require.NoError(t, err)
				require.Equal(t, left[0], rows())
				l.Exec(`UPDATE lethe.jobs SET state = 'complete', ended_at = now(), heartbeat_at = NULL`)
				_, _, err = l.deleter(room, false).end(20)
				require.NoError(t, err)
				require.Equal(t, left[1], rows())
			})
		}
	}
}

// Reports belong to the moderators, and go only if the operator says so.
func TestReportsAreDeletedByRules(t *testing.T) {
	t.Parallel()
	const there = 2*4 + 2 // of each room: reports of its three events and of one that is gone, and one of the room
	for name, c := range map[string]struct {
		rules  schema.Rules
		purged int64 // after the history purge of two events
		gone   int64 // after the delete of the same room
	}{
		"none":     {nil, there, there},
		"keep":     {schema.Rules{"event_reports": schema.Keep, "room_reports": schema.Keep}, there, there},
		"by event": {schema.Rules{"event_reports": schema.DeleteByEvent}, there - 2, there - 4},
		"by room":  {schema.Rules{"event_reports": schema.DeleteByRoom}, there, there - 4},
		"both":     {schema.Rules{"event_reports": schema.DeleteByEvent, "room_reports": schema.DeleteByRoom}, there - 2, there - 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := setup(t)
			l.use(l.DB, purge.Options{SetWiseFrom: 1, SearchFrom: 1, Tables: c.rules, VersionAge: 1})
			// The tables may be absent: those of rooms are younger than those of events.
			for i, room := range []string{room, "!other:x"} {
				l.Chain(room, string(rune('a'+i)), 3, 10*i)
			}
			_, err := l.Purger.History(l.Ctx, storetest.PurgeRequest(room, 3))
			require.NoError(t, err)
			l.Exec(`CREATE TABLE event_reports (id bigserial, received_ts bigint, room_id text NOT NULL, event_id text NOT NULL, content text)`)
			l.Exec(`CREATE TABLE room_reports (id bigserial, received_ts bigint, room_id text NOT NULL, reason text)`)
			l.Exec(`INSERT INTO event_reports (room_id, event_id, content) SELECT room_id, event_id, 'the text' FROM events
				UNION ALL SELECT room_id, '$gone' || room_id, 'the text' FROM rooms`)
			l.Exec(`INSERT INTO room_reports (room_id, reason) SELECT room_id, 'the text' FROM rooms`)
			reports := func() int64 {
				return storetest.One[int64](l.Lab, `SELECT (SELECT count(*) FROM event_reports) + (SELECT count(*) FROM room_reports)`)
			}
			require.EqualValues(t, there, reports())
			_, err = l.PurgeBatch(l.Work(room), 3, 100)
			require.NoError(t, err)
			require.Equal(t, c.purged, reports())
			l.Exec(`UPDATE lethe.jobs SET state = 'complete', ended_at = now(), heartbeat_at = NULL`)
			_, _, err = l.deleter(room, false).end(20)
			require.NoError(t, err)
			require.Equal(t, c.gone, reports())
			require.EqualValues(t, 5, storetest.One[int64](l.Lab, `
				SELECT (SELECT count(*) FROM event_reports WHERE room_id = '!other:x') + (SELECT count(*) FROM room_reports WHERE room_id = '!other:x')`))
		})
	}
}

// The table of fates says what the deletes do. A foreign key deletes the rows of the
// other tables that are deleted.
func TestFatesAreThoseOfDeletes(t *testing.T) {
	t.Parallel()
	deleted := append(purge.DeletedTables(),
		"event_auth_chain_links", "room_alias_servers", "state_group_edges", "state_groups_pending_deletion", "state_groups_state")
	for _, table := range schema.Tables() {
		switch {
		case table.Delete == "": // it has no ids
		case slices.Contains(deleted, table.Name):
			require.Equal(t, schema.Deletes, table.Delete, table.Name)
			require.Empty(t, table.Why, table.Name)
		case table.Delete == schema.Deletes:
			require.NotEmpty(t, table.Cascade, table.Name)
		default:
			require.NotEmpty(t, table.Why, "%s: why does it stay?", table.Name)
		}
	}
	for _, name := range deleted {
		require.NotNil(t, schema.Named(name), name)
	}
}
