package matrix_test

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
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
func storedEvents(t *testing.T, dump string) []storedEvent {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), devstacktest.Restored(t, devstacktest.Shared(t, "fixtures", dump)))
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

// corpus and versions are the databases of a real Synapse. The second one has a room
// of each version that Synapse can still make.
const corpus, versions = "synapse-1.160-corpus.dump", "synapse-1.160-versions.dump"

// A census counts the events of a database by room version.
type census struct {
	all, ours, sealed map[matrix.RoomVersion]int

	// creates counts the rooms whose ids are those of their create events, and
	// referenced the references whose hashes were compared. signed counts the signatures
	// that were verified.
	creates, referenced, signed int
}

// TestEventsOfSynapse: every event that a homeserver made or accepted, ours and
// others', in each room version, has the id, the hash and the signature that
// package matrix computes. The key of some signatures is not known any more. Its previous and auth events have the hashes that it
// lists. Those that have no more keys than ours are sealed again to the same bytes.
func TestEventsOfSynapse(t *testing.T) {
	t.Parallel()
	// The events that are not sealed are redactions with the key redacts at the top.
	for dump, want := range map[string]census{
		corpus: {
			all:     map[matrix.RoomVersion]int{"9": 160, "10": 517, "11": 378, "12": 331},
			ours:    map[matrix.RoomVersion]int{"9": 160, "10": 292, "11": 284, "12": 279},
			sealed:  map[matrix.RoomVersion]int{"9": 154, "10": 288, "11": 284, "12": 279},
			creates: 2,
			signed:  1015,
		},
		versions: {
			all: map[matrix.RoomVersion]int{
				"1": 82, "2": 82, "3": 83, "5": 83, "6": 80, "7": 82, "8": 83, "9": 243, "10": 600, "11": 548, "12": 413,
			},
			ours: map[matrix.RoomVersion]int{
				"1": 82, "2": 82, "3": 83, "5": 83, "6": 80, "7": 82, "8": 83, "9": 243, "10": 375, "11": 454, "12": 361,
			},
			sealed: map[matrix.RoomVersion]int{
				"1": 71, "2": 71, "3": 72, "5": 72, "6": 69, "7": 71, "8": 72, "9": 226, "10": 360, "11": 454, "12": 361,
			},
			creates:    3,
			referenced: 482,
			signed:     1015,
		},
	} {
		t.Run(dump, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, want, count(t, dump))
		})
	}
}

func count(t *testing.T, dump string) census {
	t.Helper()
	text, err := os.ReadFile(devstacktest.Shared(t, "fixtures", "signing.key"))
	require.NoError(t, err)
	key, err := matrix.ParseSigningKey(string(text))
	require.NoError(t, err)
	const server = "lab.test"

	counted := census{all: map[matrix.RoomVersion]int{}, ours: map[matrix.RoomVersion]int{}, sealed: map[matrix.RoomVersion]int{}}
	references := map[string]string{} // the reference hashes, by id
	for _, e := range storedEvents(t, dump) {
		counted.all[e.Version]++
		require.True(t, e.Version.Supported(), e.ID)
		format, ok := e.Version.EventFormat()
		require.True(t, ok)
		require.Equal(t, format, e.Format, e.ID)
		id, err := matrix.EventID(e.Version, e.JSON)
		require.NoError(t, err, e.ID)
		require.Equal(t, e.ID, id)
		var said struct {
			Hashes struct {
				SHA256 string `json:"sha256"`
			} `json:"hashes"`
		}
		require.NoError(t, json.Unmarshal(e.JSON, &said))
		hash, err := matrix.ContentHash(e.Version, e.JSON)
		require.NoError(t, err, e.ID)
		require.Equal(t, said.Hashes.SHA256, hash, e.ID)
		redacted, err := matrix.Redact(e.Version, e.JSON)
		require.NoError(t, err, e.ID)
		id, err = matrix.EventID(e.Version, redacted)
		require.NoError(t, err, e.ID)
		require.Equal(t, e.ID, id, "a redacted event keeps its id")
		references[e.ID], err = matrix.ReferenceHash(e.Version, e.JSON)
		require.NoError(t, err, e.ID)

		from, ok := matrix.ServerOf(e.Sender)
		require.True(t, ok, e.ID)
		err = matrix.VerifySignature(e.Version, e.JSON, from, key.ID(), key.Public())
		if from != server {
			require.ErrorIs(t, err, matrix.ErrSignature, e.ID)
			continue
		}
		signed := strings.Contains(string(e.JSON), key.ID())
		if signed {
			require.NoError(t, err, e.ID)
			require.NoError(t, matrix.VerifySignature(e.Version, redacted, server, key.ID(), key.Public()), e.ID)
			counted.signed++
		}
		counted.ours[e.Version]++

		event, want, ok := unsealed(t, e)
		if !ok {
			continue
		}
		for referred, hash := range event.ReferenceHashes {
			require.Equal(t, references[referred], hash, "%s refers to %s", e.ID, referred)
			counted.referenced++
		}
		if e.Version.HasReferenceHashes() {
			checkChosen(t, e, event, key)
			counted.sealed[e.Version]++
			continue
		}
		again, err := event.Seal(e.Version, server, key)
		require.NoError(t, err, e.ID)
		require.Equal(t, e.ID, again.ID)
		require.Equal(t, e.Room, again.RoomID, e.ID)
		if signed {
			require.Equal(t, string(want), string(again.JSON), e.ID)
		} else {
			require.Equal(t, without(t, want, "signatures"), without(t, again.JSON, "signatures"), e.ID)
		}
		counted.sealed[e.Version]++
		if event.RoomID == "" {
			counted.creates++
		}
	}
	return counted
}

