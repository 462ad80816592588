package plan_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"lethe/internal/jobs"
	"lethe/internal/matrix"
	"lethe/internal/plan"
	"lethe/internal/retention"
	"lethe/internal/roomgen"
	"lethe/internal/schema"
	"lethe/internal/store/footprint"
	"lethe/internal/store/journal"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/purge"
	"lethe/internal/store/storetest"
)

const room = storetest.Room

// A lab makes plans with the rights of the api, and purges with all rights.
type lab struct {
	*storetest.Lab
	api     *postgres.DB
	options plan.Options
}

func setup(t *testing.T) *lab {
	t.Helper()
	l := storetest.New(t, schema.API)
	api := l.DB
	owner := storetest.On(t, l.URL)
	return &lab{Lab: owner, api: api, options: plan.Options{
		Purger: purge.New(api, purge.Options{}), Footprint: footprint.Options{ServerName: storetest.ServerName},
	}}
}

func (l *lab) planner() *plan.Planner { return plan.New(l.api, l.options) }

func (l *lab) plan(request plan.Request) plan.Plan {
	l.T.Helper()
	p, err := l.planner().Plan(l.Ctx, request)
	require.NoError(l.T, err)
	return p
}

func (l *lab) events(room string) int64 {
	return storetest.One[int64](l.Lab, `SELECT count(*) FROM events WHERE room_id = $1`, room)
}

// purge purges the history of a room as a plan says.
func (l *lab) purge(p plan.Plan) {
	l.T.Helper()
	token, err := matrix.ParseToken(p.Before)
	require.NoError(l.T, err)
	history, err := l.Purger.History(l.Ctx, purge.HistoryRequest{
		Room: p.Room, Before: token.Topological, DeleteLocal: p.DeleteLocalEvents, ServerName: storetest.ServerName,
	})
	require.NoError(l.T, err)
	work := l.Work(p.Room)
	require.NoError(l.T, l.InBatch(work, func(b *journal.Batch) (any, error) {
		_, err := history.Purge(l.Ctx, b, math.MinInt64, math.MaxInt32)
		return nil, err
	}))
	require.NoError(l.T, l.Journal.EndJob(l.Ctx, work.Run, journal.Complete, ""))
}

// warnings fails the test unless each text is in a warning of its own, and there are no
// others.
func warnings(t *testing.T, p plan.Plan, texts ...string) {
	t.Helper()
	require.Len(t, p.Warnings, len(texts), "%q", p.Warnings)
	for i, text := range texts {
		require.Contains(t, p.Warnings[i], text)
	}
}

func TestPlanOfAPurge(t *testing.T) {
	t.Parallel()
	l := setup(t)
	made, err := roomgen.Generate(l.Ctx, l.Conn, roomgen.Room{ID: room, Server: "x", Events: 400, StateEvery: 20})
	require.NoError(t, err)
	l.Exec(`ANALYZE`)
	for _, local := range []bool{false, true} {
		request := plan.Request{Kind: jobs.PurgeHistory, Room: room, BeforeEvent: made.Middle, DeleteLocalEvents: local}
		var p plan.Plan
		l.RequireUnchanged(func() { p = l.plan(request) })
		require.Positive(t, p.Events)
		require.Equal(t, !local, p.EventsKept > 0, "the first purge makes outliers of the events that stay")
		require.Equal(t, plan.Figure{Rows: p.Events, EstimatedBytes: p.Tables["events"].EstimatedBytes, Exact: true}, p.Tables["events"])
		require.Positive(t, p.Tables["event_json"].EstimatedBytes)
		require.True(t, p.Tables["event_json"].Exact, "few are counted")
		require.Greater(t, p.EstimatedBytes, p.Tables["event_json"].EstimatedBytes)
		require.EqualValues(t, 1, p.ServersCount)
		require.Equal(t, []string{"far.example"}, p.Servers)
		require.Empty(t, p.Users, "a purge removes no user")
		require.Positive(t, p.Seconds)
		require.False(t, p.Measured)
		warnings(t, p, "The number of these servers: 1.")

		before := l.events(room)
		l.purge(p)
		require.Equal(t, p.Events, before-l.events(room))
		warnings(t, l.plan(request), "The number of these servers: 1.", "nothing to delete")
	}
}

