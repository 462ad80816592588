package shutdown_test

import (
	"context"
	"encoding/json"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/matrix"
	"lethe/internal/schema"
	"lethe/internal/shutdown"
	"lethe/internal/store/migrate"
	"lethe/internal/store/postgres"
	"lethe/internal/store/roomwriter"
	"lethe/internal/store/storetest"
)

// A house is a homeserver's database with an Embedded.
type house struct {
	t      tester
	ctx    context.Context
	store  *postgres.DB
	conn   *pgx.Conn
	server string
	home   driver
	key    *matrix.SigningKey
}

// A tester is a *testing.T or a *rapid.T.
type tester interface {
	require.TestingT
	Helper()
}

func houseOn(t *testing.T, url, server string, options shutdown.EmbeddedOptions) *house {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	s, err := postgres.Open(ctx, storetest.AsKnownColumns(t, url, schema.Worker), postgres.Options{})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	conn, err := pgx.Connect(ctx, url)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) })
	options.ServerName = server
	h := &house{t: t, ctx: ctx, store: s, conn: conn, server: server, home: drive(s, shutdown.NewEmbedded(options)), key: options.SigningKey}
	h.exec(`SET search_path = public`)
	return h
}

// embeddedHouse is one on an empty embedded database.
func embeddedHouse(t *testing.T, options shutdown.EmbeddedOptions) *house {
	t.Helper()
	return houseOn(t, devstacktest.Database(t, "embedded", migrate.UpEmbedded), "x", options)
}

// corpusHouse is one on the database of the corpus.
func corpusHouse(t *testing.T) *house { return restoredHouse(t, "synapse-1.160-corpus.dump") }

func restoredHouse(t *testing.T, dump string) *house {
	t.Helper()
	url := devstacktest.Restored(t, devstacktest.Shared(t, "fixtures", dump))
	require.NoError(t, migrate.Up(t.Context(), url))
	return houseOn(t, url, "lab.test", shutdown.EmbeddedOptions{SigningKey: corpusKey(t)})
}

func corpusKey(t *testing.T) *matrix.SigningKey {
	t.Helper()
	text, err := os.ReadFile(devstacktest.Shared(t, "fixtures", "signing.key"))
	require.NoError(t, err)
	key, err := matrix.ParseSigningKey(string(text))
	require.NoError(t, err)
	return key
}

func (h *house) exec(sql string, args ...any) {
	h.t.Helper()
	_, err := h.conn.Exec(h.ctx, sql, args...)
	require.NoError(h.t, err)
}

// all returns the values of a query's only column.
func all[T any](h *house, sql string, args ...any) []T {
	h.t.Helper()
	rows, err := h.conn.Query(h.ctx, sql, args...)
	require.NoError(h.t, err)
	values, err := pgx.CollectRows(rows, pgx.RowTo[T])
	require.NoError(h.t, err)
	return values
}

func one[T any](h *house, sql string, args ...any) T {
	h.t.Helper()
	values := all[T](h, sql, args...)
	require.Len(h.t, values, 1, sql)
	return values[0]
}

// dump returns all rows of all tables, by table.
func (h *house) dump() map[string][]string {
	h.t.Helper()
	dump := map[string][]string{}
	for _, table := range all[string](h, `
		SELECT format('%I.%I', schemaname, tablename) FROM pg_tables WHERE schemaname IN ('public', 'lethe')`) {
		dump[table] = all[string](h, `SELECT to_jsonb(t)::text FROM `+table+` t ORDER BY 1`)
	}
	require.NotEmpty(h.t, dump)
	return dump
}

// unchanged fails the test if do changes a row.
func (h *house) unchanged(do func()) {
	h.t.Helper()
	before := h.dump()
	do()
	require.Equal(h.t, before, h.dump())
}

// begin makes a job of the room, and what its batches need.
func (h *house) begin(room string) storetest.Work {
	h.t.Helper()
	return begin(h.t, h.ctx, h.store, room)
}

// remove removes the room's members, and fails the test if that fails.
func (h *house) remove(work storetest.Work, newRoom string, members ...roomwriter.LocalMember) stepOutcome {
	h.t.Helper()
	removed, err := h.home.RemoveUsers(h.ctx, work, shutdown.Removal{Members: members, NewRoom: newRoom, Requester: "@admin:" + h.server})
	require.NoError(h.t, err)
	return removed
}

func (h *house) create(work storetest.Work, creator, name string) string {
	h.t.Helper()
	id, err := h.home.CreateRoom(h.ctx, work, shutdown.NewRoom{JobID: work.Run.JobID, Creator: creator, Name: name})
	require.NoError(h.t, err)
	require.NotEmpty(h.t, id)
	return id
}

