package shutdown_test

import (
	"encoding/json"
	"os"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/matrix"
	"lethe/internal/shutdown"
)

// roomsByVersion are the rooms that a real Synapse has made of each version.
func roomsByVersion(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(devstacktest.Shared(t, "fixtures", "versions.json"))
	require.NoError(t, err)
	var fixture struct {
		Rooms map[string]string `json:"rooms_by_version"`
	}
	require.NoError(t, json.Unmarshal(text, &fixture))
	require.Len(t, fixture.Rooms, 11)
	return fixture.Rooms
}

// TestRoomsOfSynapseOfEachVersion: in a room that Synapse has made, the leave of each
// joined and invited user has the right id, hash, signature, auth events and references.
func TestRoomsOfSynapseOfEachVersion(t *testing.T) {
	t.Parallel()
	h := restoredHouse(t, "synapse-1.160-versions.dump")
	for version, room := range roomsByVersion(t) {
		obstacle, err := h.home.home.Inspect(h.ctx, h.store, shutdown.Request{Room: room})
		require.NoError(t, err)
		require.Zero(t, obstacle, version)
		before, members := h.newest(), h.members(room)
		require.GreaterOrEqual(t, len(members), 3, version)
		require.Equal(t, stepOutcome{Removed: ids(members)}, h.remove(h.begin(room), "", members...), version)
		events := h.eventsAfter(before)
		require.Len(t, events, len(members), version)
		for _, e := range events {
			require.Equal(t, version, e.Version)
			require.JSONEq(t, `{"membership":"leave"}`, one[string](h, `SELECT json::json ->> 'content' FROM event_json WHERE event_id = $1`, e.ID))
		}
		h.whole(before)
		require.Empty(t, h.members(room), version)
	}
}

// TestInvitationsOfOldVersions: the event that turns an invitation down refers to it,
// and to the events that the invitation refers to, by their hashes.
func TestInvitationsOfOldVersions(t *testing.T) {
	t.Parallel()
	h := embeddedHouse(t, shutdown.EmbeddedOptions{})
	const room = "!away:far"
	h.invite(room, "@bob:x", "invite", 0)
	h.exec(`UPDATE rooms SET room_version = '2'`)
	h.exec(`UPDATE event_json SET json = '{"type":"m.room.member","content":{"membership":"invite"},"depth":7,"auth_events":[["$a:far",{"sha256":"H"}],["$b:far",{}]]}'`)
	newest := h.newest()
	require.Equal(t, stepOutcome{Removed: []string{"@bob:x"}}, h.remove(h.begin(room), "", h.members(room)...))
	events := h.eventsAfter(newest)
	require.Len(t, events, 1)
	var leave struct {
		ID   string          `json:"event_id"`
		Auth json.RawMessage `json:"auth_events"`
		Prev json.RawMessage `json:"prev_events"`
	}
	require.NoError(t, json.Unmarshal([]byte(events[0].JSON), &leave))
	require.Equal(t, events[0].ID, leave.ID)
	require.Len(t, h.referred(events[0], leave.Prev), 1)
	auth, hashes, err := matrix.References("2", leave.Auth)
	require.NoError(t, err)
	require.Equal(t, []string{"$a:far", "$b:far", "$invite @bob:x"}, auth)
	require.Equal(t, "H", hashes["$a:far"])
	require.NotContains(t, hashes, "$b:far")
}

// TestRoomsThatCannotHaveEvents: of a room whose state is not as it must be, the
// inspection says why nobody can leave it.
func TestRoomsThatCannotHaveEvents(t *testing.T) {
	t.Parallel()
	h := embeddedHouse(t, shutdown.EmbeddedOptions{})
	seed := uint64(0)
	for reason, spoil := range map[string]string{
		"no m.room.create event":      `DELETE FROM current_state_events WHERE room_id = $1 AND type = 'm.room.create'`,
		"no event to follow":          `DELETE FROM event_forward_extremities WHERE room_id = $1`,
		"not all of the room's state": `INSERT INTO partial_state_rooms (room_id) SELECT $1`,
	} {
		seed++
		room := h.generate(seed, -1)
		obstacle, err := h.home.home.Inspect(h.ctx, h.store, shutdown.Request{Room: room})
		require.NoError(t, err)
		require.Zero(t, obstacle, "before it is spoilt")
		h.exec(spoil, room)
		obstacle, err = h.home.home.Inspect(h.ctx, h.store, shutdown.Request{Room: room})
		require.NoError(t, err)
		require.ErrorContains(t, obstacle.Reason, reason)
		members, newest := h.members(room), h.newest()
		require.Equal(t, stepOutcome{Failed: ids(members)}, h.remove(h.begin(room), "", members...), reason)
		require.Equal(t, newest, h.newest(), reason)
	}
	obstacle, err := h.home.home.Inspect(h.ctx, h.store, shutdown.Request{Room: "!unknown:x"})
	require.NoError(t, err)
	require.Zero(t, obstacle)
}

// TestNewRoomIsInspected: what would be too large for an event of the new room is
// found before the first step, to a few bytes.
func TestNewRoomIsInspected(t *testing.T) {
	t.Parallel()
	for _, version := range []matrix.RoomVersion{"1", "6", "12"} {
		h := embeddedHouse(t, shutdown.EmbeddedOptions{DefaultRoomVersion: version})
		batch := h.begin("!old:x")
		inspect := func(name, message string) error {
			return errOf(h.home.home.Inspect(h.ctx, h.store, shutdown.Request{Room: "!old:x", NewRoomUser: "@a:x", RoomName: name, Message: message}))
		}
		require.NoError(t, inspect("N", "M"))
		require.ErrorIs(t, inspect(strings.Repeat("n", 70_000), "M"), matrix.ErrTooLarge)
		longest := sort.Search(70_000, func(n int) bool { return inspect("N", strings.Repeat("m", n)) != nil }) - 1
		room := h.create(batch, "@a:x", "N")
		message := shutdown.Message{NewRoom: room, Sender: "@a:x", Body: strings.Repeat("m", longest)}
		require.NoError(t, h.home.SendMessage(h.ctx, batch, message), version)
		message.Body += strings.Repeat("m", 200)
		require.ErrorIs(t, h.home.SendMessage(h.ctx, batch, message), matrix.ErrTooLarge, version)
	}
}