// TestEstimatesAreMarked plans a purge of more events than are counted.
func TestEstimatesAreMarked(t *testing.T) {
	t.Parallel()
	l := setup(t)
	made, err := roomgen.Generate(l.Ctx, l.Conn, roomgen.Room{ID: room, Server: "x", Events: 400, StateEvery: 20})
	require.NoError(t, err)
	_, err = roomgen.Generate(l.Ctx, l.Conn, roomgen.Room{ID: "!other:x", Server: "x", Events: 100})
	require.NoError(t, err)
	l.Exec(`ANALYZE`)
	counted := l.plan(plan.Request{Kind: jobs.PurgeHistory, Room: room, BeforeEvent: made.Middle, DeleteLocalEvents: true})
	countedDelete := l.plan(plan.Request{Kind: jobs.DeleteRoom, Room: room})
	l.options.Footprint.Few = 50
	for _, kind := range []journal.Kind{jobs.PurgeHistory, jobs.DeleteRoom} {
		request := plan.Request{Kind: kind, Room: room}
		want := countedDelete
		if kind == jobs.PurgeHistory {
			request.BeforeEvent, request.DeleteLocalEvents, want = made.Middle, true, counted
		}
		p := l.plan(request)
		require.Equal(t, want.Events, p.Events)
		require.Equal(t, want.EventsKept, p.EventsKept)
		require.Equal(t, want.Media, p.Media)
		require.Equal(t, want.Digest, p.Digest)
		require.True(t, p.Tables["events"].Exact)
		require.False(t, p.Tables["event_json"].Exact)
		require.InDelta(t, want.Tables["event_json"].Rows, p.Tables["event_json"].Rows, 5)
		require.InEpsilon(t, want.EstimatedBytes, p.EstimatedBytes, 0.5)
		for table, figure := range p.Tables {
			if figure.Exact {
				require.Equal(t, want.Tables[table], figure, table)
			}
		}
		request.Exact = true
		exact := l.plan(request)
		require.Equal(t, want.Tables, exact.Tables)
		require.Equal(t, want.StateGroups, exact.StateGroups)
	}
}

