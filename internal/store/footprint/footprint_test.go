package footprint_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/roomgen"
	"lethe/internal/schema"
	"lethe/internal/store/footprint"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/store/storetest"
)

const room = storetest.Room

// setup returns a lab with all rights, and queries with those of the api.
func setup(t *testing.T, options footprint.Options) (*storetest.Lab, *footprint.Queries) {
	t.Helper()
	api := storetest.New(t, schema.API)
	options.ServerName = storetest.ServerName
	return storetest.On(t, api.URL), footprint.New(api.DB, purge.New(api.DB, purge.Options{}), options)
}

func TestRoom(t *testing.T) {
	t.Parallel()
	l, footprints := setup(t, footprint.Options{})
	l.Chain(room, "e", 30, 0)
	l.Chain("!other:x", "o", 10, 100)
	l.Exec(`INSERT INTO room_aliases (room_alias, room_id, creator) VALUES ('#a:x', $1, '@u:x')`, room)
	l.Exec(`ANALYZE`)
	var r footprint.Room
	l.RequireUnchanged(func() {
		var err error
		r, err = footprints.Room(l.Ctx, room)
		require.NoError(t, err)
	})
	require.Equal(t, room, r.ID)
	require.EqualValues(t, 30, r.Events)
	rows := map[string]int64{}
	var bytes int64
	for table, figure := range r.Tables {
		require.True(t, figure.Exact, table)
		require.Equal(t, figure.Rows > 0, figure.EstimatedBytes > 0, table)
		if bytes += figure.EstimatedBytes; figure.Rows > 0 {
			rows[table] = figure.Rows
		}
	}
	require.Equal(t, bytes, r.EstimatedBytes)
	require.Equal(t, map[string]int64{
		"event_edges": 29, "event_forward_extremities": 1, "event_json": 30, "event_search": 30, "event_to_state_groups": 30, "events": 30,
		"room_aliases": 1, "room_depth": 1, "rooms": 1, "state_groups": 30, "state_groups_state": 30,
	}, rows)
	require.EqualValues(t, 30, r.StateGroups.Rows)
	require.Greater(t, r.StateGroups.EstimatedBytes, r.Tables["state_groups"].EstimatedBytes)

	for _, unknown := range []string{"!none:x", "", "!\x00", "!\xff"} {
		_, err := footprints.Room(l.Ctx, unknown)
		require.ErrorIs(t, err, postgres.ErrNotFound, "%q", unknown)
	}
	l.Exec(`DELETE FROM rooms WHERE room_id = $1`, room)
	r, err := footprints.Room(l.Ctx, room)
	require.NoError(t, err, "what is left of a room")
	require.EqualValues(t, 30, r.Events)
}

// A role may read one column of a table from which the server deletes by a foreign key. That
// is no right to read rows by their places, which samples of tables that were never analyzed
// are.
func TestColumnsWithoutPlaces(t *testing.T) {
	t.Parallel()
	api := storetest.New(t, schema.API)
	l := storetest.On(t, api.URL)
	footprints := footprint.New(api.DB, purge.New(api.DB, purge.Options{}), footprint.Options{ServerName: storetest.ServerName})
	_, err := roomgen.Generate(l.Ctx, l.Conn, roomgen.Room{ID: room, Server: "x", Events: 100})
	require.NoError(t, err)
	require.Positive(t, storetest.One[int64](l, `SELECT count(*) FROM event_txn_id_device_id`))
	var role string
	require.NoError(t, api.DB.ReadRow(l.Ctx, []any{&role}, `SELECT current_user::text`))
	l.Exec(`REVOKE ALL ON event_txn_id_device_id FROM ` + role)
	l.Exec(`GRANT SELECT (event_id) ON event_txn_id_device_id TO ` + role)
	r, err := footprints.Room(l.Ctx, room)
	require.NoError(t, err)
	require.Positive(t, r.Tables["event_txn_id_device_id"].EstimatedBytes)
}