func (h *house) members(room string) []roomwriter.LocalMember {
	h.t.Helper()
	members, err := roomwriter.LocalMembers(h.ctx, h.store, room, "", 1000)
	require.NoError(h.t, err)
	return members
}

// stateOf is the state that a state group comes to, by type and state key.
func (h *house) stateOf(group int64) map[string]string {
	h.t.Helper()
	state := map[string]string{}
	for _, row := range all[[]string](h, `
		WITH RECURSIVE chain (state_group) AS (
			SELECT $1::bigint
			UNION
			SELECT prev_state_group FROM chain JOIN state_group_edges USING (state_group)
		)
		SELECT DISTINCT ON (type, state_key) ARRAY[type || ' ' || state_key, event_id]
		FROM chain JOIN state_groups_state USING (state_group)
		ORDER BY type, state_key, state_group DESC`, group) {
		state[row[0]] = row[1]
	}
	return state
}

// currentState is the room's current state, by type and state key.
func (h *house) currentState(room string) map[string]string {
	h.t.Helper()
	state := map[string]string{}
	for _, row := range all[[]string](h, `
		SELECT ARRAY[type || ' ' || state_key, event_id] FROM current_state_events WHERE room_id = $1`, room) {
		state[row[0]] = row[1]
	}
	return state
}

func (h *house) groupOf(event string) int64 {
	h.t.Helper()
	return one[int64](h, `SELECT state_group FROM event_to_state_groups WHERE event_id = $1`, event)
}

// newest is the highest place in the stream.
func (h *house) newest() int64 {
	h.t.Helper()
	return one[int64](h, `SELECT coalesce(max(stream_ordering), 0) FROM events`)
}

// A storedEvent is an event as the database has it.
type storedEvent struct {
	ID, Room, Type, Sender, Version, JSON string
	StateKey                              *string
	Depth, Stream                         int64
	Outlier                               bool
}

func (h *house) eventsAfter(stream int64) []storedEvent {
	h.t.Helper()
	rows, err := h.conn.Query(h.ctx, `
		SELECT e.event_id, e.room_id, e.type, e.sender, r.room_version, j.json, e.state_key, e.depth, e.stream_ordering, e.outlier
		FROM events e JOIN event_json j USING (event_id) JOIN rooms r ON r.room_id = e.room_id
		WHERE e.stream_ordering > $1 ORDER BY e.stream_ordering`, stream)
	require.NoError(h.t, err)
	events, err := pgx.CollectRows(rows, pgx.RowToStructByPos[storedEvent])
	require.NoError(h.t, err)
	return events
}

// referred returns the ids of the events that an event refers to. It fails the test
// unless the event says their reference hashes where its version does.
func (h *house) referred(e storedEvent, list json.RawMessage) []string {
	h.t.Helper()
	version := matrix.RoomVersion(e.Version)
	ids, hashes, err := matrix.References(version, list)
	require.NoError(h.t, err)
	for id, hash := range hashes {
		want, err := matrix.ReferenceHash(version, []byte(one[string](h, `SELECT json FROM event_json WHERE event_id = $1`, id)))
		require.NoError(h.t, err)
		require.Equal(h.t, want, hash)
	}
	if version.HasReferenceHashes() {
		require.Len(h.t, hashes, len(ids), "each reference has a hash")
	}
	return ids
}

