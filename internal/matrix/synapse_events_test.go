package matrix_test

import (
	"encoding/json"
	"os"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/matrix"
)

// A storedEvent is an event as a homeserver stored it.
type storedEvent struct {
	ID      string
	Room    string
	Version matrix.RoomVersion
	Format  int
	Sender  string
	JSON    []byte
}

// storedEvents returns all events of the database of a real Synapse, in the order
// in which it stored them.
func storedEvents(t *testing.T) []storedEvent {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), devstacktest.Restored(t, devstacktest.Shared(t, "fixtures", "synapse-1.160-corpus.dump")))
	require.NoError(t, err)
	defer conn.Close(t.Context())
	rows, err := conn.Query(t.Context(), `
		SELECT event_id, room_id, room_version, format_version, sender, json
		FROM events JOIN event_json USING (event_id, room_id) JOIN rooms USING (room_id)
		ORDER BY stream_ordering`)
	require.NoError(t, err)
	events, err := pgx.CollectRows(rows, pgx.RowToStructByPos[storedEvent])
	require.NoError(t, err)
	return events
}

// TestEventsOfSynapse: every event that a homeserver made or accepted, ours and
// others', in each room version, has the id, the hash and the signature that
// package matrix computes, and those that have no more keys than ours are
// sealed again to the same bytes.
func TestEventsOfSynapse(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(devstacktest.Shared(t, "fixtures", "signing.key"))
	require.NoError(t, err)
	key, err := matrix.ParseSigningKey(string(text))
	require.NoError(t, err)
	const server = "lab.test"

	all, ours, sealed, creates := map[matrix.RoomVersion]int{}, map[matrix.RoomVersion]int{}, map[matrix.RoomVersion]int{}, 0
	for _, e := range storedEvents(t) {
		all[e.Version]++
		require.True(t, e.Version.Supported(), e.ID)
		require.Equal(t, map[bool]int{false: 3, true: 4}[e.Version == "12"], e.Format, e.ID)
		id, err := matrix.EventID(e.Version, e.JSON)
		require.NoError(t, err, e.ID)
		require.Equal(t, e.ID, id)
		var said struct {
			Hashes struct {
				SHA256 string `json:"sha256"`
			} `json:"hashes"`
		}
		require.NoError(t, json.Unmarshal(e.JSON, &said))
		hash, err := matrix.ContentHash(e.JSON)
		require.NoError(t, err, e.ID)
		require.Equal(t, said.Hashes.SHA256, hash, e.ID)
		redacted, err := matrix.Redact(e.Version, e.JSON)
		require.NoError(t, err, e.ID)
		id, err = matrix.EventID(e.Version, redacted)
		require.NoError(t, err, e.ID)
		require.Equal(t, e.ID, id, "a redacted event keeps its id")

		from, ok := matrix.ServerOf(e.Sender)
		require.True(t, ok, e.ID)
		err = matrix.VerifySignature(e.Version, e.JSON, from, key.ID(), key.Public())
		if from != server {
			require.ErrorIs(t, err, matrix.ErrSignature, e.ID)
			continue
		}
		require.NoError(t, err, e.ID)
		require.NoError(t, matrix.VerifySignature(e.Version, redacted, server, key.ID(), key.Public()), e.ID)
		ours[e.Version]++

		event, want, ok := unsealed(t, e.JSON)
		if !ok {
			continue
		}
		again, err := event.Seal(e.Version, server, key)
		require.NoError(t, err, e.ID)
		require.Equal(t, e.ID, again.ID)
		require.Equal(t, e.Room, again.RoomID, e.ID)
		require.Equal(t, string(want), string(again.JSON), e.ID)
		sealed[e.Version]++
		if event.RoomID == "" {
			creates++
		}
	}
	require.Equal(t, map[matrix.RoomVersion]int{"9": 160, "10": 517, "11": 378, "12": 331}, all)
	require.Equal(t, map[matrix.RoomVersion]int{"9": 160, "10": 292, "11": 284, "12": 279}, ours)
	// The others are redactions with the key redacts at the top.
	require.Equal(t, map[matrix.RoomVersion]int{"9": 154, "10": 288, "11": 284, "12": 279}, sealed)
	require.Equal(t, 2, creates, "rooms whose ids are those of their create events")
}

// unsealed returns what was sealed to the JSON of an event, and its canonical
// JSON without unsigned. Ok is false if it has keys that Seal does not write.
func unsealed(t *testing.T, raw []byte) (event matrix.Event, canonical []byte, ok bool) {
	t.Helper()
	var keys map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(raw, &keys))
	delete(keys, "unsigned")
	for key := range keys {
		if !slices.Contains([]string{
			"auth_events", "content", "depth", "hashes", "origin_server_ts", "prev_events", "room_id", "sender", "signatures", "state_key", "type",
		}, key) {
			return event, nil, false
		}
	}
	rest, err := json.Marshal(keys)
	require.NoError(t, err)
	canonical, err = matrix.CanonicalJSON(rest)
	require.NoError(t, err)

	var fields struct {
		Type           string         `json:"type"`
		RoomID         string         `json:"room_id"`
		Sender         string         `json:"sender"`
		StateKey       *string        `json:"state_key"`
		Content        map[string]any `json:"content"`
		Depth          int64          `json:"depth"`
		PrevEvents     []string       `json:"prev_events"`
		AuthEvents     []string       `json:"auth_events"`
		OriginServerTS int64          `json:"origin_server_ts"`
	}
	require.NoError(t, json.Unmarshal(raw, &fields))
	return matrix.Event(fields), canonical, true
}

// TestAuthEventsOfSynapse: of what its room's state has so far, an event names
// exactly what [matrix.AuthTypes] lists.
func TestAuthEventsOfSynapse(t *testing.T) {
	t.Parallel()
	type place struct {
		room string
		key  matrix.StateKey
	}
	keys := map[string]matrix.StateKey{} // what each state event is about
	said := map[place]bool{}             // the state that each room has so far
	named, absent := map[matrix.RoomVersion]int{}, 0
	for _, e := range storedEvents(t) {
		event, _, ok := unsealed(t, e.JSON)
		if !ok {
			continue
		}
		want := map[matrix.StateKey]bool{}
		for _, key := range matrix.AuthTypes(e.Version, event) {
			if said[place{e.Room, key}] {
				want[key] = true
			} else {
				absent++
			}
		}
		got := map[matrix.StateKey]bool{}
		for _, id := range event.AuthEvents {
			require.Contains(t, keys, id, "an event comes after those that allow it")
			got[keys[id]] = true
		}
		require.Equal(t, want, got, e.ID)
		named[e.Version] += len(event.AuthEvents)
		if event.StateKey != nil {
			keys[e.ID] = matrix.StateKey{Type: event.Type, Key: *event.StateKey}
			said[place{e.Room, keys[e.ID]}] = true
		}
	}
	require.Equal(t, map[matrix.RoomVersion]int{"9": 459, "10": 1523, "11": 1143, "12": 671}, named)
	require.Equal(t, 91, absent, "pieces of state that a room did not have yet")
}