// checkChosen: an event whose id its server has chosen is sealed again to the same
// keys and values, with another id and therefore other hashes and signatures.
func checkChosen(t *testing.T, stored storedEvent, event matrix.Event, key *matrix.SigningKey) {
	t.Helper()
	again, err := event.Seal(stored.Version, "lab.test", key)
	require.NoError(t, err)
	require.Regexp(t, `^\$[A-Za-z0-9_-]{16}:lab\.test$`, again.ID)
	chosen := []string{"event_id", "hashes", "signatures", "unsigned"}
	require.Equal(t, without(t, stored.JSON, chosen...), without(t, again.JSON, chosen...))
}

// without returns an event without some keys.
func without(t *testing.T, raw []byte, keys ...string) map[string]any {
	t.Helper()
	var event map[string]any
	require.NoError(t, json.Unmarshal(raw, &event))
	for _, key := range keys {
		delete(event, key)
	}
	return event
}

// unsealed returns what was sealed to the JSON of an event, and its canonical
// JSON without unsigned. Ok is false if it has keys that Seal does not write.
func unsealed(t *testing.T, stored storedEvent) (event matrix.Event, canonical []byte, ok bool) {
	t.Helper()
	raw := stored.JSON
	var keys map[string]json.RawMessage
	require.NoError(t, json.Unmarshal(raw, &keys))
	delete(keys, "unsigned")
	if stored.Version.HasReferenceHashes() {
		delete(keys, "event_id")
	}
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
		OriginServerTS int64          `json:"origin_server_ts"`
	}
	require.NoError(t, json.Unmarshal(raw, &fields))
	event = matrix.Event{
		Type: fields.Type, RoomID: fields.RoomID, Sender: fields.Sender, StateKey: fields.StateKey, Content: fields.Content,
		Depth: fields.Depth, OriginServerTS: fields.OriginServerTS,
	}
	var prev, auth map[string]string
	event.PrevEvents, prev, err = matrix.References(stored.Version, keys["prev_events"])
	require.NoError(t, err)
	event.AuthEvents, auth, err = matrix.References(stored.Version, keys["auth_events"])
	require.NoError(t, err)
	maps.Copy(auth, prev)
	event.ReferenceHashes = auth
	return event, canonical, true
}

// TestAuthEventsOfSynapse: of what its room's state has so far, an event names
// exactly what [matrix.AuthTypes] lists.
func TestAuthEventsOfSynapse(t *testing.T) {
	t.Parallel()
	named, absent := authEvents(t, corpus)
	require.Equal(t, map[matrix.RoomVersion]int{"9": 459, "10": 1523, "11": 1143, "12": 671}, named)
	require.Equal(t, 91, absent, "pieces of state that a room did not have yet")

	named, absent = authEvents(t, versions)
	require.Equal(t, map[matrix.RoomVersion]int{
		"1": 220, "2": 220, "3": 223, "5": 224, "6": 214, "7": 220, "8": 223, "9": 682, "10": 1747, "11": 1666, "12": 843,
	}, named)
	require.Equal(t, 203, absent, "pieces of state that a room did not have yet")
}

// authEvents checks the auth events of a database and counts them by room version. It
// also counts the pieces of state that a room did not have yet.
func authEvents(t *testing.T, dump string) (named map[matrix.RoomVersion]int, absent int) {
	t.Helper()
	type place struct {
		room string
		key  matrix.StateKey
	}
	keys := map[string]matrix.StateKey{} // what each state event is about
	said := map[place]bool{}             // the state that each room has so far
	named = map[matrix.RoomVersion]int{}
	for _, e := range storedEvents(t, dump) {
		event, _, ok := unsealed(t, e)
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
	return named, absent
}