// TestBytesAreOfRows estimates the bytes of a room while it is most of its tables, and
// after the rest of them is gone.
func TestBytesAreOfRows(t *testing.T) {
	t.Parallel()
	l, footprints := setup(t, footprint.Options{})
	for id, events := range map[string]int{room: 500, "!other:x": 10_000} {
		_, err := roomgen.Generate(l.Ctx, l.Conn, roomgen.Room{ID: id, Server: "x", Events: events})
		require.NoError(t, err)
	}
	read := func() (footprint.Room, footprint.Size) {
		r, err := footprints.Room(l.Ctx, room)
		require.NoError(t, err)
		sizes, _, err := footprints.Largest(l.Ctx, footprint.Page{})
		require.NoError(t, err)
		at := slices.IndexFunc(sizes, func(s footprint.Size) bool { return s.Room == room })
		require.GreaterOrEqual(t, at, 0)
		return r, sizes[at]
	}
	share := func(table string) float64 {
		return storetest.One[float64](l, `
			SELECT pg_total_relation_size($1)::float8 * count(*) FILTER (WHERE room_id = $2) / count(*) FROM `+table, table, room)
	}
	onDisk := map[string]float64{"events": share("events"), "event_json": share("event_json")}
	never, neverSize := read()
	for table, want := range onDisk {
		require.InEpsilon(t, want, never.Tables[table].EstimatedBytes, 0.5, "%s, never analyzed", table)
	}
	require.InEpsilon(t, never.EstimatedBytes, neverSize.EstimatedBytes, 0.5, "never analyzed")
	l.Exec(`VACUUM ANALYZE`)
	full, fullSize := read()
	for table, want := range onDisk {
		require.InEpsilon(t, want, full.Tables[table].EstimatedBytes, 0.5, "%s, analyzed", table)
	}
	require.InEpsilon(t, full.EstimatedBytes, fullSize.EstimatedBytes, 0.5, "analyzed")

	l.Exec(`SET session_replication_role = replica`)
	for table := range full.Tables {
		if table != "events" && schema.Known(table, "event_id") {
			l.Exec(`DELETE FROM `+table+` WHERE event_id IN (SELECT event_id FROM events WHERE room_id <> $1)`, room)
		} else if table != "events" && schema.Known(table, "room_id") {
			l.Exec(`DELETE FROM `+table+` WHERE room_id <> $1`, room)
		}
	}
	l.Exec(`DELETE FROM events WHERE room_id <> $1`, room)
	// Otherwise the server hears of the deletes after ANALYZE.
	if storetest.Version(t, l.Conn) >= 15_00_00 {
		l.Exec(`SELECT pg_stat_force_next_flush()`)
	} else {
		l.Exec(`SELECT pg_sleep(1)`) // it tells what collects the statistics twice a second
	}
	for _, statement := range []string{`SELECT 1`, `ANALYZE`, `VACUUM`} {
		l.Exec(statement)
		purged, purgedSize := read()
		require.Equal(t, full.Events, purged.Events)
		require.InEpsilon(t, full.EstimatedBytes, purged.EstimatedBytes, 0.2, "after a purge and %s", statement)
		require.InEpsilon(t, purged.EstimatedBytes, purgedSize.EstimatedBytes, 0.5, "after a purge and %s", statement)
	}
}

func TestLargest(t *testing.T) {
	t.Parallel()
	for _, counted := range []bool{true, false} {
		t.Run(fmt.Sprintf("counted %v", counted), func(t *testing.T) {
			t.Parallel()
			options := footprint.Options{}
			if !counted {
				options.Counted = 1
			}
			l, footprints := setup(t, options)
			var want []string
			for i := range 10 {
				id := fmt.Sprintf("!r'\"%d:x", i)
				l.Chain(id, fmt.Sprint("of", i, "-"), 50-i/2*2, 1000*i) // pairs of one size
				want = append(want, id)
			}
			l.Exec(`INSERT INTO room_stats_state (room_id, name, canonical_alias) VALUES ($1, $2, '#a:x')`, want[0], "n\u202e")
			l.Exec(`ANALYZE`)
			for _, limit := range []int{1, 3, 100} {
				var rooms []string
				last := int64(1 << 62)
				for after, pages := "", 0; ; pages++ {
					require.Less(t, pages, 20)
					sizes, next, err := footprints.Largest(l.Ctx, footprint.Page{Limit: limit, After: after})
					require.NoError(t, err)
					require.LessOrEqual(t, len(sizes), limit)
					for _, size := range sizes {
						rooms = append(rooms, size.Room)
						require.Equal(t, counted, size.Exact)
						require.Positive(t, size.EstimatedBytes)
						require.LessOrEqual(t, size.EstimatedBytes, last)
						require.InDelta(t, 45, size.Events, 6)
						require.Equal(t, size.Events, size.StateGroups)
						last = size.EstimatedBytes
					}
					if after = next; after == "" {
						break
					}
				}
				require.Equal(t, want, rooms)
			}
			sizes, _, err := footprints.Largest(l.Ctx, footprint.Page{})
			require.NoError(t, err)
			require.Equal(t, "n\u202e", sizes[0].Name)
			require.Equal(t, "#a:x", sizes[0].Alias)
			for _, place := range []string{
				"x", "%", "é", base64.RawURLEncoding.EncodeToString([]byte(`{"b":"x"}`)),
				base64.RawURLEncoding.EncodeToString([]byte(`{"b":1,"r":"\u0000"}`)), strings.Repeat("A", 1<<16),
			} {
				_, _, err := footprints.Largest(l.Ctx, footprint.Page{After: place})
				require.ErrorIs(t, err, footprint.ErrPage, "%.50q", place)
				require.Less(t, len(err.Error()), 1000)
			}
			for _, limit := range []int{-1, footprint.MaxRooms + 1} {
				_, _, err := footprints.Largest(l.Ctx, footprint.Page{Limit: limit})
				require.ErrorContains(t, err, "must be from 1 to")
			}
		})
	}
}