func TestPlanOfADelete(t *testing.T) {
	t.Parallel()
	l := setup(t)
	_, err := roomgen.Generate(l.Ctx, l.Conn, roomgen.Room{ID: room, Server: "x", Events: 60, LocalMembers: 3, RemoteMembers: -1})
	require.NoError(t, err)
	l.Exec(`INSERT INTO room_aliases (room_alias, room_id, creator) VALUES ('#a:x', $1, '@u:x'), ('#b:x', $1, '@u:x')`, room)
	request := plan.Request{Kind: jobs.DeleteRoom, Room: room}
	var p plan.Plan
	l.RequireUnchanged(func() { p = l.plan(request) })
	require.EqualValues(t, 3, p.UsersCount)
	require.Len(t, p.Users, 3)
	require.Equal(t, l.events(room)+3, p.Events, "each leaves with an event")
	require.Equal(t, []string{"#a:x", "#b:x"}, p.Aliases)
	require.EqualValues(t, 2, p.AliasesCount)
	require.Equal(t, l.events(room), p.Tables["event_json"].Rows)
	require.Empty(t, p.Servers)
	warnings(t, p, "Their number: 3.", "Everything goes")

	var shown map[string]any
	text, err := json.Marshal(p)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(text, &shown))
	for _, key := range []string{
		"kind", "room_id", "events", "events_kept", "tables", "state_groups", "media", "users", "users_count",
		"aliases", "servers", "estimated_seconds", "warnings", "digest",
	} {
		require.Contains(t, shown, key)
	}
	require.Equal(t, []any{}, shown["servers"], "never null")
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "e", 10, 0)
	l.Exec(`UPDATE events SET received_ts = 1600000000000 + stream_ordering`)
	request := func(ts int64) plan.Request {
		return plan.Request{Kind: jobs.PurgeHistory, Room: room, BeforeTime: &ts}
	}
	warnings(t, l.plan(request(1600000000005)))
	// The token of a moment in seconds is that of an event of the room's, if there is one
	// that old.
	l.Exec(`UPDATE events SET received_ts = 0 WHERE event_id = '$e1'`)
	warnings(t, l.plan(request(1600000000)), "in the year 1970. It looks like seconds")
	warnings(t, l.plan(request(time.Now().Add(time.Hour).UnixMilli())), "in the future", "Everything goes but the newest")
	warnings(t, l.plan(plan.Request{Kind: jobs.PurgeHistory, Room: room, Before: matrix.Token{Topological: 11}}),
		"Everything goes but the newest", "will fail: its end lies above")

	before := plan.Request{Kind: jobs.PurgeHistory, Room: room, BeforeEvent: "$e5"}
	warnings(t, l.plan(before))
	_, err := l.Holds.Place(l.Ctx, room, "case \"42\"\n"+strings.Repeat("x", 500), "@admin:x")
	require.NoError(t, err)
	work := l.Work(room)
	l.Exec(`INSERT INTO current_state_events (event_id, room_id, type, state_key) VALUES ('$e1', $1, 'm.room.encryption', ''), ('$e2', $1, 'm.room.tombstone', '')`, room)
	l.Exec(`INSERT INTO current_state_events (event_id, room_id, type, state_key, membership)
		SELECT '$e' || i, $1, 'm.room.member', '@u' || i || ':far' || i % 2, 'join' FROM generate_series(3, 8) i`, room)
	l.Exec(`INSERT INTO partial_state_rooms (room_id) VALUES ($1)`, room)
	p := l.plan(before)
	warnings(t, p, `held: "case \"42\"\nxxx`, "a job of the kind purge_history", "not complete", "encrypted", "upgraded", "The number of these servers: 2.")
	require.Less(t, len(p.Warnings[0]), 400)
	require.Equal(t, []string{"far0", "far1"}, p.Servers)
	require.NoError(t, l.Journal.EndJob(l.Ctx, work.Run, journal.Complete, ""))
	_, err = l.Holds.Release(l.Ctx, room, "@admin:x")
	require.NoError(t, err)
	warnings(t, l.plan(before), "not complete", "encrypted", "upgraded", "The number of these servers: 2.")
}

