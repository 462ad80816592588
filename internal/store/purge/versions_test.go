package purge_test

import (
	"encoding/json"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"lethe/internal/store/migrate"
	"lethe/internal/store/purge"
	"lethe/internal/store/storetest"
)

// plantOldRows gives each event a row in each table that only the schema of 1.91 has.
func (l *lab) plantOldRows() {
	l.T.Helper()
	for _, sql := range []string{
		`INSERT INTO batch_events SELECT event_id, room_id, 'b' FROM events`,
		`INSERT INTO insertion_events SELECT event_id, room_id, 'b' FROM events`,
		`INSERT INTO insertion_event_edges SELECT event_id, room_id, '$before' FROM events`,
		`INSERT INTO insertion_event_extremities SELECT event_id, room_id FROM events`,
		`INSERT INTO event_txn_id
		 SELECT event_id, room_id, sender, (SELECT min(id) FROM access_tokens), event_id, 0 FROM events`,
		`ANALYZE`,
	} {
		l.Exec(sql)
	}
}

// A purge does the same on every supported schema.
func TestPurgeOnOlderSchemas(t *testing.T) {
	t.Parallel()
	room := corpusRooms["lobby"]
	// The rows of all tables that every version has, without the columns that only some
	// versions have.
	dump := func(l *lab) map[string][]string {
		rows := map[string][]string{}
		for table, texts := range l.Dump("public") {
			for _, text := range texts {
				var row map[string]any
				require.NoError(t, json.Unmarshal([]byte(text), &row))
				for _, column := range []string{"recheck", "participant", "suspended"} {
					delete(row, column)
				}
				common, err := json.Marshal(row)
				require.NoError(t, err)
				rows[table] = append(rows[table], string(common))
			}
			slices.Sort(rows[table])
		}
		return rows
	}
	results := map[string]map[string][]string{}
	for _, version := range storetest.Versions {
		l := setupOn(t, storetest.Restored(t, "synapse-1.160-corpus.dump", version))
		require.NoError(t, migrate.Up(l.Ctx, l.URL))
		if version == "1.91" {
			l.plantOldRows()
		}
		before := storetest.One[int](l.Lab, `SELECT count(*) FROM events WHERE room_id = $1`, room)
		groups := storetest.One[int](l.Lab, `SELECT count(*) FROM state_groups WHERE room_id = $1`, room)
		depth := storetest.One[int64](l.Lab, `SELECT max(topological_ordering) - 10 FROM events WHERE room_id = $1 AND NOT outlier`, room)
		request := purge.HistoryRequest{Room: room, Before: depth, DeleteLocal: true, ServerName: "lab.test"}
		require.NoError(t, l.purge(request, 20), version)
		require.Less(t, storetest.One[int](l.Lab, `SELECT count(*) FROM events WHERE room_id = $1`, room), before-20)
		require.Less(t, storetest.One[int](l.Lab, `SELECT count(*) FROM state_groups WHERE room_id = $1`, room), groups)
		l.noOrphans()
		if version == "1.91" {
			require.Zero(t, storetest.One[int](l.Lab, `SELECT count(*) FROM event_txn_id LEFT JOIN events e USING (event_id) WHERE e IS NULL`))
		}
		results[version] = dump(l)
	}
	for _, version := range storetest.Versions[1:] {
		compared := 0
		for table, want := range results[storetest.Versions[0]] {
			if got, ok := results[version][table]; ok && table != "public.schema_version" && table != "public.applied_schema_deltas" {
				require.True(t, slices.Equal(want, got), "%s: %s: %s", version, table, gocmp.Diff(len(want), len(got)))
				compared++
			}
		}
		require.Greater(t, compared, 50)
	}
}