// TestManyUnusedStateGroupsAreEstimated purges little of a room in which an earlier
// purge has left many state groups.
func TestManyUnusedStateGroupsAreEstimated(t *testing.T) {
	t.Parallel()
	l, footprints := setup(t, footprint.Options{Few: 20})
	l.Chain(room, "e", 10, 0)
	l.Exec(`INSERT INTO state_groups (id, room_id, event_id) SELECT 1000 + i, $1, '$gone' FROM generate_series(1, 50) i`, room)
	l.Exec(`INSERT INTO state_group_edges SELECT 1000 + i, 999 + i FROM generate_series(2, 50) i`)
	l.Exec(`INSERT INTO lethe.state_group_candidates (room_id, state_group) VALUES ($1, 1050)`, room)
	for _, exact := range []bool{false, true} {
		request := storetest.PurgeRequest(room, 4)
		require.NoError(t, footprints.History(l.Ctx, exact, func(ctx context.Context, s *footprint.Snapshot) error {
			events, err := s.HistoryEvents(ctx, request)
			require.NoError(t, err)
			loss, err := s.HistoryLoss(ctx, request, events)
			require.NoError(t, err)
			require.True(t, loss.Tables["event_json"].Exact)
			require.Equal(t, exact, loss.StateGroups.Exact)
			if exact {
				require.EqualValues(t, 53, loss.StateGroups.Rows)
			} else {
				require.Greater(t, loss.StateGroups.Rows, int64(20))
			}
			return nil
		}))
	}
}

// TestSnapshotIsOfOneMoment deletes rows while a footprint is read.
func TestSnapshotIsOfOneMoment(t *testing.T) {
	t.Parallel()
	l, footprints := setup(t, footprint.Options{})
	l.Chain(room, "e", 10, 0)
	request := storetest.PurgeRequest(room, 8)
	require.NoError(t, footprints.History(l.Ctx, true, func(ctx context.Context, s *footprint.Snapshot) error {
		events, err := s.HistoryEvents(ctx, request)
		require.NoError(t, err)
		l.Exec(`DELETE FROM event_search`)
		loss, err := s.HistoryLoss(ctx, request, events)
		require.NoError(t, err)
		require.EqualValues(t, 7, loss.Tables["event_search"].Rows)
		return nil
	}))
}

// TestStateGroupsAreLeftToSynapse foretells a purge beside a running Synapse, which
// deletes the unused groups itself.
func TestStateGroupsAreLeftToSynapse(t *testing.T) {
	t.Parallel()
	for _, few := range []int{1, 100} {
		l, footprints := setup(t, footprint.Options{Few: few})
		l.Chain(room, "e", 10, 0)
		request := storetest.PurgeRequest(room, 4)
		request.KeepMappings = true
		require.NoError(t, footprints.History(l.Ctx, false, func(ctx context.Context, s *footprint.Snapshot) error {
			events, err := s.HistoryEvents(ctx, request)
			require.NoError(t, err)
			loss, err := s.HistoryLoss(ctx, request, events)
			require.NoError(t, err)
			for _, table := range []string{"state_groups", "state_groups_state", "state_group_edges", "state_groups_pending_deletion"} {
				require.NotContains(t, loss.Tables, table)
			}
			require.Contains(t, loss.Tables, "event_to_state_groups")
			require.Positive(t, loss.StateGroups.Rows)
			return nil
		}))
	}
}