// TestHomeserversTaskIsAWarning needs the table of tasks that only Synapse makes.
func TestHomeserversTaskIsAWarning(t *testing.T) {
	t.Parallel()
	l := storetest.On(t, storetest.Restored(t, "synapse-1.160-corpus.dump", "1.160"))
	require.NoError(t, migrate.Up(l.Ctx, l.URL))
	const lobby = "!uLenUygWgGOSQDCxUO:lab.test"
	l.Exec(`INSERT INTO scheduled_tasks (id, action, status, timestamp, resource_id) VALUES ('t', 'purge_history', 'active', 1, $1)`, lobby)
	api := storetest.OnAs(t, l.URL, schema.API).DB
	planner := plan.New(api, plan.Options{Purger: purge.New(api, purge.Options{}), Footprint: footprint.Options{ServerName: "lab.test"}})
	p, err := planner.Plan(l.Ctx, plan.Request{Kind: jobs.DeleteRoom, Room: lobby})
	require.NoError(t, err)
	require.Contains(t, strings.Join(p.Warnings, "\n"), `task of its own for the room, "purge_history"`)
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "e", 3, 0)
	l.Chain("!other:x", "o", 3, 100)
	for _, test := range []struct {
		request plan.Request
		want    error
	}{
		{plan.Request{}, plan.ErrRequest},
		{plan.Request{Kind: "rm -rf", Room: room}, plan.ErrRequest},
		{plan.Request{Kind: jobs.PurgeHistory, Room: room}, plan.ErrRequest},
		{plan.Request{Kind: jobs.DeleteRoom}, plan.ErrRequest},
		{plan.Request{Kind: jobs.RetentionSweep, Room: room}, plan.ErrRequest},
		{plan.Request{Kind: jobs.RetentionSweep}, plan.ErrRequest},
		{plan.Request{Kind: jobs.AbandonedSweep}, plan.ErrRequest},
		{plan.Request{Kind: jobs.PurgeHistory, Room: room, BeforeEvent: "$o2"}, plan.ErrWrongRoom},
		{plan.Request{Kind: jobs.PurgeHistory, Room: room, BeforeEvent: "$none"}, postgres.ErrNotFound},
		{plan.Request{Kind: jobs.PurgeHistory, Room: "!none:x", BeforeTime: new(int64(1))}, postgres.ErrNotFound},
		{plan.Request{Kind: jobs.PurgeHistory, Room: "!none:x", Before: matrix.Token{Topological: 9}}, postgres.ErrNotFound},
		{plan.Request{Kind: jobs.DeleteRoom, Room: "!none:x"}, postgres.ErrNotFound},
		{plan.Request{Kind: jobs.DeleteRoom, Room: "!\xff:x"}, postgres.ErrNotFound},
		{plan.Request{Kind: jobs.PurgeHistory, Room: room, BeforeEvent: "$\x00"}, postgres.ErrNotFound},
	} {
		_, err := l.planner().Plan(l.Ctx, test.request)
		require.ErrorIs(t, err, test.want, "%+v", test.request)
	}
	l.Exec(`CREATE TABLE strange (room_id text, event_id text)`)
	l.options.Purger = purge.New(l.api, purge.Options{})
	_, err := l.planner().Plan(l.Ctx, plan.Request{Kind: jobs.DeleteRoom, Room: room})
	require.ErrorIs(t, err, purge.ErrCatalog, "as the delete would")
}

func TestSecondsAreMeasured(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "e", 300, 0)
	request := plan.Request{Kind: jobs.PurgeHistory, Room: room, BeforeEvent: "$e300"}
	guessed := l.plan(request)
	for i, checkpoint := range []string{
		`{"events_deleted": 3000}`, `{"events_deleted": 7}`, `{"events_deleted": "many"}`, `{"events_deleted": 1e300}`, `[]`, `null`,
		`{"events_deleted": null}`, `{"events_deleted": -5}`,
	} {
		l.Exec(`
			INSERT INTO lethe.jobs (id, kind, room_id, parameters, requester, state, checkpoint, started_at, ended_at)
			VALUES ('measuredjobnumb' || chr(97 + $1::int), 'purge_history', '!r', '{}', '@a:x', 'complete', $2::jsonb,
			        now() - interval '100 s', now())`, i, checkpoint)
	}
	measured := l.plan(request)
	require.False(t, guessed.Measured)
	require.True(t, measured.Measured)
	require.InDelta(t, 299.0/30, measured.Seconds, 1, "30 events per second")
	require.Equal(t, guessed.Digest, measured.Digest)
	del := l.plan(plan.Request{Kind: jobs.DeleteRoom, Room: room})
	require.False(t, del.Measured, "deletes were not measured")
}

