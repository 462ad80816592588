package shutdown_test

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"lethe/internal/devstack/devstacktest"
	"lethe/internal/shutdown"
	"lethe/internal/store/journal"
	"lethe/internal/store/roomwriter"
)

// An operation is a room's shutdown as Synapse did it.
type operation struct {
	Room string `json:"room"`
	ID   string `json:"room_id"`
	Op   string `json:"op"`
	Body struct {
		Block   bool   `json:"block"`
		Purge   bool   `json:"purge"`
		NewUser string `json:"new_room_user_id"`
		Name    string `json:"room_name"`
		Message string `json:"message"`
	} `json:"body"`
	Final struct {
		Result struct {
			Kicked  []string `json:"kicked_users"`
			Failed  []string `json:"failed_to_kick_users"`
			Aliases []string `json:"local_aliases"`
			NewRoom string   `json:"new_room_id"`
		} `json:"shutdown_room"`
	} `json:"final"`
}

func shutdowns(t *testing.T) map[string]operation {
	t.Helper()
	text, err := os.ReadFile(devstacktest.Shared(t, "fixtures", "operations.json"))
	require.NoError(t, err)
	var operations []operation
	require.NoError(t, json.Unmarshal(text, &operations))
	byName := map[string]operation{}
	for _, o := range operations {
		if o.Op == "delete" {
			byName[o.Room] = o
		}
	}
	require.Len(t, byName, 4)
	return byName
}

// shutDown does what Synapse did, users in the same order, and returns the new
// room's id.
func (h *house) shutDown(o operation) string {
	h.t.Helper()
	batch := h.begin(o.ID)
	if o.Body.Block {
		require.NoError(h.t, h.home.Block(h.ctx, batch, "@admin:lab.test"))
	}
	var newRoom string
	if o.Body.NewUser != "" {
		newRoom = h.create(batch, o.Body.NewUser, o.Body.Name)
	}
	members := h.members(o.ID)
	slices.SortFunc(members, func(a, b roomwriter.LocalMember) int {
		return slices.Index(o.Final.Result.Kicked, a.UserID) - slices.Index(o.Final.Result.Kicked, b.UserID)
	})
	outcome := h.remove(batch, newRoom, members...)
	require.Equal(h.t, o.Final.Result.Kicked, outcome.Removed)
	require.Empty(h.t, outcome.Failed)
	if newRoom != "" {
		require.NoError(h.t, h.home.SendMessage(h.ctx, batch, shutdown.Message{
			JobID: batch.Run.JobID, NewRoom: newRoom, Sender: o.Body.NewUser, Body: o.Body.Message,
		}))
		outcome, err := h.home.MoveAliases(h.ctx, batch, shutdown.AliasMove{
			NewRoom: newRoom, Owner: o.Body.NewUser, Requester: "@admin:lab.test",
		})
		require.NoError(h.t, err)
		require.Equal(h.t, o.Final.Result.Aliases, outcome.Aliases)
	}
	require.NoError(h.t, journal.New(h.store).EndJob(h.ctx, batch.Run, journal.Complete, ""))
	return newRoom
}

