package plan_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/jobs"
	"lethe/internal/matrix"
	"lethe/internal/plan"
	"lethe/internal/roomgen"
	"lethe/internal/schema"
	"lethe/internal/store/footprint"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/store/storetest"
)

// BenchmarkPlan plans the purge of most of a large room, and its delete, beside a
// smaller room. LETHE_BENCH_EVENTS is the number of the room's events. It
// defaults to 20,000; make bench-plan takes 1,000,000.
func BenchmarkPlan(b *testing.B) {
	events := 20_000
	if text := os.Getenv("LETHE_BENCH_EVENTS"); text != "" {
		var err error
		events, err = strconv.Atoi(text)
		require.NoError(b, err)
	}
	url := devstacktest.Database(b, fmt.Sprintf("plan of %d", events), func(ctx context.Context, url string) error {
		if err := migrate.UpEmbedded(ctx, url); err != nil {
			return err
		}
		conn, err := pgx.Connect(ctx, url)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close(ctx) }()
		for id, size := range map[string]int{"!large:x": events, "!small:x": events / 10} {
			if _, err := roomgen.Generate(ctx, conn, roomgen.Room{ID: id, Server: "x", Events: size}); err != nil {
				return err
			}
		}
		_, err = conn.Exec(ctx, `VACUUM ANALYZE`)
		return err
	})
	db, err := postgres.Open(b.Context(), storetest.AsKnownColumns(b, url, schema.API), postgres.Options{})
	require.NoError(b, err)
	b.Cleanup(db.Close)
	planner := plan.New(db, plan.Options{Purger: purge.New(db, purge.Options{}), Footprint: footprint.Options{ServerName: "x"}})
	const room = "!large:x"
	var before matrix.Token
	require.NoError(b, db.ReadRow(b.Context(), []any{&before.Topological, &before.Stream}, `
		SELECT topological_ordering, stream_ordering FROM events WHERE room_id = $1 ORDER BY 1 DESC LIMIT 1`, room))
	for name, request := range map[string]plan.Request{
		"purge":         {Kind: jobs.PurgeHistory, Room: room, Before: before, DeleteLocalEvents: true},
		"purge, remote": {Kind: jobs.PurgeHistory, Room: room, Before: before},
		"delete":        {Kind: jobs.DeleteRoom, Room: room},
		"purge, exact":  {Kind: jobs.PurgeHistory, Room: room, Before: before, DeleteLocalEvents: true, Exact: true},
		"delete, exact": {Kind: jobs.DeleteRoom, Room: room, Exact: true},
	} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				p, err := planner.Plan(b.Context(), request)
				require.NoError(b, err)
				require.Greater(b, p.Events, int64(events/4))
			}
		})
	}
	b.Run("largest", func(b *testing.B) {
		footprints := footprint.New(db, purge.New(db, purge.Options{}), footprint.Options{ServerName: "x"})
		for b.Loop() {
			sizes, _, err := footprints.Largest(b.Context(), footprint.Page{})
			require.NoError(b, err)
			require.Len(b, sizes, 2)
		}
	})
}
