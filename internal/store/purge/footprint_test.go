package purge_test

import (
	"context"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/schema"
	"lethe/internal/store/footprint"
	"lethe/internal/store/journal"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/store/storetest"
)

// TestFootprintForetellsHistoryPurges counts what a purge of a room of any shape will
// delete, with the rights of the api, and compares that with what is gone afterwards,
// table by table. It counts in the way for few events and in the way for many.
func TestFootprintForetellsHistoryPurges(t *testing.T) {
	t.Parallel()
	url := devstacktest.Database(t, "embedded", migrate.UpEmbedded)
	purger := newPurger(t, url, url, purge.Options{SetWiseFrom: 1})
	asAPI := openAsAPI(t, url)
	rapid.Check(t, func(t *rapid.T) {
		rows := drawDatabase(t)
		request := purge.HistoryRequest{
			Room:        weirdRoom,
			Before:      drawCut(t, rows),
			DeleteLocal: rapid.Bool().Draw(t, "delete local"),
			ServerName:  serverName,
		}
		few := rapid.SampledFrom([]int{1, 1000}).Draw(t, "few")
		footprints := footprint.New(asAPI, purge.New(asAPI, purge.Options{}), footprint.Options{ServerName: serverName, Few: few})
		for _, size := range []int{rapid.IntRange(1, 5).Draw(t, "batch size"), math.MaxInt32} {
			purger.fill(t, rows)
			events, loss := foretoldPurge(t, purger.ctx, footprints, request)
			before := counts(t, purger.ctx, purger.conn)
			if err := purger.purge(t, request, size, func(int64) {}); err != nil {
				require.ErrorIs(t, err, purge.ErrBeyondExtremities)
				return
			}
			requireForetold(t, events, loss, before, counts(t, purger.ctx, purger.conn))
		}
	})
}

// TestFootprintForetellsDeletes does the same for deletes of furnished rooms.
func TestFootprintForetellsDeletes(t *testing.T) {
	t.Parallel()
	url := devstacktest.Database(t, "embedded", migrate.UpEmbedded)
	p := newPurger(t, url, url, purge.Options{SetWiseFrom: 1})
	asAPI := openAsAPI(t, url)
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
		few := rapid.SampledFrom([]int{1, 1000}).Draw(t, "few")
		footprints := footprint.New(asAPI, purge.New(asAPI, purge.Options{}), footprint.Options{ServerName: serverName, Few: few})
		events, loss := foretoldDelete(t, p.ctx, footprints, weirdRoom)
		before := counts(t, p.ctx, p.conn)
		room, err := p.purger.Room(p.ctx, purge.RoomRequest{Room: weirdRoom, ServerName: serverName, Force: true})
		require.NoError(t, err)
		e := &deleter{ctx: p.ctx, journal: p.journal, room: room, work: p.begin(t, weirdRoom)}
		_, _, err = e.end(rapid.SampledFrom([]int{5, 1000}).Draw(t, "size"))
		require.NoError(t, err)
		require.NoError(t, p.journal.EndJob(p.ctx, e.work.Run, journal.Complete, ""))
		requireForetold(t, events, loss, before, counts(t, p.ctx, p.conn))
	})
}

// TestFootprintOnSynapsesSchemas foretells a purge and then a delete on the schemas of
// all supported versions.
func TestFootprintOnSynapsesSchemas(t *testing.T) {
	t.Parallel()
	for _, version := range storetest.Versions {
		t.Run(version, func(t *testing.T) {
			t.Parallel()
			room := corpusRooms["lobby"]
			l := setupOn(t, storetest.Restored(t, "synapse-1.160-corpus.dump", version))
			require.NoError(t, migrate.Up(l.Ctx, l.URL))
			if version == "1.91" {
				l.plantOldRows()
			}
			asAPI := openAsAPI(t, l.URL)
			footprints := footprint.New(asAPI, purge.New(asAPI, purge.Options{}), footprint.Options{ServerName: "lab.test"})
			depth := storetest.One[int64](l.Lab, `SELECT max(topological_ordering) - 10 FROM events WHERE room_id = $1 AND NOT outlier`, room)
			request := purge.HistoryRequest{Room: room, Before: depth, DeleteLocal: true, ServerName: "lab.test"}
			events, loss := foretoldPurge(t, l.Ctx, footprints, request)
			require.Greater(t, events.Deleted, int64(20))
			require.Positive(t, loss.StateGroups.Rows)
			require.Positive(t, loss.StateGroups.EstimatedBytes)
			before := counts(t, l.Ctx, l.Conn)
			require.NoError(t, l.purge(request, 20))
			requireForetold(t, events, loss, before, counts(t, l.Ctx, l.Conn))

			l.Exec(`INSERT INTO destinations (destination) VALUES ('far')`)
			furnish(t, l.Ctx, l.Conn, room)
			events, loss = foretoldDelete(t, l.Ctx, footprints, room)
			before = counts(t, l.Ctx, l.Conn)
			_, _, err := l.deleter(room, false).end(30)
			require.NoError(t, err)
			requireForetold(t, events, loss, before, counts(t, l.Ctx, l.Conn))
		})
	}
}