func TestShutdownsAreAsSynapseDidThem(t *testing.T) {
	t.Parallel()
	ours := corpusHouse(t)
	theirs := houseOn(t, devstacktest.Restored(t, devstacktest.Shared(t, "fixtures", "synapse-1.160-after.dump")), "lab.test",
		shutdown.EmbeddedOptions{})
	before := ours.newest()
	operations := shutdowns(t)
	var lobby string
	for _, name := range []string{"ops", "lobby", "secrets", "tiny"} {
		if room := ours.shutDown(operations[name]); room != "" {
			lobby = room
		}
	}
	ours.whole(before)

	// The room that Synapse kept, in every table that an event touches.
	secrets := operations["secrets"].ID
	gotKept, wantKept := ours.rowsOf(secrets, before), theirs.rowsOf(secrets, before)
	for table := range wantKept {
		if diff := cmp.Diff(wantKept[table], gotKept[table]); diff != "" {
			t.Errorf("%s of the kept room (-Synapse +Lethe):\n%s", table, diff)
		}
	}
	require.NotEmpty(t, wantKept["events"])

	// The room that replaces another. Synapse makes its state groups and the
	// stream of its changes in batches.
	theirLobby := operations["lobby"].Final.Result.NewRoom
	gotNew, wantNew := ours.rowsOf(lobby, before), theirs.rowsOf(theirLobby, before)
	for _, table := range []string{"state_groups", "state_group_edges", "state_groups_state", "stream_ordering_to_exterm", "event_auth_chains", "event_auth_chain_links"} {
		delete(wantNew, table)
	}
	for table := range wantNew {
		if diff := cmp.Diff(wantNew[table], gotNew[table]); diff != "" {
			t.Errorf("%s of the new room (-Synapse +Lethe):\n%s", table, diff)
		}
	}
	require.NotEmpty(t, wantNew["events"])
	require.Equal(t, theirs.chains(theirLobby), ours.chains(lobby))
	require.Equal(t, theirs.users(), ours.users())
	require.Equal(t,
		all[string](theirs, `SELECT room_alias || ' ' || creator FROM room_aliases WHERE room_id = $1`, theirLobby),
		all[string](ours, `SELECT room_alias || ' ' || creator FROM room_aliases WHERE room_id = $1`, lobby))
	require.Equal(t, all[string](theirs, `SELECT room_id || ' ' || user_id FROM blocked_rooms ORDER BY 1`),
		all[string](ours, `SELECT room_id || ' ' || user_id FROM blocked_rooms ORDER BY 1`))

	// What a Synapse that starts now begins with.
	require.Equal(t, ours.newest(), one[int64](ours, `SELECT stream_id FROM stream_positions WHERE stream_name = 'events'`))
	require.Equal(t, ours.newest(), one[int64](ours, `SELECT last_value FROM events_stream_seq`))
}

// chains are a room's auth chains and the links between them, by depth.
func (h *house) chains(room string) []string {
	h.t.Helper()
	return all[string](h, `
		WITH at AS (SELECT depth, chain_id, sequence_number FROM event_auth_chains JOIN events USING (event_id) WHERE room_id = $1)
		SELECT 'chain ' || string_agg(depth::text, ' ' ORDER BY sequence_number) FROM at GROUP BY chain_id
		UNION ALL
		SELECT concat_ws(' ', 'link', o.depth, t.depth)
		FROM event_auth_chain_links l
		JOIN at o ON o.chain_id = l.origin_chain_id AND o.sequence_number = l.origin_sequence_number
		JOIN at t ON t.chain_id = l.target_chain_id AND t.sequence_number = l.target_sequence_number
		ORDER BY 1`, room)
}

// users are the counts of rooms that users are in.
func (h *house) users() []string {
	h.t.Helper()
	return all[string](h, `SELECT user_id || ' ' || joined_rooms FROM user_stats_current ORDER BY 1`)
}