func TestDrift(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "e", 20, 0)
	l.Chain("!other:x", "o", 20, 100)
	planner := l.planner()
	check := func(request plan.Request, digest string, tolerance int64) error {
		var err error
		l.RequireUnchanged(func() { err = planner.Check(l.Ctx, request, digest, tolerance) })
		return err
	}
	purged := plan.Request{Kind: jobs.PurgeHistory, Room: room, BeforeEvent: "$e10"}
	deleted := plan.Request{Kind: jobs.DeleteRoom, Room: room}
	purgeDigest, deleteDigest := l.plan(purged).Digest, l.plan(deleted).Digest
	exact := purged
	exact.Exact = true
	require.Equal(t, purgeDigest, l.plan(exact).Digest)
	require.NoError(t, check(purged, purgeDigest, 0))
	require.NoError(t, check(deleted, deleteDigest, 0))
	decided, ok, err := plan.Decided(purgeDigest)
	require.NoError(t, err)
	require.True(t, ok)
	require.EqualValues(t, 10, decided.Topological)
	require.NoError(t, check(plan.Request{Kind: jobs.PurgeHistory, Room: room, Before: decided}, purgeDigest, 0), "as a worker asks")
	require.NoError(t, check(plan.Request{Kind: jobs.PurgeHistory, Room: room}, purgeDigest, 0), "the plan says where it ends")
	_, ok, err = plan.Decided(deleteDigest)
	require.NoError(t, err)
	require.False(t, ok)

	drifted := func(request plan.Request, digest string, then, now, by int64) {
		t.Helper()
		for tolerance, refused := range map[int64]bool{-1: true, 0: true, by - 1: true, by: false, math.MaxInt64: false} {
			err := check(request, digest, tolerance)
			if !refused {
				require.NoError(t, err, tolerance)
				continue
			}
			require.ErrorIs(t, err, plan.ErrDrifted, tolerance)
			var drift *plan.Drift
			require.ErrorAs(t, err, &drift)
			require.Equal(t, plan.Drift{Then: then, Now: now}, *drift)
			require.ErrorContains(t, err, fmt.Sprint(now))
		}
	}
	insert := func(id string, depth, stream int) {
		l.Exec(`INSERT INTO events (event_id, room_id, type, topological_ordering, depth, stream_ordering, processed, outlier, sender)
			VALUES ($1, $2, 'm.room.message', $3, $3, $4, true, false, '@zoe:far')`, id, room, depth, stream)
	}
	insert("$above", 15, 50)
	require.NoError(t, check(purged, purgeDigest, 0), "it stays")
	drifted(deleted, deleteDigest, 20, 21, 1)
	insert("$late", 5, 51)
	insert("$later", 5, 52)
	drifted(purged, purgeDigest, 9, 11, 2)
	l.Exec(`DELETE FROM events WHERE event_id IN ('$late', '$later')`)
	require.NoError(t, check(purged, purgeDigest, 0), "it is as before")
	l.Exec(`UPDATE events SET state_key = '' WHERE event_id = '$e3'`)
	drifted(purged, purgeDigest, 9, 8, 1)
	l.Exec(`UPDATE events SET state_key = NULL WHERE event_id = '$e3'`)

	// As many events as before, but others.
	l.Exec(`UPDATE events SET sender = '@u:x' WHERE event_id = '$e3'`)
	insert("$instead", 3, 53)
	drifted(purged, purgeDigest, 9, 9, 2)
	l.Exec(`DELETE FROM events WHERE event_id = '$instead'`)
	l.Exec(`UPDATE events SET sender = '@zoe:far' WHERE event_id = '$e3'`)
	require.NoError(t, check(purged, purgeDigest, 0))

	other := plan.Request{Kind: jobs.PurgeHistory, Room: "!other:x", BeforeEvent: "$o10"}
	local := purged
	local.DeleteLocalEvents = true
	deeper := purged
	deeper.BeforeEvent = "$e11"
	for _, test := range []struct {
		request plan.Request
		digest  string
	}{
		{other, purgeDigest},
		{purged, l.plan(other).Digest},
		{local, purgeDigest},
		{deeper, purgeDigest},
		{deleted, purgeDigest},
		{purged, deleteDigest},
		{purged, ""},
		{purged, "1"},
		{purged, "1-----"},
		{purged, "1----"},
		{purged, strings.Replace(purgeDigest, "1-", "2-", 1)},
		{purged, purgeDigest + "0"},
		{purged, purgeDigest + "-"},
		{purged, strings.Replace(purgeDigest, "1-9-", "1-09-", 1)},
		{purged, strings.Replace(purgeDigest, "1-9-", "1--9-", 1)},
		{purged, strings.Replace(purgeDigest, "t10", "t11", 1)},
		{purged, strings.Replace(purgeDigest, "t10", "s10", 1)},
		{purged, strings.Repeat("x", 1<<20)},
		{purged, "\x00\xff"},
	} {
		err := check(test.request, test.digest, math.MaxInt64)
		if !errors.Is(err, plan.ErrDigest) {
			// A changed hash of the events is a drift like any other.
			require.ErrorIs(t, check(test.request, test.digest, 0), plan.ErrDrifted, "%.100q", test.digest)
			continue
		}
		require.Less(t, len(err.Error()), 500)
	}
	_, err = planner.Plan(l.Ctx, other)
	require.NoError(t, err)
}