// TestFootprintFollowsRules foretells what goes from tables that only the settings name.
func TestFootprintFollowsRules(t *testing.T) {
	t.Parallel()
	l := setupAsOwner(t)
	l.Chain(room, "e", 6, 0)
	l.Exec(`CREATE TABLE by_event (event_id text)`)
	l.Exec(`CREATE TABLE by_room (room_id text)`)
	l.Exec(`CREATE TABLE stays (room_id text, event_id text)`)
	for _, table := range []string{"by_event", "stays"} {
		l.Exec(`INSERT INTO ` + table + ` (event_id) SELECT event_id FROM events`)
	}
	l.Exec(`INSERT INTO by_room VALUES ($1), ('!other:x')`, room)
	rules := schema.Rules{"by_event": schema.DeleteByEvent, "by_room": schema.DeleteByRoom, "stays": schema.Keep}
	l.use(l.DB, purge.Options{Tables: rules})
	footprints := footprint.New(l.DB, l.Purger, footprint.Options{ServerName: storetest.ServerName})
	request := storetest.PurgeRequest(room, 4)
	events, loss := foretoldPurge(t, l.Ctx, footprints, request)
	require.EqualValues(t, 3, loss.Tables["by_event"].Rows)
	require.NotContains(t, loss.Tables, "by_room")
	before := counts(t, l.Ctx, l.Conn)
	require.NoError(t, l.purge(request, 20))
	requireForetold(t, events, loss, before, counts(t, l.Ctx, l.Conn))

	events, loss = foretoldDelete(t, l.Ctx, footprints, room)
	require.EqualValues(t, 3, loss.Tables["by_event"].Rows)
	require.EqualValues(t, 1, loss.Tables["by_room"].Rows)
	before = counts(t, l.Ctx, l.Conn)
	_, _, err := l.deleter(room, false).end(30)
	require.NoError(t, err)
	requireForetold(t, events, loss, before, counts(t, l.Ctx, l.Conn))
}

// TestFootprintKnowsLeftovers has redactions of which the event is gone already, and
// edges of state groups that are. Only redactions that were done go with their target.
func TestFootprintKnowsLeftovers(t *testing.T) {
	t.Parallel()
	l := setupAsOwner(t)
	l.Chain(room, "e", 6, 0)
	l.Exec(`INSERT INTO redactions (event_id, redacts, have_censored) VALUES
		('$gone1', '$e1', true), ('$gone2', '$e2', false), ('$gone5', '$e5', true)`)
	footprints := footprint.New(l.DB, l.Purger, footprint.Options{ServerName: storetest.ServerName})
	request := storetest.PurgeRequest(room, 4)
	events, loss := foretoldPurge(t, l.Ctx, footprints, request)
	require.EqualValues(t, 1, loss.Tables["redactions"].Rows)
	before := counts(t, l.Ctx, l.Conn)
	require.NoError(t, l.purge(request, 20))
	requireForetold(t, events, loss, before, counts(t, l.Ctx, l.Conn))

	l.Chain("!other:x", "o", 3, 100)
	l.Exec(`INSERT INTO state_group_edges VALUES (6, 5), (5000, 6), (101, 6), (6, 102)`)
	events, loss = foretoldDelete(t, l.Ctx, footprints, room)
	require.EqualValues(t, 1, loss.Tables["redactions"].Rows)
	require.EqualValues(t, 3, loss.Tables["state_group_edges"].Rows, "not that of another room's group")
	before = counts(t, l.Ctx, l.Conn)
	_, _, err := l.deleter(room, false).end(30)
	require.NoError(t, err)
	requireForetold(t, events, loss, before, counts(t, l.Ctx, l.Conn))
}

func openAsAPI(t *testing.T, url string) *postgres.DB {
	t.Helper()
	db, err := postgres.Open(t.Context(), storetest.AsKnownColumns(t, url, schema.API), postgres.Options{})
	require.NoError(t, err)
	t.Cleanup(db.Close)
	return db
}

// foretoldPurge returns the exact footprint of a purge.
func foretoldPurge(t require.TestingT, ctx context.Context, footprints *footprint.Queries, request purge.HistoryRequest) (events footprint.Events, loss footprint.Loss) {
	require.NoError(t, footprints.History(ctx, true, func(ctx context.Context, s *footprint.Snapshot) (err error) {
		if events, err = s.HistoryEvents(ctx, request); err == nil {
			loss, err = s.HistoryLoss(ctx, request, events)
		}
		return err
	}))
	return events, loss
}

// foretoldDelete returns the exact footprint of a delete.
func foretoldDelete(t require.TestingT, ctx context.Context, footprints *footprint.Queries, room string) (events footprint.Events, loss footprint.Loss) {
	require.NoError(t, footprints.Delete(ctx, true, func(ctx context.Context, s *footprint.Snapshot) (err error) {
		if events, err = s.RoomEvents(ctx, room); err == nil {
			loss, err = s.RoomLoss(ctx, room, events)
		}
		return err
	}))
	return events, loss
}

// requireForetold fails the test unless exactly the foretold rows are gone.
func requireForetold(t require.TestingT, events footprint.Events, loss footprint.Loss, before, after map[string]int64) {
	require.Equal(t, before["events"]-after["events"], events.Deleted)
	for table, figure := range loss.Tables {
		require.True(t, figure.Exact, table)
		gone := before[table] - after[table]
		if table == "state_groups_state" {
			gone += loss.StateRowsWritten
		}
		require.Equal(t, gone, figure.Rows, table)
	}
	for table, rows := range before {
		_, foretold := loss.Tables[table]
		require.True(t, foretold || table == "event_backward_extremities" || rows == after[table], table)
	}
}

// counts returns the number of rows of each table of the homeserver's.
func counts(t require.TestingT, ctx context.Context, conn *pgx.Conn) map[string]int64 {
	counts := map[string]int64{}
	tables, err := postgres.Collect(ctx, conn, pgx.RowTo[string], `
		SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'`)
	require.NoError(t, err)
	for _, table := range tables {
		var rows int64
		require.NoError(t, conn.QueryRow(ctx, `SELECT count(*) FROM `+table).Scan(&rows))
		counts[table] = rows
	}
	return counts
}
