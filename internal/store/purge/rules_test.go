package purge_test

import (
	"slices"
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