// TestWorkersCheckPlans compares with the rights of a worker.
func TestWorkersCheckPlans(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "e", 20, 0)
	worker := storetest.OnAs(t, l.URL, schema.Worker).DB
	options := l.options
	options.Purger = purge.New(worker, purge.Options{})
	for _, request := range []plan.Request{
		{Kind: jobs.PurgeHistory, Room: room, BeforeEvent: "$e10"}, {Kind: jobs.DeleteRoom, Room: room},
	} {
		digest := l.plan(request).Digest
		require.NoError(t, plan.New(worker, options).Check(l.Ctx, request, digest, 0))
	}
}

// TestCheckJob compares jobs with the plans in their rows, with the parameters that jobs
// have.
func TestCheckJob(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "e", 20, 0)
	l.Exec(`UPDATE events SET sender = '@u:' || $1 WHERE event_id = '$e3'`, storetest.ServerName)
	purged := l.plan(plan.Request{Kind: jobs.PurgeHistory, Room: room, BeforeEvent: "$e10", DeleteLocalEvents: true})
	deleted := l.plan(plan.Request{Kind: jobs.DeleteRoom, Room: room})
	check := func(p plan.Plan, parameters string, tolerance int64) error {
		return l.planner().CheckJob(l.Ctx, journal.Job{
			Kind: p.Kind, Room: p.Room, Parameters: json.RawMessage(parameters), Plan: plan.Accepted{Digest: p.Digest, Tolerance: tolerance}.Encode(),
		})
	}
	local, kept := `{"token": "`+purged.Before+`", "delete_local_events": true}`, `{"token": "`+purged.Before+`", "delete_local_events": false}`
	require.NoError(t, check(purged, local, 0))
	require.ErrorIs(t, check(purged, kept, 0), plan.ErrOtherJob)
	require.NoError(t, check(deleted, `{"purge": true}`, 0))
	l.Exec(`INSERT INTO events (event_id, room_id, type, topological_ordering, depth, stream_ordering, processed, outlier, sender)
		SELECT '$late' || n, $1, 'm.room.message', 5, 5, 50 + n, true, false, '@zoe:far' FROM generate_series(1, 2) n`, room)
	for p, parameters := range map[*plan.Plan]string{&purged: local, &deleted: `{}`} {
		require.ErrorIs(t, check(*p, parameters, 0), plan.ErrDrifted, p.Kind)
		require.ErrorIs(t, check(*p, parameters, 1), plan.ErrDrifted, p.Kind)
		require.NoError(t, check(*p, parameters, 2), p.Kind)
	}
	require.Error(t, check(purged, `[]`, 9))
	require.Error(t, l.planner().CheckJob(l.Ctx, journal.Job{Kind: purged.Kind, Room: room, Parameters: json.RawMessage(local), Plan: json.RawMessage(`[]`)}))
}