// whole fails the test unless each event after the place in the stream is in all
// tables that it belongs into, named and signed as it should be, and permitted by
// the events that the rules ask for.
func (h *house) whole(after int64) {
	h.t.Helper()
	events := h.eventsAfter(after)
	require.NotEmpty(h.t, events)
	for _, e := range events {
		version := matrix.RoomVersion(e.Version)
		id, err := matrix.EventID(version, []byte(e.JSON))
		require.NoError(h.t, err)
		require.Equal(h.t, e.ID, id)
		var said struct {
			Type           string                       `json:"type"`
			RoomID         string                       `json:"room_id"`
			Sender         string                       `json:"sender"`
			StateKey       *string                      `json:"state_key"`
			Content        map[string]any               `json:"content"`
			Depth          int64                        `json:"depth"`
			PrevEvents     json.RawMessage              `json:"prev_events"`
			AuthEvents     json.RawMessage              `json:"auth_events"`
			OriginServerTS int64                        `json:"origin_server_ts"`
			Hashes         map[string]string            `json:"hashes"`
			Signatures     map[string]map[string]string `json:"signatures"`
		}
		require.NoError(h.t, json.Unmarshal([]byte(e.JSON), &said))
		prevEvents, authEvents := h.referred(e, said.PrevEvents), h.referred(e, said.AuthEvents)
		hash, err := matrix.ContentHash(version, []byte(e.JSON))
		require.NoError(h.t, err)
		require.Equal(h.t, map[string]string{"sha256": hash}, said.Hashes)
		if h.key == nil {
			require.Empty(h.t, said.Signatures)
		} else {
			require.NoError(h.t, matrix.VerifySignature(version, []byte(e.JSON), h.server, h.key.ID(), h.key.Public()))
		}
		format, ok := version.EventFormat()
		require.True(h.t, ok)
		require.Equal(h.t, format, one[int](h, `SELECT format_version FROM event_json WHERE event_id = $1`, e.ID))
		isCreate := e.Type == "m.room.create"
		if !isCreate || version != "12" {
			require.Equal(h.t, e.Room, said.RoomID)
		}

		// What permits it.
		permitting := authEvents
		if version == "12" && !isCreate {
			require.NotContains(h.t, authEvents, "$"+e.Room[1:])
			permitting = append(slices.Clone(permitting), "$"+e.Room[1:])
		}
		if e.StateKey == nil {
			permitting = nil // only of state events is that kept
		}
		require.ElementsMatch(h.t, permitting, all[string](h, `SELECT auth_id FROM event_auth WHERE event_id = $1 AND room_id = $2`, e.ID, e.Room))
		if !e.Outlier {
			got := all[string](h, `
				SELECT type || ' ' || state_key FROM events WHERE event_id = ANY ($1) AND room_id = $2`, authEvents, e.Room)
			require.Len(h.t, got, len(authEvents), "each is there, and of the room")
			var allowed, want []string
			for _, key := range matrix.AuthTypes(version, matrix.Event{
				Type: said.Type, Sender: said.Sender, StateKey: said.StateKey, Content: said.Content,
			}) {
				allowed = append(allowed, key.Type+" "+key.Key)
			}
			require.Subset(h.t, allowed, got)
			// What was there before is there, and it is what the state had.
			before := map[string]string{}
			for _, prev := range prevEvents {
				maps.Copy(before, h.stateOf(h.groupOf(prev)))
			}
			for _, name := range allowed {
				if before[name] != "" {
					want = append(want, name)
				}
			}
			require.ElementsMatch(h.t, want, got)
		}

		// Its rows.
		type row struct {
			Outlier, Processed, URL bool
			Instance, Key           *string
			Topological             int64
			Received, Sent          int64
		}
		rows, err := h.conn.Query(h.ctx, `
			SELECT outlier, processed, contains_url, instance_name, state_key, topological_ordering, received_ts, origin_server_ts
			FROM events WHERE event_id = $1`, e.ID)
		require.NoError(h.t, err)
		got, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[row])
		require.NoError(h.t, err)
		master := "master"
		require.Equal(h.t, row{
			e.Outlier, true, false, &master, said.StateKey, said.Depth, got.Received, said.OriginServerTS,
		}, got)
		require.InDelta(h.t, time.Now().UnixMilli(), got.Received, 120_000)
		require.ElementsMatch(h.t, prevEvents, all[string](h, `
			SELECT prev_event_id FROM event_edges WHERE event_id = $1 AND NOT is_state`, e.ID))
		isOne := map[bool]int{true: 1}
		isState, isMember := e.StateKey != nil, e.Type == "m.room.member"
		indexed := one[bool](h, `SELECT coalesce(has_auth_chain_index, false) FROM rooms WHERE room_id = $1`, e.Room)
		require.Equal(h.t, []int{isOne[isState], isOne[isMember], isOne[!e.Outlier], isOne[isState && indexed]}, one[[]int](h, `
			SELECT ARRAY[
				(SELECT count(*) FROM state_events WHERE event_id = $1),
				(SELECT count(*) FROM room_memberships WHERE event_id = $1),
				(SELECT count(*) FROM event_to_state_groups WHERE event_id = $1),
				(SELECT count(*) FROM event_auth_chains WHERE event_id = $1)
				+ (SELECT count(*) FROM event_auth_chain_to_calculate WHERE event_id = $1)]`, e.ID), e)
		if !e.Outlier {
			require.NotEmpty(h.t, all[int64](h, `SELECT stream_ordering FROM stream_ordering_to_exterm WHERE stream_ordering = $1 AND room_id = $2`, e.Stream, e.Room))
			require.GreaterOrEqual(h.t, one[int64](h, `
				SELECT completed_delta_stream_id FROM room_stats_current WHERE room_id = $1`, e.Room), int64(0))
			if isState {
				require.Equal(h.t, e.ID, h.stateOf(h.groupOf(e.ID))[e.Type+" "+*e.StateKey], "the state after it")
			}
		}
	}
	require.Zero(h.t, one[int](h, `SELECT count(*) FROM event_json WHERE event_id NOT IN (SELECT event_id FROM events)`))
}