// tablesOfRooms are the tables that events touch, with the condition by which a
// row t belongs to room $1.
var tablesOfRooms = map[string]string{
	"current_state_delta_stream":               `room_id = $1 AND stream_id > $2`,
	"current_state_events":                     `room_id = $1`,
	"event_auth":                               `event_id IN (` + newEvents + `)`,
	"event_auth_chain_links":                   `(origin_chain_id, origin_sequence_number) IN (SELECT chain_id, sequence_number FROM event_auth_chains WHERE event_id IN (` + newEvents + `))`,
	"event_auth_chain_to_calculate":            `room_id = $1`,
	"event_auth_chains":                        `event_id IN (` + newEvents + `)`,
	"event_backward_extremities":               `room_id = $1`,
	"event_edges":                              `event_id IN (` + newEvents + `)`,
	"event_forward_extremities":                `room_id = $1`,
	"event_json":                               `event_id IN (` + newEvents + `)`,
	"event_relations":                          `event_id IN (` + newEvents + `)`,
	"event_search":                             `event_id IN (` + newEvents + `)`,
	"event_to_state_groups":                    `event_id IN (` + newEvents + `)`,
	"events":                                   `event_id IN (` + newEvents + `)`,
	"local_current_membership":                 `room_id = $1`,
	"room_depth":                               `room_id = $1`,
	"room_memberships":                         `room_id = $1`,
	"room_retention":                           `room_id = $1`,
	"room_stats_current":                       `room_id = $1`,
	"room_stats_state":                         `room_id = $1`,
	"rooms":                                    `room_id = $1`,
	"sliding_sync_joined_rooms":                `room_id = $1`,
	"sliding_sync_joined_rooms_to_recalculate": `room_id = $1`,
	"sliding_sync_membership_snapshots":        `room_id = $1`,
	"state_events":                             `room_id = $1`,
	"state_group_edges":                        `state_group IN (SELECT id FROM state_groups WHERE room_id = $1)`,
	"state_groups":                             `room_id = $1`,
	"state_groups_state":                       `room_id = $1`,
	"stream_ordering_to_exterm":                `room_id = $1 AND stream_ordering > $2`,
}

const newEvents = `SELECT event_id FROM events WHERE room_id = $1 AND stream_ordering > $2`

// rowsOf returns a room's rows, by table, without what cannot be the same in two
// databases: ids of the room's events after the given place in the stream are
// replaced by their depth, their places and groups too, and times are left out.
func (h *house) rowsOf(room string, after int64) map[string][]string {
	h.t.Helper()
	names := []string{room, "<room>"}
	streams, groups := map[float64]string{}, map[float64]string{}
	for _, e := range h.eventsAfter(after) {
		if e.Room == room {
			name := fmt.Sprintf("<depth %d>", e.Depth)
			names = append(names, e.ID, name)
			streams[float64(e.Stream)] = name
		}
	}
	for _, row := range all[[]float64](h, `
		SELECT ARRAY[g.state_group::float8, e.depth::float8]
		FROM events e JOIN event_to_state_groups g USING (event_id) WHERE e.event_id IN (`+newEvents+`) AND e.state_key IS NOT NULL`, room, after) {
		groups[row[0]] = fmt.Sprintf("<depth %v>", row[1])
	}
	rename := strings.NewReplacer(names...)
	rows := map[string][]string{}
	for table, condition := range tablesOfRooms {
		if !strings.Contains(condition, "$2") {
			condition += ` AND $2::bigint IS NOT NULL`
		}
		if !strings.Contains(condition, "$1") {
			condition += ` AND $1::text IS NOT NULL`
		}
		rows[table] = []string{}
		for _, text := range all[string](h, `SELECT to_jsonb(t)::text FROM `+table+` t WHERE `+condition, room, after) {
			var row map[string]any
			require.NoError(h.t, json.Unmarshal([]byte(text), &row))
			for column, value := range row {
				switch number, _ := value.(float64); column {
				case "origin_server_ts", "received_ts":
					delete(row, column)
				case "stream_ordering", "event_stream_ordering", "stream_id", "completed_delta_stream_id", "bump_stamp":
					if name := streams[number]; name != "" {
						row[column] = name
					}
					if table == "current_state_delta_stream" && row["event_id"] != nil {
						delete(row, column) // Synapse gives a batch of them one number
					}
				case "state_group", "prev_state_group", "id":
					if name := groups[number]; name != "" {
						row[column] = name
					}
				case "json":
					row[column] = comparable(h.t, rename.Replace(value.(string)))
				}
			}
			encoded, err := json.Marshal(row)
			require.NoError(h.t, err)
			rows[table] = append(rows[table], rename.Replace(string(encoded)))
		}
		slices.Sort(rows[table])
	}
	return rows
}