func TestPlanOfARetentionSweep(t *testing.T) {
	t.Parallel()
	l := setup(t)
	const day = int64(24 * time.Hour / time.Millisecond)
	for seed, id := range []string{"!a:x", "!b:x", "!held:x", "!short:x"} {
		_, err := roomgen.Generate(l.Ctx, l.Conn, roomgen.Room{ID: id, Server: "x", Events: 100 + 20*seed, Seed: uint64(seed), Span: 100 * 24 * time.Hour})
		require.NoError(t, err)
	}
	// Of this room nothing has expired.
	_, err := roomgen.Generate(l.Ctx, l.Conn, roomgen.Room{ID: "!new:x", Server: "x", Events: 50, Seed: 9, Span: time.Hour})
	require.NoError(t, err)
	l.Exec(`INSERT INTO current_state_events (event_id, room_id, type, state_key) SELECT event_id, room_id, 'm.room.retention', ''
		FROM events WHERE room_id = '!short:x' ORDER BY stream_ordering DESC LIMIT 1`)
	l.Exec(`INSERT INTO room_retention (room_id, event_id, max_lifetime) SELECT room_id, event_id, 1000
		FROM current_state_events WHERE type = 'm.room.retention'`)
	_, err = l.Holds.Place(l.Ctx, "!held:x", "case", "@admin:x")
	require.NoError(t, err)
	job := retention.Everything()
	job.ShortestMaxLifetime = new(day)
	l.options.Retention = retention.Config{
		Enabled: true, DefaultPolicy: retention.Policy{MaxLifetime: new(30 * day)}, Jobs: []retention.Job{job},
	}
	request := plan.Request{Kind: jobs.RetentionSweep}
	var p plan.Plan
	l.RequireUnchanged(func() { p = l.plan(request) })
	require.EqualValues(t, 2, p.RoomsCount)
	require.Equal(t, map[string]int64{"held": 1, "other_job": 1, "nothing_expired": 1}, p.Skipped)
	require.Len(t, p.Rooms, 2)
	require.Equal(t, "!b:x", p.Rooms[0].Room, "the larger first")
	require.Equal(t, p.Events, p.Rooms[0].Events+p.Rooms[1].Events)
	require.Positive(t, p.Rooms[1].Events)
	require.Empty(t, p.Warnings)

	require.NoError(t, l.planner().Check(l.Ctx, request, p.Digest, 0))
	named := plan.Request{Kind: jobs.RetentionSweep, Name: job.Name}
	require.NoError(t, l.planner().Check(l.Ctx, named, p.Digest, 0), "it is the only one")
	_, err = l.planner().Plan(l.Ctx, plan.Request{Kind: jobs.RetentionSweep, Name: "none"})
	require.ErrorIs(t, err, plan.ErrRequest)

	for _, swept := range p.Rooms {
		cut := time.Now().UnixMilli() - 30*day
		one := l.plan(plan.Request{Kind: jobs.PurgeHistory, Room: swept.Room, BeforeTime: &cut, DeleteLocalEvents: true})
		require.Equal(t, swept.Events, one.Events)
		before := l.events(swept.Room)
		l.purge(one)
		require.Equal(t, swept.Events, before-l.events(swept.Room))
	}
	require.ErrorIs(t, l.planner().Check(l.Ctx, request, p.Digest, p.Events-1), plan.ErrDrifted)
	p = l.plan(request)
	require.Zero(t, p.Events)
	warnings(t, p, "no room to change")
}

func TestPlanOfAnAbandonedSweep(t *testing.T) {
	t.Parallel()
	l := setup(t)
	const day = int64(24 * time.Hour / time.Millisecond)
	for i, id := range []string{"!a:x", "!b:x", "!c:x", "!cooling:x", "!held:x", "!members:x"} {
		l.Chain(id, fmt.Sprint("of", i, "-"), 10+i, 100*i)
		membership := "leave"
		if id == "!members:x" {
			membership = "join"
		}
		l.Exec(`UPDATE events SET received_ts = 1 WHERE room_id = $1`, id)
		l.Exec(`INSERT INTO local_current_membership (room_id, user_id, event_id, membership)
			SELECT room_id, '@u:x', min(event_id), $2 FROM events WHERE room_id = $1 GROUP BY room_id`, id, membership)
		if id != "!cooling:x" {
			l.Exec(`INSERT INTO lethe.abandoned_rooms (room_id, seen_at) VALUES ($1, now() - interval '9 days')`, id)
		}
	}
	_, err := l.Holds.Place(l.Ctx, "!held:x", "case", "@admin:x")
	require.NoError(t, err)
	l.options.Retention = retention.Config{Abandoned: retention.Abandoned{Enabled: true, After: day, CoolOff: day, MaxPerRun: 2}}
	request := plan.Request{Kind: jobs.AbandonedSweep}
	var p plan.Plan
	l.RequireUnchanged(func() { p = l.plan(request) })
	require.EqualValues(t, 2, p.RoomsCount)
	require.EqualValues(t, 21, p.Events)
	require.Equal(t, []plan.RoomPlan{{Room: "!b:x", Events: 11}, {Room: "!a:x", Events: 10}}, p.Rooms)
	require.Equal(t, map[string]int64{"capped": 1, "cooling_off": 1, "held": 1, "members": 1}, p.Skipped)
	require.NoError(t, l.planner().Check(l.Ctx, request, p.Digest, 0))
	l.Exec(`DELETE FROM event_forward_extremities WHERE room_id = '!a:x'`)
	l.Exec(`DELETE FROM event_edges WHERE event_id = '$of0-10'`)
	l.Exec(`DELETE FROM events WHERE event_id = '$of0-10'`)
	require.ErrorIs(t, l.planner().Check(l.Ctx, request, p.Digest, 0), plan.ErrDrifted)
	require.NoError(t, l.planner().Check(l.Ctx, request, p.Digest, 1))
}

