package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/roomgen"
	"lethe/internal/store/migrate"
)

// sweptRooms is how many rooms a fleet for sweeps has.
const sweptRooms = 12

// populateAged makes an admin and rooms whose events arrived an hour after each
// other. Most rooms have a policy by which about half of their events have expired,
// and the others are left to the default policy.
func populateAged(ctx context.Context, url string) error {
	if err := migrate.UpEmbedded(ctx, url); err != nil {
		return err
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	if err := roomgen.Account(ctx, conn, admin, token, true); err != nil {
		return err
	}
	for i := range sweptRooms {
		if _, err := roomgen.Generate(ctx, conn, roomgen.Room{
			ID: fmt.Sprintf("!swept%02d:%s", i, server), Server: server, Seed: uint64(i + 1), Events: 150,
		}); err != nil {
			return err
		}
	}
	// Half an hour is added, so that no lifetime ends while the test runs.
	_, err = conn.Exec(ctx, `
		UPDATE events e SET received_ts = extract(epoch FROM now()) * 1000 - (newest - stream_ordering + 0.5) * 3600000
		FROM (SELECT max(stream_ordering) AS newest FROM events) n;
		CREATE TEMPORARY TABLE halves AS
			SELECT room_id, (extract(epoch FROM now()) * 1000 - percentile_disc(0.5) WITHIN GROUP (ORDER BY received_ts))::bigint AS lifetime
			FROM events WHERE stream_ordering > 0 GROUP BY room_id HAVING right(split_part(room_id, ':', 1), 1) <> '3';
		INSERT INTO current_state_events (event_id, room_id, type, state_key)
			SELECT '$policy' || room_id, room_id, 'm.room.retention', '' FROM halves;
		INSERT INTO room_retention (room_id, event_id, max_lifetime) SELECT room_id, '$policy' || room_id, lifetime FROM halves`)
	return err
}

// agedDefault is the default policy's lifetime, in hours.
const agedDefault = 700

// TestSweepThroughKills has a tick make a sweep, and kills the worker that does it
// and its purges, twice. In the end what a plain statement says is gone, and
// nothing else, and once.
func TestSweepThroughKills(t *testing.T) {
	t.Parallel()
	f := newFleet(t, devstacktest.Database(t, "aged", populateAged), server, token)
	f.env = append(f.env, yearly...)
	f.env = append(f.env, fmt.Sprintf("LETHE_RETENTION_DEFAULT_POLICY_MAX_LIFETIME=%dh", agedDefault),
		// So few that the sweep is there as long as its purges are.
		"LETHE_RETENTION_MAX_QUEUED=3", slowly, "LETHE_WORKER_BATCH_TIME=10ms")
	events := func(sql string, args ...any) []string {
		rows, err := f.sql.Query(t.Context(), sql, args...)
		require.NoError(t, err)
		ids, err := pgx.CollectRows(rows, pgx.RowTo[string])
		require.NoError(t, err)
		return ids
	}
	// For each room the token is its last event up to the first of all rooms that has
	// not expired, by the stream.
	expired := events(`
		WITH tokens AS (
			SELECT room_id, (
				SELECT topological_ordering FROM events e
				WHERE e.room_id = l.room_id AND NOT outlier AND rejection_reason IS NULL
				  AND event_id NOT IN (SELECT event_id FROM rejections)
				  AND stream_ordering <= (
					SELECT min(stream_ordering) FROM events
					WHERE stream_ordering >= 0 AND received_ts >= extract(epoch FROM now()) * 1000 - lifetime)
				ORDER BY stream_ordering DESC LIMIT 1) AS before
			FROM (
				SELECT room_id, coalesce(max_lifetime, $1::bigint * 3600000) AS lifetime
				FROM rooms LEFT JOIN room_retention USING (room_id)) l
		)
		SELECT event_id FROM events JOIN tokens USING (room_id)
		WHERE topological_ordering < before AND event_id NOT IN (SELECT event_id FROM state_events)
		ORDER BY event_id`, agedDefault)
	stays := events(`SELECT event_id FROM events WHERE event_id <> ALL ($1) ORDER BY event_id`, expired)
	require.Greater(t, len(expired), 500)
	require.Greater(t, len(stays), 500)

	f.start("scheduler")
	require.Equal(t, 0, f.scheduler(t.Context(), nil, "--once").status)
	sweep := query[string](f, `SELECT id FROM lethe.jobs`)
	for range 2 {
		doomed := f.start("worker")
		ended := query[int](f, `SELECT count(*) FROM lethe.jobs WHERE state = 'complete'`)
		f.eventually(time.Minute, func() bool {
			return query[bool](f, `
				SELECT count(*) FILTER (WHERE state = 'running' AND checkpoint->>'batches' > '0') > 0
				   AND count(*) FILTER (WHERE state = 'complete') > $1
				FROM lethe.jobs WHERE queue = 'low'`, ended)
		}, "no purge is under way")
		doomed.kill()
		require.False(t, query[bool](f, `SELECT ended_at IS NOT NULL FROM lethe.jobs WHERE id = $1`, sweep), "else only purges are seen to go on")
	}
	require.NotZero(t, query[int](f, `SELECT count(*) FROM lethe.jobs WHERE state = 'running'`), "a job has lost its worker")
	f.start("worker")
	f.eventually(2*time.Minute, func() bool { return query[int](f, `SELECT count(*) FROM lethe.jobs WHERE ended_at IS NULL`) == 0 },
		"the sweep or its purges do not go on")

	require.Equal(t, stays, events(`SELECT event_id FROM events ORDER BY event_id`))
	require.Empty(t, events(`SELECT id || ' ' || state || ' ' || coalesce(error, '') FROM lethe.jobs WHERE state <> 'complete'`))
	require.Equal(t, len(expired), query[int](f, `
		SELECT sum((checkpoint->>'events_deleted')::int)::int FROM lethe.jobs WHERE kind = 'purge_history'`), "each is deleted once, and counted once")
	require.True(t, query[bool](f, `
		SELECT count(*) = count(DISTINCT room_id) AND count(*) = (
			SELECT (checkpoint->'sweep'->>'enqueued')::int FROM lethe.jobs WHERE kind = 'retention_sweep')
		FROM lethe.jobs WHERE kind = 'purge_history'`), "each room is purged once")
	require.Equal(t, sweptRooms, query[int](f, `
		SELECT (checkpoint->'sweep'->>'rooms')::int FROM lethe.jobs WHERE kind = 'retention_sweep'`))
	require.NotZero(t, query[int](f, `SELECT count(*) FROM lethe.jobs WHERE generation > 1`), "some have lost their worker")
	schedule := func() bool {
		return query[bool](f, `
			SELECT outcome = 'accepted' AND sweep_id = $1 AND skipped = 0 AND last_tick = date_trunc('year', now(), 'UTC')
			FROM lethe.schedules`, sweep)
	}
	require.True(t, schedule())
	require.Equal(t, 0, f.scheduler(t.Context(), nil, "--once", "--wait").status)
	require.Equal(t, 1, f.sweeps())
	require.True(t, schedule())
}