// comparable is an event without what differs with its ids and times.
func comparable(t tester, text string) any {
	t.Helper()
	var event map[string]any
	require.NoError(t, json.Unmarshal([]byte(text), &event))
	for _, key := range []string{"hashes", "signatures", "origin_server_ts"} {
		require.Contains(t, event, key)
		delete(event, key)
	}
	require.Contains(t, event["unsigned"], "age_ts")
	delete(event["unsigned"].(map[string]any), "age_ts")
	for _, key := range []string{"auth_events", "prev_events"} {
		// Their order means nothing.
		slices.SortFunc(event[key].([]any), func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
	}
	return event
}

func TestTablesThatOlderVersionsLack(t *testing.T) {
	t.Parallel()
	h := corpusHouse(t)
	for _, table := range []string{
		"event_auth_chain_links", "partial_state_events", "partial_state_rooms_servers", "partial_state_rooms", "profiles",
		"sliding_sync_joined_rooms", "sliding_sync_joined_rooms_to_recalculate", "sliding_sync_membership_snapshots",
		"state_groups_pending_deletion", "stream_ordering_to_exterm", "stream_positions", "user_stats_current",
	} {
		h.exec(`DROP TABLE ` + table)
	}
	h.exec(`ALTER TABLE room_memberships DROP COLUMN participant`)
	before := h.newest()
	room := h.shutDown(shutdowns(t)["lobby"])
	require.Len(t, h.eventsAfter(before), 14)
	require.Len(t, h.members(room), 4)
	require.Equal(t, []string{"false"}, all[string](h, `SELECT has_auth_chain_index::text FROM rooms WHERE room_id = $1`, room))
	require.Empty(t, all[string](h, `SELECT display_name FROM room_memberships WHERE room_id = $1 AND display_name IS NOT NULL`, room))
}

func TestEventsPassForThoseOfAProcessThatSynapseKnows(t *testing.T) {
	t.Parallel()
	for writers, want := range map[string]string{"master": "master", "worker2 worker1": "worker1", "": "master"} {
		h := corpusHouse(t)
		h.exec(`DELETE FROM stream_positions WHERE stream_name = 'events'`)
		for _, writer := range strings.Fields(writers) {
			h.exec(`INSERT INTO stream_positions VALUES ('events', $1, 5)`, writer)
		}
		before := h.newest()
		h.shutDown(shutdowns(t)["tiny"])
		require.Equal(t, []string{want}, all[string](h, `SELECT DISTINCT instance_name FROM events WHERE stream_ordering > $1`, before))
		require.Equal(t, []string{want}, all[string](h, `
			SELECT DISTINCT instance_name FROM current_state_delta_stream WHERE stream_id > $1`, before))
		for _, writer := range strings.Fields(writers) {
			at := one[int64](h, `SELECT stream_id FROM stream_positions WHERE stream_name = 'events' AND instance_name = $1`, writer)
			require.Equal(t, map[bool]int64{true: h.newest(), false: 5}[writer == want], at)
		}
	}
}

func TestHostileStateIsShownAsFarAsItCanBe(t *testing.T) {
	t.Parallel()
	h := corpusHouse(t)
	const room = "!hKLkfkSsmEZAGMWCxD:lab.test"
	for _, name := range []string{`nonsense`, `{"content":{"name":7}}`, `{"content":{"name":"a\u0000b"}}`, `{"content":[]}`} {
		h.exec(`UPDATE event_json SET json = $2 WHERE event_id IN (
			SELECT event_id FROM current_state_events WHERE room_id = $1 AND type IN ('m.room.name', 'm.room.encryption'))`, room, name)
		batch := h.begin(room)
		member := h.members(room)[0]
		before := h.newest()
		require.Empty(t, h.remove(batch, "", member).Failed)
		require.Equal(t, []string{"leave no name false"}, all[string](h, `
			SELECT concat_ws(' ', membership, coalesce(room_name, 'no name'), is_encrypted::text)
			FROM sliding_sync_membership_snapshots WHERE room_id = $1 AND user_id = $2`, room, member.UserID))
		require.Len(t, h.eventsAfter(before), 1)
		require.NoError(t, journal.New(h.store).EndJob(h.ctx, batch.Run, journal.Complete, ""))
	}
}