// TestHostileTextsOfTheDatabase plans jobs of a room whose rows are as bad as can be.
func TestHostileTextsOfTheDatabase(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "e", 5, 0)
	evil := strings.Repeat("\u202e\"'%s$1\n", 1000)
	l.Exec(`INSERT INTO room_aliases (room_alias, room_id, creator) VALUES ($2, $1, '')`, room, "#"+evil[:1000])
	l.Exec(`INSERT INTO current_state_events (event_id, room_id, type, state_key, membership) VALUES
		('$e1', $1, 'm.room.member', ':', 'join'), ('$e2', $1, 'm.room.member', $2, 'join'), ('$e3', $1, 'm.room.member', '', 'join'),
		('$e4', $1, 'm.room.member', '@u:', 'join')`, room, "@u:"+evil[:1000])
	l.Exec(`INSERT INTO local_current_membership (room_id, user_id, event_id, membership) VALUES ($1, $2, '$e1', 'join')`, room, evil[:1000])
	l.Exec(`UPDATE events SET sender = $1, topological_ordering = -9223372036854775808 WHERE event_id = '$e1'`, evil)
	l.Exec(`UPDATE events SET sender = NULL, contains_url = true WHERE event_id = '$e2'`)
	for _, request := range []plan.Request{
		{Kind: jobs.DeleteRoom, Room: room, Exact: true},
		{Kind: jobs.PurgeHistory, Room: room, BeforeEvent: "$e4", Exact: true},
		{Kind: jobs.PurgeHistory, Room: room, Before: matrix.Token{Topological: math.MaxInt64, Stream: math.MinInt64}},
		{Kind: jobs.PurgeHistory, Room: room, BeforeTime: new(int64(math.MaxInt64))},
		{Kind: jobs.PurgeHistory, Room: room, BeforeTime: new(int64(math.MinInt64))},
	} {
		p, err := l.planner().Plan(l.Ctx, request)
		if err != nil { // nothing has arrived
			require.ErrorIs(t, err, postgres.ErrNotFound)
			continue
		}
		_, err = json.Marshal(p)
		require.NoError(t, err)
		for _, warning := range p.Warnings {
			require.Less(t, len(warning), 500)
		}
		require.NoError(t, l.planner().Check(l.Ctx, request, p.Digest, 0))
	}
}

// TestStatementsHaveADeadline plans while a statement has to wait too long.
func TestStatementsHaveADeadline(t *testing.T) {
	t.Parallel()
	l := setup(t)
	l.Chain(room, "e", 5, 0)
	l.options.Footprint.Time = 50 * time.Millisecond
	tx, err := l.Conn.Begin(l.Ctx)
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(context.WithoutCancel(l.Ctx)) }()
	_, err = tx.Exec(l.Ctx, `LOCK TABLE event_auth IN ACCESS EXCLUSIVE MODE`)
	require.NoError(t, err)
	_, err = l.planner().Plan(l.Ctx, plan.Request{Kind: jobs.PurgeHistory, Room: room, BeforeEvent: "$e4"})
	require.True(t, postgres.HasCode(err, "57014") || postgres.HasCode(err, "55P03"), "%v", err)
}
